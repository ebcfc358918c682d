"""The bytes of a Zarr v3 shard: compressed chunks one after another, then an index of where each lies.

Chunks are zstd level 1 with zstd's own checksum; the index is one (offset, length) of two little-endian uint64 a chunk,
both 2^64 - 1 where a chunk is absent, then its CRC-32C (Zarr's `sharding_indexed` codec, index at the end). Written and
read here instead of by zarr because zarr moves a block at half the speed and keeps an event loop that does not survive a
fork; the tests hold both to the same bytes.
"""

from collections.abc import Sequence
from typing import Any, BinaryIO

import numpy as np
from numcodecs.zstd import Zstd
from numpy.typing import NDArray

from posenet_store.files import crc32c
from posenet_store.threads import map_on_threads

LEVEL = 1
ABSENT = 2**64 - 1
ENTRY = np.dtype("<u8")


def encode(values: NDArray[Any], chunk: int, chunks: int) -> list[bytes]:
    """Return the pieces of a shard of `chunks` chunks of `chunk` rows that holds `values` in its first rows.

    The last chunk of a shorter `values` is filled up with NaN, the array's fill value; chunks behind it are absent.
    """
    codec = Zstd(level=LEVEL, checksum=True)

    def compressed(start: int) -> bytes:
        part = values[start : start + chunk]
        if len(part) < chunk:
            part = np.concatenate([part, np.full((chunk - len(part), *part.shape[1:]), np.nan, part.dtype)])
        return bytes(codec.encode(np.ascontiguousarray(part)))

    pieces = map_on_threads(compressed, range(0, len(values), chunk))
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
        place = row // chunk
        first, end = place * chunk, min((place + 1) * chunk, stop)
        target = out[row - start : end - start]
        piece = _piece(file, index[place])
        if row == first and end == first + chunk:
            codec.decode(piece, target)
        else:
            whole = np.empty((chunk, *out.shape[1:]), out.dtype)
            codec.decode(piece, whole)
            target[...] = whole[row - first : end - first]
        row = end


def _piece(file: BinaryIO, entry: Sequence[np.uint64] | NDArray[np.uint64]) -> bytes:
    offset, length = int(entry[0]), int(entry[1])
    if offset == ABSENT:
        raise ValueError("a chunk is absent from its shard")
    file.seek(offset)
    piece = file.read(length)
    if len(piece) != length:
        raise ValueError(f"the shard ends {length - len(piece)} bytes early")
    return piece
