"""A part file in memory for HDF5 to write to: its chunks are kept as they are, not copied into one buffer."""

import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

HEAD = 64
"""Bytes by which an expected chunk is recognised, beside its length: no metadata begins like a deflated chunk."""


class PartFile(io.RawIOBase):
    """A file for `h5py.File(part, "w")`; `list_pieces` returns its bytes once HDF5 has closed it.

    A chunk that was announced by `expect` is written once and never read back. What else HDF5 writes, its metadata, is small,
    and may be written again in other extents.
    """

    def __init__(self) -> None:
        self._position, self._size, self._expected = 0, 0, b""
        self._chunks: dict[int, bytes] = {}
        self._metadata: list[tuple[int, bytes]] = []

    def expect(self, chunk: bytes) -> None:
        """Announce the chunk that HDF5 is given next."""
        self._expected = chunk

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a position, counted from the start, or from the end for SEEK_END."""
        self._position = offset + (self._size if whence == io.SEEK_END else 0)
        return self._position

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def write(self, data: "ReadableBuffer") -> int:
        """Write at the position."""
        view, expected = memoryview(data), self._expected
        if len(view) == len(expected) and bytes(view[:HEAD]) == expected[:HEAD]:
            self._chunks[self._position], self._expected = expected, b""
        else:
            self._metadata.append((self._position, bytes(view)))
        self._position += len(view)
        self._size = max(self._size, self._position)
        return len(view)

    def readinto(self, buffer: "WriteableBuffer") -> int:
        """Read metadata back."""
        view = memoryview(buffer)
        view[:] = self._read_metadata(self._position, self._position + len(view))
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        """Set the size, to the position if none is given."""
        self._size = self._position if size is None else size
        return self._size

    def _read_metadata(self, start: int, stop: int) -> bytes:
        """Return the bytes [start, stop) as written last, zeros where nothing was written."""
        data = bytearray(stop - start)
        for offset, written in self._metadata:
            first, last = max(offset, start), min(offset + len(written), stop)
            if first < last:
                data[first - start : last - start] = written[first - offset : last - offset]
        return bytes(data)

    def list_pieces(self) -> list[bytes]:
        """Return the file's bytes as consecutive pieces."""
        pieces, position = [], 0
        for offset, chunk in [*sorted(self._chunks.items()), (self._size, b"")]:
            pieces += [self._read_metadata(position, offset), chunk]
            position = offset + len(chunk)
        return [piece for piece in pieces if piece]
