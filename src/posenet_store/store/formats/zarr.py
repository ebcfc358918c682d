"""A store's arrays as one Zarr v3 group: a block is a shard of each array. The owner of zarr.

Chunks are zstd level 1 with zstd's own checksum (3 times smaller on ReLU features, and a flipped bit is an error);
the fill value is NaN, so that a missing piece can never be taken for a feature. zarr writes the group and its metadata;
the shards are ours (see `shards`), each put in its place in one step by the store's writer, so two writers of one block do
no harm and a torn shard never stands in the way.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import ZstdCodec

from posenet_store.errors import StoreError
from posenet_store.files import fsync
from posenet_store.specs import StoreSpec
from posenet_store.store.access import Files, read_store_json
from posenet_store.store.chunking import choose_chunk_rows, compute_block_bounds, count_row_bytes, overlapping
from posenet_store.store.formats import zarr_shards as shards
from posenet_store.store.records import EncodedFiles

GROUP = "data.zarr"
IDS = "image_id"


def _properties(spec: StoreSpec, name: str) -> dict[str, Any]:
    shape = spec.arrays[name]
    modules = {tap.name: tap.module for tap in spec.taps}
    return {
        "shape": (spec.rows, *shape),
        "dtype": spec.dtype,
        "chunks": (choose_chunk_rows(spec.block_rows, count_row_bytes(spec, [name])), *shape),
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
        group.create_array(name, **_properties(spec, name))
    names = np.array(ids, dtype=np.dtypes.StringDType())
    group.create_array(IDS, data=names, chunks=(len(names),), dimension_names=("image",))
    for path in (folder / GROUP, *(folder / GROUP).rglob("*")):
        fsync(path)


def count_other_files(spec: StoreSpec) -> int:
    """Return how many files `create` makes: metadata of the group and of each array, and the row names."""
    return 1 + len(spec.arrays) + 2


def _shard(name: str, block: int) -> str:
    return f"{GROUP}/{name}/c.{block}.0.0.0"


def list_block_files(spec: StoreSpec, block: int) -> list[str]:
    """Return the shards that hold one block."""
    return [_shard(name, block) for name in spec.arrays]


def encode_block(spec: StoreSpec, block: int, arrays: Mapping[str, NDArray[Any]], ids: Sequence[str]) -> EncodedFiles:
    """Compress one block of all arrays, chunks on all processors; the row names are in the group already."""
    rows = {name: choose_chunk_rows(spec.block_rows, count_row_bytes(spec, [name])) for name in arrays}
    return {
        _shard(name, block): [*shards.encode(values, rows[name], spec.block_rows // rows[name])]
        for name, values in arrays.items()
    }


class _Arrays:
    def __init__(self, files: Files, spec: StoreSpec) -> None:
        self._files, self._spec = files, spec
        self._bounds = compute_block_bounds(spec.rows, spec.block_rows)
        self._chunks = {name: _chunk_rows_of(files, spec, name) for name in spec.arrays}

    def list_files(self, name: str, block: int) -> list[str]:
        """Return the files that rows of one array in a block are read from."""
        return [_shard(name, block)]

    def read(self, name: str, start: int, out: NDArray[Any]) -> None:
        """Decode rows [start, start + len(out)) of one array into `out`."""
        chunk, stop = self._chunks[name], start + len(out)
        for block in overlapping(self._bounds, start, stop):
            first, end = self._bounds[block]
            low, high = max(first, start), min(end, stop)
            with self._files.open(_shard(name, block)) as file:
                index = shards.read_index(file, self._spec.block_rows // chunk)
                shards.decode(file, index, chunk, low - first, out[low - start : high - start])


def _chunk_rows_of(files: Files, spec: StoreSpec, name: str) -> int:
    """Return the rows of an inner chunk; raises StoreError if the array's metadata is not what version 1 says."""
    place = f"{GROUP}/{name}/zarr.json"
    found = read_store_json(files, place)
    try:
        (sharding,) = found["codecs"]
        inner = sharding["configuration"]
        rows = int(inner["chunk_shape"][0])
        described = (
            *(found["shape"], found["data_type"], found["chunk_grid"]["configuration"]["chunk_shape"], inner["index_location"]),
            *([codec["name"] for codec in inner[key]] for key in ("codecs", "index_codecs")),
        )
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise StoreError(f"{files}/{place} is not the metadata of a sharded array ({error})") from None
    shape = spec.arrays[name]
    expected = (
        *([spec.rows, *shape], spec.dtype, [spec.block_rows, *shape], "end"),
        *(["bytes", "zstd"], ["bytes", "crc32c"]),
    )
    if described != expected or spec.block_rows % rows:
        raise StoreError(f"{files}/{place} describes {described}; plan.json says {expected}")
    return rows


def open_arrays(files: Files, spec: StoreSpec) -> _Arrays:
    """Open the group; raises StoreError if its metadata is not the plan's."""
    return _Arrays(files, spec)


def finish(folder: Path, spec: StoreSpec) -> None:
    """Nothing is added: the group opens as one Dataset as it is."""
