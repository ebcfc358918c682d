"""Deflate and inflate the chunks of HDF5 datasets on all CPU cores, with ISA-L. The owner of isal.

HDF5 runs its gzip filter on one core, with zlib. Here each chunk becomes the same kind of stream (zlib's, RFC 1950) on a
thread of its own and passes HDF5 as it is (`write_direct_chunk`, `read_direct_chunk`), so that every program that has HDF5
reads it. A stream ends with the Adler-32 of its data, which whoever inflates it compares, HDF5's own filter too: a checksum
filter beside it would find nothing more.
"""

import math
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from typing import Any

import h5py
import numpy as np
from isal import igzip_lib
from numpy.typing import NDArray

from posenet_store.specs import name_axes
from posenet_store.store.chunking import list_chunks, take_chunk
from posenet_store.threads import map_on_threads, stream_on_threads

LEVEL = 1
FILTER = "gzip"
OVERHEAD = 1 << 10
"""Bytes that deflate may add to a small chunk."""


def write_datasets(
    file: h5py.File,
    arrays: Mapping[str, NDArray[Any]],
    chunk_rows: Mapping[str, int],
    expect: Callable[[bytes], None] = lambda chunk: None,
    pool: Executor | None = None,
) -> None:
    """Create a dataset for each array, in chunks of at most `chunk_rows[name]` rows, and write its chunks in order.

    They are deflated on the threads of `pool`; `expect` is called with each before HDF5 is.
    Where a dataset ends within a chunk, NaN fills the chunk; NaN is also the fill value, which no reader should ever see.
    """
    rows = {name: min(chunk_rows[name], len(values)) for name, values in arrays.items()}

    def deflate(chunk: tuple[str, int]) -> bytes:
        name, start = chunk
        return igzip_lib.compress(take_chunk(arrays[name], start, rows[name]), LEVEL, igzip_lib.COMP_ZLIB)

    for name, values in arrays.items():
        shape = (rows[name], *values.shape[1:])
        options = {"chunks": shape, "compression": FILTER, "compression_opts": LEVEL, "fillvalue": np.nan}
        file.create_dataset(name, values.shape, values.dtype, **options)
    chunks, datasets = list_chunks(arrays, rows), {name: file[name].id for name in arrays}
    for (name, start), data in zip(chunks, stream_on_threads(deflate, chunks, pool=pool), strict=True):
        expect(data)
        datasets[name].write_direct_chunk(_locate(start, arrays[name].ndim), data)


def _locate(row: int, axes: int) -> tuple[int, ...]:
    """Return the first position of the chunk that begins at `row`, in an array of so many axes."""
    return (row, *[0] * (axes - 1))


def get_dataset(file: h5py.File, name: str, rows: int) -> h5py.Dataset:
    """Return a dataset of `rows` rows; raises ValueError if HDF5 would read it from another file, or it is none.

    A link, a virtual dataset and an external storage name files of the machine that reads; no digest covers those.
    """
    if not isinstance(file.get(name, getlink=True), h5py.HardLink) or file.get(name, getclass=True) is not h5py.Dataset:
        raise ValueError(f"{name} is a link, or no dataset")
    dataset = file[name]
    if dataset.id.get_create_plist().get_layout() != h5py.h5d.CHUNKED:  # before its shape, for which HDF5 opens other files
        raise ValueError(f"{name} is not stored in {FILTER} chunks in this file")
    if dataset.ndim != 1 + len(name_axes(name)) or len(dataset) != rows:
        raise ValueError(f"{name} has shape {dataset.shape}; its block has {rows} rows")
    return dataset


def read_rows(dataset: h5py.Dataset, start: int, out: NDArray[Any]) -> None:
    """Inflate rows [start, start + len(out)) of a dataset into `out`, of its dtype.

    Raises ValueError if the dataset is not what `write_datasets` writes, or a chunk is missing or damaged.
    """
    stop, options = start + len(out), dataset.id.get_create_plist()
    filters = [options.get_filter(number)[0] for number in range(options.get_nfilters())]
    stored = (filters, dataset.dtype, dataset.shape[1:])
    rows, *shape = dataset.chunks or (1,)
    if stored != ([h5py.h5z.FILTER_DEFLATE], out.dtype, tuple(shape)) or tuple(shape) != out.shape[1:]:
        raise ValueError(f"{dataset} is not {FILTER} chunks of {out.dtype} {list(out.shape[1:])}")
    if not max(stop, rows) <= len(dataset):
        raise ValueError(f"{dataset} has chunks of {rows} rows, which are not {FILTER} chunks up to row {stop}")

    def inflate(first: int) -> None:
        data = _inflate(_read_chunk(dataset, first), math.prod(dataset.chunks) * out.itemsize)
        chunk = np.frombuffer(data, out.dtype).reshape(dataset.chunks)
        begin, end = max(first, start), min(first + rows, stop)
        out[begin - start : end - start] = chunk[begin - first : end - first]

    map_on_threads(inflate, range(start - start % rows, stop, rows))


def _read_chunk(dataset: h5py.Dataset, row: int) -> bytes:
    """Return the stored bytes of the chunk that begins at `row`; raises ValueError if it is missing or empty."""
    size = dataset.id.get_chunk_info_by_coord(_locate(row, dataset.ndim)).size
    if not 0 < size <= 2 * math.prod(dataset.chunks) * dataset.dtype.itemsize + OVERHEAD:  # before memory is taken for it
        raise ValueError(f"a chunk is missing or too large, that of row {row}: {size:,} bytes")
    _, data = dataset.id.read_direct_chunk(_locate(row, dataset.ndim))
    return bytes(data)


def _inflate(data: bytes, size: int) -> bytes:
    """Return the `size` bytes of a zlib stream; raises ValueError if it holds others, more or fewer.

    Never more than one byte beyond `size` is inflated, whatever the stream holds.
    """
    stream = igzip_lib.IgzipDecompressor(igzip_lib.DECOMP_ZLIB)
    try:
        values = stream.decompress(data, size + 1)
    except igzip_lib.IsalError as error:  # type: ignore[misc]  # its stub declares an instance, not a class
        raise ValueError(f"a chunk can't be inflated: {error}") from None
    if len(values) != size or not stream.eof:
        raise ValueError(f"a chunk does not end after its {size:,} bytes")
    return bytes(values)
