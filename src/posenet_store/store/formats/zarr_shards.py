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

LEVEL = 1
CODEC = Zstd(level=LEVEL, checksum=True)
ABSENT = 2**64 - 1
ENTRY = np.dtype("<u8")
MAGIC = b"\x28\xb5\x2f\xfd"
"""Begins a zstd frame."""


def compress(values: NDArray[Any], start: int, rows: int) -> bytes:
    """Return the chunk of `rows` rows that begins at row `start`; where `values` ends, NaN, the fill value, fills it up."""
    return bytes(CODEC.encode(take_chunk(values, start, rows)))


def join(chunks: Sequence[bytes], count: int) -> list[bytes]:
    """Return the pieces of a shard for `count` chunks that holds `chunks` as its first ones; the others are absent."""
    index = np.full((count, 2), ABSENT, ENTRY)
    lengths = [len(chunk) for chunk in chunks]
    index[: len(chunks), 0] = np.cumsum([0, *lengths[:-1]])
    index[: len(chunks), 1] = lengths
    return [*chunks, index.tobytes(), _checksum(index.tobytes())]


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

    Raises ValueError or RuntimeError if a chunk is absent, cut short, of another size, or does not have its checksum.
    """
    size, row, stop = file.seek(0, 2), start, start + len(out)
    while row < stop:
        number = row // chunk
        first, end = number * chunk, min((number + 1) * chunk, stop)
        target = out[row - start : end - start]
        piece = _read_piece(file, size, index[number])
        if len(target) == chunk:
            _decompress(piece, target)
        else:
            rows = np.empty((chunk, *out.shape[1:]), out.dtype)
            _decompress(piece, rows)
            target[...] = rows[row - first : end - first]
        row = end


def _read_piece(file: BinaryIO, size: int, entry: Sequence[np.uint64] | NDArray[np.uint64]) -> bytes:
    """Return the bytes of a chunk in a file of `size` bytes; raises ValueError if they are not in it."""
    offset, length = int(entry[0]), int(entry[1])
    if offset == ABSENT:
        raise ValueError("a chunk is absent from its shard")
    if offset + length > size:
        raise ValueError(f"the shard ends {offset + length - size:,} bytes early")
    file.seek(offset)
    return file.read(length)


def _decompress(frame: bytes, out: NDArray[Any]) -> None:
    """Decompress a chunk into `out`; raises ValueError if it holds another number of bytes, RuntimeError if it is damaged.

    The codec would leave the end of `out` as it was where a frame is shorter.
    """
    if (size := _read_content_size(frame)) != out.nbytes:
        raise ValueError(f"a chunk holds {size:,} bytes instead of {out.nbytes:,}")
    Zstd().decode(frame, out)


def _read_content_size(frame: bytes) -> int:
    """Return how many bytes a zstd frame says that it holds (RFC 8878, section 3.1.1.1); raises ValueError if it does not."""
    descriptor = int.from_bytes(frame[4:5], "little")
    single_segment, dictionary = descriptor >> 5 & 1, (0, 1, 2, 4)[descriptor & 3]
    width = (single_segment, 2, 4, 8)[descriptor >> 6]
    start = 5 + (1 - single_segment) + dictionary
    if not frame.startswith(MAGIC) or not width or len(frame) < start + width:
        raise ValueError("a chunk is not a zstd frame that says how many bytes it holds")
    return int.from_bytes(frame[start : start + width], "little") + 256 * (width == 2)
