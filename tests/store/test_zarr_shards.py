"""Our shards are Zarr's: the same bytes as zarr writes, and what zarr and tensorstore read."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorstore
import zarr
from numpy.typing import NDArray
from zarr.codecs import ZstdCodec
from zarr.storage import MemoryStore

from posenet_store.images.sources import load_image_set
from posenet_store.store.formats import zarr_shards as shards
from tests.support.small import built_store, tiny_backbone, write_images

SHAPE, CHUNK, CHUNKS = (3, 5, 7), 2, 4  # a shard of eight rows
ROWS = (8, 7, 6, 1)  # full, a partial chunk at the end, an absent chunk, a single row


def features(rows: int, dtype: str) -> NDArray[Any]:
    return np.maximum(np.random.default_rng(rows).normal(size=(rows, *SHAPE)), 0).astype(dtype)


def ours(values: NDArray[Any]) -> bytes:
    return b"".join(shards.join([shards.compress(values, start, CHUNK) for start in range(0, len(values), CHUNK)], CHUNKS))


def zarrs(values: NDArray[Any]) -> bytes:
    memory: dict[str, Any] = {}
    array = zarr.create_array(
        MemoryStore(memory),
        shape=values.shape,
        dtype=values.dtype,
        chunks=(CHUNK, *SHAPE),
        shards=(CHUNK * CHUNKS, *SHAPE),
        compressors=(ZstdCodec(level=1, checksum=True),),
        fill_value=float("nan"),
        config={"write_empty_chunks": True},
    )
    array[...] = values
    return bytes(memory["c/0/0/0/0"].to_bytes())


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("rows", ROWS)
def test_a_shard_is_what_zarr_writes_to_the_byte(rows: int, dtype: str) -> None:
    values = features(rows, dtype)
    assert ours(values) == zarrs(values)


@pytest.mark.parametrize("rows", ROWS)
def test_any_rows_are_decoded(rows: int) -> None:
    values = features(rows, "float16")
    file = io.BytesIO(ours(values))
    index = shards.read_index(file, CHUNKS)
    for start in range(rows):
        for stop in range(start + 1, rows + 1):
            out = np.empty((stop - start, *SHAPE), "float16")
            shards.decode(file, index, CHUNK, start, out)
            np.testing.assert_array_equal(out, values[start:stop])


def test_an_absent_chunk_is_an_error_not_a_fill_value() -> None:
    file = io.BytesIO(ours(features(5, "float16")))
    with pytest.raises(ValueError, match="absent"):
        shards.decode(file, shards.read_index(file, CHUNKS), CHUNK, 4, np.empty((4, *SHAPE), "float16"))


def test_every_flipped_byte_of_a_shard_is_an_error() -> None:
    """Each byte in turn, index and data: no byte of a shard goes unchecked."""
    values = features(4, "float16")
    content, harmless = ours(values), 0
    for offset in range(len(content)):
        file = io.BytesIO(content[:offset] + bytes([content[offset] ^ 1]) + content[offset + 1 :])
        out = np.empty_like(values)
        try:
            shards.decode(file, shards.read_index(file, CHUNKS), CHUNK, 0, out)
        except (ValueError, RuntimeError):
            continue
        np.testing.assert_array_equal(out, values)
        harmless += 1
    assert harmless <= 2 * 2  # bits of the header of each zstd frame that decoding does not use


def test_a_shard_that_was_cut_short_is_an_error() -> None:
    content = ours(features(8, "float16"))
    index = shards.read_index(io.BytesIO(content), CHUNKS)
    with pytest.raises(ValueError, match="bytes early"):
        shards.decode(io.BytesIO(content[: len(content) // 2]), index, CHUNK, 0, np.empty((8, *SHAPE), "float16"))


def test_tensorstore_and_zarr_read_our_arrays(tmp_path: Path) -> None:
    reader = built_store(tmp_path, load_image_set(str(write_images(tmp_path / "photos", 14))), tiny_backbone(), dtype="float16")
    group = Path(str(reader.files)) / "data.zarr"
    for name in reader.spec.arrays:
        stored = reader.read(name, 0, 14)
        kvstore = {"driver": "file", "path": str(group / name)}
        opened = tensorstore.open({"driver": "zarr3", "kvstore": kvstore}, open=True, read=True).result()
        np.testing.assert_array_equal(opened.read().result(), stored)
        np.testing.assert_array_equal(np.asarray(zarr.open_group(group, mode="r")[name]), stored)
        assert json.loads((group / name / "zarr.json").read_text())["shape"] == list(stored.shape)
