"""Our chunks are HDF5's own gzip chunks: plain h5py and zlib read them, and no byte of one goes unchecked."""

import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from posenet_store.store.formats.hdf5_chunks import read_rows, write_datasets

SHAPE, CHUNK = (3, 5, 7), 2
ROWS = (8, 7, 1)  # full, a partial chunk at the end, a single row that is half a chunk
CONTENTS = ("features", "zeros", "unreadable", "noise")


def make_values(rows: int, dtype: str, content: str = "features") -> NDArray[Any]:
    """Features after a ReLU, none that fired, NaN as for an image that can't be read, or what no codec makes smaller."""
    noise: NDArray[Any] = np.random.default_rng(rows).normal(size=(rows, *SHAPE)).astype(dtype)
    zeros = noise * 0
    contents = {"features": np.maximum(noise, zeros), "zeros": zeros, "unreadable": noise * np.nan, "noise": noise}
    values: NDArray[Any] = contents[content]
    return values


@contextmanager
def written(values: NDArray[Any], chunk: int = CHUNK) -> Iterator[h5py.Dataset]:
    with h5py.File(io.BytesIO(), "w") as file:
        write_datasets(file, {"f1": values}, {"f1": chunk})
        yield file["f1"]


def read(dataset: h5py.Dataset, start: int = 0, stop: int | None = None) -> NDArray[Any]:
    out = np.full((len(dataset) if stop is None else stop - start, *SHAPE), -1, dataset.dtype)
    read_rows(dataset, start, out)
    return out


@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("rows", ROWS)
def test_plain_h5py_and_we_read_what_was_written(rows: int, dtype: str, content: str) -> None:
    values = make_values(rows, dtype, content)
    with written(values) as dataset:
        assert (dataset.compression, dataset.fletcher32, dataset.shuffle) == ("gzip", False, False)
        np.testing.assert_array_equal(dataset[()], values)
        np.testing.assert_array_equal(read(dataset), values)


def test_a_chunk_is_a_zlib_stream_filled_up_with_nan() -> None:
    values = make_values(7, "float16")
    with written(values) as dataset:
        mask, stream = dataset.id.read_direct_chunk((6, 0, 0, 0))
        chunk = np.frombuffer(zlib.decompress(stream), "float16").reshape(CHUNK, *SHAPE)
    assert mask == 0
    np.testing.assert_array_equal(chunk[0], values[6])
    assert np.isnan(chunk[1]).all()


@pytest.mark.parametrize("rows", ROWS)
def test_any_rows_are_read(rows: int) -> None:
    values = make_values(rows, "float16")
    with written(values) as dataset:
        for start in range(rows):
            for stop in range(start, rows + 1):
                np.testing.assert_array_equal(read(dataset, start, stop), values[start:stop])


def test_what_hdf5_deflated_itself_is_read() -> None:
    values = make_values(7, "float16")
    with h5py.File(io.BytesIO(), "w") as file:
        file.create_dataset("f1", data=values, chunks=(CHUNK, *SHAPE), compression="gzip")
        np.testing.assert_array_equal(read(file["f1"], 1, 7), values[1:])


def test_bytes_do_not_depend_on_the_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = {name: make_values(rows, "float16") for name, rows in (("f1", 8), ("f2", 7))}
    parts = []
    for threads in (1, 5):
        monkeypatch.setattr("posenet_store.threads.count_cpus", lambda threads=threads: threads)
        part = io.BytesIO()
        with h5py.File(part, "w") as file:
            write_datasets(file, arrays, {"f1": 1, "f2": 3})
            for name, values in arrays.items():
                np.testing.assert_array_equal(read(file[name]), values)
        parts.append(part.getvalue())
    assert parts[0] == parts[1]


def replace_chunk(dataset: h5py.Dataset, stream: bytes) -> None:
    dataset.id.write_direct_chunk((2, 0, 0, 0), stream)
    dataset.file.flush()


def test_a_flipped_byte_of_a_chunk_is_an_error_for_us_and_for_plain_h5py() -> None:
    """Each byte in turn; bits that say how hard the encoder tried, or fill up the last byte, change nothing."""
    values = make_values(4, "float16")
    with written(values) as dataset:
        _, stream = dataset.id.read_direct_chunk((2, 0, 0, 0))
        unnoticed = 0
        for position in range(len(stream)):
            replace_chunk(dataset, stream[:position] + bytes([stream[position] ^ 0x10]) + stream[position + 1 :])
            for reader in (read, lambda dataset: dataset[()]):
                try:
                    np.testing.assert_array_equal(reader(dataset), values)
                    unnoticed += 1
                except (ValueError, OSError):
                    continue
        assert unnoticed <= 2


@pytest.mark.parametrize("content", [b"x", bytes(100), "cut", "short", "long", "bomb"])
def test_a_chunk_of_other_bytes_is_an_error(content: bytes | str) -> None:
    values = make_values(4, "float16")
    data = values[2:].tobytes()
    streams = {"cut": zlib.compress(data)[:-1], "short": zlib.compress(data[:-2]), "long": zlib.compress(data + b"xx")}
    streams |= {"bomb": zlib.compress(bytes(1 << 24), 1)}
    with written(values) as dataset:
        replace_chunk(dataset, streams[content] if isinstance(content, str) else content)
        with pytest.raises(ValueError, match="a chunk"):
            read(dataset)
        np.testing.assert_array_equal(read(dataset, 0, 2), values[:2])


def test_a_missing_chunk_is_an_error_not_a_fill_value() -> None:
    with h5py.File(io.BytesIO(), "w") as file:
        dataset = file.create_dataset("f1", (4, *SHAPE), "float16", chunks=(CHUNK, *SHAPE), compression="gzip")
        with pytest.raises(ValueError, match="missing"):
            read(dataset)


@pytest.mark.parametrize(
    "options",
    [
        {"chunks": None},
        {"chunks": (1, 3, 5, 1)},
        {"compression": None},
        {"compression": "lzf"},
        {"shuffle": True},
        {"fletcher32": True},
        {"dtype": "float32"},
        {"dtype": ">f2"},
        {"shape": (4, 3, 7, 5), "chunks": (1, 3, 7, 5)},
        {"shape": (3, *SHAPE)},
    ],
)
def test_a_dataset_that_is_stored_otherwise_is_an_error(options: dict[str, Any]) -> None:
    common: dict[str, Any] = {"shape": (4, *SHAPE), "dtype": "<f2", "chunks": (1, *SHAPE), "compression": "gzip"} | options
    if common["chunks"] is None:
        del common["compression"]
    with h5py.File(io.BytesIO(), "w") as file:
        dataset = file.create_dataset("f1", **common)
        dataset[...] = 1
        with pytest.raises(ValueError, match="gzip chunks"):
            read_rows(dataset, 0, np.empty((4, *SHAPE), "float16"))
