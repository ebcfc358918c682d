"""Encode and decode Zarr v3 shards: compressed chunks one after another, then an index of their offsets.

Chunks are zstd level 1 with zstd's own checksum. The index has one (offset, length) per chunk, two little-endian uint64,
both 2^64 - 1 where a chunk is absent; its CRC-32C follows (Zarr's `sharding_indexed` codec, index at the end). This module
does it instead of zarr because zarr needs twice the time and has an event loop that does not survive a fork; the tests
require the same bytes from both.
"""

from collections.abc import Sequence
from typing import Any, BinaryIO

import numpy as np
from numcodecs.zstd import Zstd
from numpy.typing import NDArray

from posenet_store.files import crc32c
from posenet_store.store.chunking import take_chunk
from posenet_store.threads import map_on_threads

LEVEL = 1
ABSENT = 2**64 - 1
ENTRY = np.dtype("<u8")


def encode(values: NDArray[Any], chunk: int, chunks: int) -> list[bytes]:
    """Return the pieces of a shard of `chunks` chunks of `chunk` rows that holds `values` in its first rows.

    If `values` has fewer rows, NaN (the array's fill value) fills the last chunk, and the chunks behind it are absent.
    """
    codec = Zstd(level=LEVEL, checksum=True)

    def compress(start: int) -> bytes:
        return bytes(codec.encode(take_chunk(values, start, chunk)))

    pieces = map_on_threads(compress, range(0, len(values), chunk))
    index = np.full((chunks, 2), ABSENT, ENTRY)
    lengths = [len(piece) for piece in pieces]
    index[: len(pieces), 0] = np.cumsum([0, *lengths[:-1]])
    index[: len(pieces), 1] = lengths
    return [*pieces, index.tobytes(), _checksum(index.tobytes())]


def _checksum(index: bytes) -> bytes:
    return crc32c(index).to_bytes(4, "little")


def read_index(file: BinaryIO, chunks: int) -> NDArray[np.uint64]:
    """Read the index of a shard, uint64 [chunks, 2]; raises ValueError if it is damaged."""
    size = 16 * chunks + 4
    file.seek(-size, 2)
    data = file.read(size)
    if _checksum(data[:-4]) != data[-4:]:
        raise ValueError("the index of the shard does not have its checksum")
    return np.frombuffer(data[:-4], ENTRY).reshape(chunks, 2)


def decode(file: BinaryIO, index: NDArray[np.uint64], chunk: int, start: int, out: NDArray[Any]) -> None:
    """Decompress rows [start, start + len(out)) of a shard into `out`, which must be contiguous.

    Raises ValueError or RuntimeError if a chunk is absent, cut short, or does not have its checksum.
    """
    codec, row, stop = Zstd(), start, start + len(out)
    while row < stop:
        number = row // chunk
        first, end = number * chunk, min((number + 1) * chunk, stop)
        target = out[row - start : end - start]
        piece = _read_piece(file, index[number])
        if len(target) == chunk:
            codec.decode(piece, target)
        else:
            rows = np.empty((chunk, *out.shape[1:]), out.dtype)
            codec.decode(piece, rows)
            target[...] = rows[row - first : end - first]
        row = end


def _read_piece(file: BinaryIO, entry: Sequence[np.uint64] | NDArray[np.uint64]) -> bytes:
    offset, length = int(entry[0]), int(entry[1])
    if offset == ABSENT:
        raise ValueError("a chunk is absent from its shard")
    file.seek(offset)
    piece = file.read(length)
    if len(piece) != length:
        raise ValueError(f"the shard ends {length - len(piece)} bytes early")
    return piece
