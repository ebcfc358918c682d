"""A store's arrays as one Zarr v3 group: a block is a shard of each array. The owner of zarr.

Chunks are zstd level 1 with zstd's own checksum (3 times smaller on ReLU features, and a flipped bit is an error).
The fill value is NaN, so that a missing chunk is never taken for features. zarr writes the group and its metadata;
`zarr_shards` encodes the shards, and the store's writer replaces each in one step, so that two writers of the same block
do no harm and no shard is ever incomplete.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posenet_store.errors import StoreError
from posenet_store.files import fsync
from posenet_store.specs import StoreSpec, name_axes
from posenet_store.store.access import EncodedFiles, Files, read_store_json
from posenet_store.store.chunking import choose_chunk_rows, count_row_bytes, list_chunks
from posenet_store.store.fields import is_positive
from posenet_store.store.formats import Arrays
from posenet_store.store.formats import zarr_shards as shards
from posenet_store.threads import stream_on_threads

GROUP = "data.zarr"
IDS = "image_id"


def _properties(spec: StoreSpec, name: str) -> dict[str, Any]:
    from zarr.codecs import ZstdCodec

    shape = spec.arrays[name]
    return {
        "shape": (spec.rows, *shape),
        "dtype": spec.dtype,
        "chunks": (choose_chunk_rows(spec.block_rows, count_row_bytes(spec, [name])), *shape),
        "shards": (spec.block_rows, *shape),
        "compressors": (ZstdCodec(level=1, checksum=True),),
        "fill_value": float("nan"),
        # one flat folder per array: with the default "/" each shard would need three more folders
        "chunk_key_encoding": {"name": "default", "separator": "."},
        "dimension_names": ("image", *(f"{axis}_{name}" for axis in name_axes(name))),
        "attributes": {"module": spec.modules.get(name, "all taps, trilinear to [3, 28, 28] each")},
        "config": {"write_empty_chunks": True},
    }


def create(folder: Path, spec: StoreSpec, ids: Sequence[str]) -> None:
    """Create the group with the row names and an empty array for each of `spec`."""
    import zarr  # only here: reading takes a third of a second less without it

    group = zarr.create_group(folder / GROUP, zarr_format=3)
    for name in spec.arrays:
        group.create_array(name, **_properties(spec, name))
    names = np.array(ids, dtype=np.dtypes.StringDType())
    group.create_array(IDS, data=names, chunks=(len(names),), dimension_names=("image",))
    for path in (folder / GROUP, *(folder / GROUP).rglob("*")):
        fsync(path)


def count_other_files(spec: StoreSpec) -> int:
    """Return the number of files of `create`: metadata of the group and of each array, and the row names."""
    return 1 + len(spec.arrays) + 2


def name_file(array: str, block: int) -> str:
    """Return the shard that holds a block of an array."""
    return f"{GROUP}/{array}/c.{block}{'.0' * len(name_axes(array))}"


def encode_block(
    spec: StoreSpec, block: int, arrays: Mapping[str, NDArray[Any]], ids: Sequence[str], pool: Executor | None = None
) -> EncodedFiles:
    """Encode a block of all arrays as one shard each, on all CPU cores; `create` has written the row names."""
    rows = {name: choose_chunk_rows(spec.block_rows, count_row_bytes(spec, [name])) for name in arrays}
    chunks: dict[str, list[bytes]] = {name: [] for name in arrays}
    chunk_list = list_chunks(arrays, rows)
    encoded = stream_on_threads(
        lambda chunk: shards.compress(arrays[chunk[0]], chunk[1], rows[chunk[0]]), chunk_list, pool=pool
    )
    for (name, _), chunk in zip(chunk_list, encoded, strict=True):
        chunks[name].append(chunk)
    return {name_file(name, block): [*shards.join(chunks[name], spec.block_rows // rows[name])] for name in arrays}


class _ShardArrays(Arrays):
    def __init__(self, files: Files, spec: StoreSpec) -> None:
        super().__init__(files, spec)
        self._chunk_rows = {name: _read_chunk_rows(files, spec, name) for name in spec.arrays}

    def _read_block(self, name: str, block: int, start: int, out: NDArray[Any]) -> None:
        rows = self._chunk_rows[name]
        with self._files.open(name_file(name, block)) as file:
            shards.decode(file, shards.read_index(file, self._spec.block_rows // rows), rows, start, out)


def _read_chunk_rows(files: Files, spec: StoreSpec, name: str) -> int:
    """Return the rows of an inner chunk; raises StoreError if the array's metadata does not match `spec`."""
    path = f"{GROUP}/{name}/zarr.json"
    metadata = read_store_json(files, path)
    try:
        (sharding,) = metadata["codecs"]
        inner = sharding["configuration"]
        rows, *chunk_shape = inner["chunk_shape"]
        described = {
            "shape": metadata["shape"],
            "data_type": metadata["data_type"],
            "chunks": (metadata["chunk_grid"]["name"], metadata["chunk_grid"]["configuration"]["chunk_shape"]),
            "chunk_key_encoding": metadata["chunk_key_encoding"],
            "storage_transformers": metadata.get("storage_transformers", []),
            "codecs": (sharding["name"], *map(_name_codec, inner["codecs"])),
            "inner chunks": chunk_shape,
            "index": (inner["index_location"], *map(_name_codec, inner["index_codecs"])),
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StoreError(f"{files}/{path} is not the metadata of a sharded array ({error})") from None
    expected = _describe_array(spec, name)
    if differing := next((key for key in expected if described[key] != expected[key]), None):
        came, accepted = described[differing], expected[differing]
        raise StoreError(f"{files}/{path} says {differing} = {came!r:.200}; plan.json says {accepted}")
    if not is_positive(rows) or spec.block_rows % rows:
        raise StoreError(f"{files}/{path} has chunks of {rows!r:.40} rows, which do not divide blocks of {spec.block_rows}")
    return int(rows)


def _name_codec(codec: dict[str, Any]) -> tuple[Any, Any]:
    """Return a codec's name, and the order of bytes where it has one."""
    return codec["name"], codec.get("configuration", {}).get("endian")


def _describe_array(spec: StoreSpec, name: str) -> dict[str, Any]:
    """Return what an array's metadata must say, as far as it decides how bytes become values."""
    shape, little = [*spec.arrays[name]], ("bytes", "little")
    return {
        "shape": [spec.rows, *shape],
        "data_type": spec.dtype,
        "chunks": ("regular", [spec.block_rows, *shape]),
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "storage_transformers": [],
        "codecs": ("sharding_indexed", little, ("zstd", None)),
        "inner chunks": shape,
        "index": ("end", little, ("crc32c", None)),
    }


def open_arrays(files: Files, spec: StoreSpec) -> Arrays:
    """Open the group's arrays; raises StoreError if their metadata does not match `spec`."""
    return _ShardArrays(files, spec)


def finish(folder: Path, spec: StoreSpec) -> None:
    """Do nothing: xarray opens the group as one Dataset already."""
