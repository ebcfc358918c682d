"""A store's arrays as one Zarr v3 group: a block is a shard, written whole by one writer. The owner of zarr.

Chunks are zstd level 1 with zstd's own checksum (3 times smaller on ReLU features, and a flipped bit is an error);
the fill value is NaN, so that a missing piece can never be taken for a feature.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import ZstdCodec

from posenet_store.blocks import chunk_rows
from posenet_store.errors import StoreError
from posenet_store.files import fsync
from posenet_store.specs import StoreSpec

GROUP = "data.zarr"
IDS = "image_id"


def create(folder: Path, spec: StoreSpec, ids: Sequence[str]) -> None:
    """Create the group with empty arrays for `spec`, and the row names."""
    group = zarr.create_group(folder / GROUP, zarr_format=3)
    item = np.dtype(spec.dtype).itemsize
    modules = {tap.name: tap.module for tap in spec.taps}
    for name, shape in spec.arrays.items():
        group.create_array(
            name,
            shape=(spec.rows, *shape),
            dtype=spec.dtype,
            chunks=(chunk_rows(spec.block_rows, item * int(np.prod(shape))), *shape),
            shards=(spec.block_rows, *shape),
            compressors=(ZstdCodec(level=1, checksum=True),),
            fill_value=float("nan"),
            dimension_names=("image", *(f"{axis}_{name}" for axis in ("channel", "y", "x"))),
            attributes={"module": modules.get(name, "all taps, trilinear to [3, 28, 28] each")},
        )
    names = np.array(ids, dtype=np.dtypes.StringDType())
    group.create_array(IDS, data=names, dimension_names=("image",))
    for path in (folder / GROUP).rglob("*"):
        fsync(path)


def block_files(folder: Path, name: str, block: int) -> list[Path]:
    """Return the files that hold one block of one array."""
    return [folder / GROUP / name / "c" / str(block) / "0" / "0" / "0"]


def write_block(folder: Path, name: str, start: int, values: NDArray[Any]) -> None:
    """Write the rows of one block, from `start`; the caller has removed any earlier try."""
    array = zarr.open_array(folder / GROUP / name, mode="r+", zarr_format=3)
    with zarr.config.set({"array.write_empty_chunks": True}):
        array[start : start + len(values)] = values


class Arrays:
    """Open arrays of a store, for reading; zarr verifies each chunk's checksum as it decodes."""

    def __init__(self, folder: Path, spec: StoreSpec) -> None:
        group = zarr.open_group(folder / GROUP, mode="r", zarr_format=3)
        self._arrays: Mapping[str, Any] = {name: group[name] for name in spec.arrays}
        for name, shape in spec.arrays.items():
            if self._arrays[name].shape != (spec.rows, *shape):
                raise StoreError(f"{folder / GROUP / name} has shape {self._arrays[name].shape}; plan.json says otherwise")

    def read(self, name: str, start: int, stop: int) -> NDArray[Any]:
        """Return rows [start, stop) of one array."""
        return np.asarray(self._arrays[name][start:stop])
