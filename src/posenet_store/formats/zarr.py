"""A store's arrays as one Zarr v3 group: a block is a shard of each array. The owner of zarr.

Chunks are zstd level 1 with zstd's own checksum (3 times smaller on ReLU features, and a flipped bit is an error);
the fill value is NaN, so that a missing piece can never be taken for a feature. A shard is encoded in memory and then
put in its place in one step, so two writers of one block do no harm and a torn shard never stands in the way.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import ZstdCodec
from zarr.storage import MemoryStore

from posenet_store.blocks import chunk_rows, row_bytes
from posenet_store.errors import StoreError
from posenet_store.files import fsync, write_atomic
from posenet_store.specs import StoreSpec

GROUP = "data.zarr"
IDS = "image_id"


def _properties(spec: StoreSpec, name: str, rows: int) -> dict[str, Any]:
    """What makes an array of `rows` rows; a shard is the same bytes in an array of its own rows as in the whole one."""
    shape = spec.arrays[name]
    modules = {tap.name: tap.module for tap in spec.taps}
    return {
        "shape": (rows, *shape),
        "dtype": spec.dtype,
        "chunks": (chunk_rows(spec.block_rows, row_bytes(spec, [name])), *shape),
        "shards": (spec.block_rows, *shape),
        "compressors": (ZstdCodec(level=1, checksum=True),),
        "fill_value": float("nan"),
        # One flat folder an array: with the default "/" each shard would cost three folders more.
        "chunk_key_encoding": {"name": "default", "separator": "."},
        "dimension_names": ("image", *(f"{axis}_{name}" for axis in ("channel", "y", "x"))),
        "attributes": {"module": modules.get(name, "all taps, trilinear to [3, 28, 28] each")},
        "config": {"write_empty_chunks": True},
    }


def create(folder: Path, spec: StoreSpec, ids: Sequence[str]) -> None:
    """Create the group with empty arrays for `spec`, and the row names."""
    group = zarr.create_group(folder / GROUP, zarr_format=3)
    for name in spec.arrays:
        group.create_array(name, **_properties(spec, name, spec.rows))
    names = np.array(ids, dtype=np.dtypes.StringDType())
    group.create_array(IDS, data=names, chunks=(len(names),), dimension_names=("image",))
    for path in (folder / GROUP, *(folder / GROUP).rglob("*")):
        fsync(path)


def files_beside_blocks(spec: StoreSpec) -> int:
    """Return how many files `create` makes: metadata of the group and of each array, and the row names."""
    return 1 + len(spec.arrays) + 2


def _shard(folder: Path, name: str, block: int) -> Path:
    return folder / GROUP / name / f"c.{block}.0.0.0"


def block_files(folder: Path, spec: StoreSpec, block: int) -> list[Path]:
    """Return the shards that hold one block."""
    return [_shard(folder, name, block) for name in spec.arrays]


def _encoded(spec: StoreSpec, name: str, values: NDArray[Any]) -> bytes:
    memory: dict[str, Any] = {}
    array = zarr.create_array(MemoryStore(memory), **_properties(spec, name, len(values)))
    array[...] = values
    return bytes(memory["c.0.0.0.0"].to_bytes())


def write_block(folder: Path, spec: StoreSpec, block: int, arrays: Mapping[str, NDArray[Any]], ids: Sequence[str]) -> None:
    """Write one block of all arrays, each shard in one step; the row names are in the group already."""
    for name, values in arrays.items():
        write_atomic(_shard(folder, name, block), _encoded(spec, name, values))


class _Arrays:
    def __init__(self, folder: Path, spec: StoreSpec) -> None:
        group = zarr.open_group(folder / GROUP, mode="r", zarr_format=3)
        self._arrays: Mapping[str, Any] = {name: group[name] for name in spec.arrays}
        for name, shape in spec.arrays.items():
            found = self._arrays[name].shape
            if found != (spec.rows, *shape):
                raise StoreError(f"{folder / GROUP / name} has shape {found}; plan.json says {(spec.rows, *shape)}")

    def read(self, name: str, start: int, stop: int) -> NDArray[Any]:
        """Return rows [start, stop) of one array."""
        return np.asarray(self._arrays[name][start:stop])


def open_arrays(folder: Path, spec: StoreSpec) -> _Arrays:
    """Open the group; raises StoreError if its shapes are not the plan's."""
    return _Arrays(folder, spec)
