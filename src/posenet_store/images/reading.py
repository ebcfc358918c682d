"""Read and hash image files; where the disk fails for a moment, try again before the command stops.

A file that is no image, or too large, or a link to nothing, is quarantined for it (`ImageError`): the next command finds
the same. An error of the disk, a file that vanishes and one that changes say nothing of the image, and no row is given up
for them.
"""

import errno
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, TypeVar

from posenet_store.errors import BuildError, ImageError
from posenet_store.files import sha256, sha256_file, sha256_pieces
from posenet_store.images.memory import FILES
from posenet_store.images.tar_files import TarMember

WAITS = (1.0, 2.0, 4.0)
"""Seconds before each further attempt."""
UNREADABLE = "unreadable: "
"""Begins what stands for the digest of a file whose bytes are not read; the reason follows."""
PIECE = 1 << 20
"""Bytes of a member of an archive that are hashed at once."""
Result = TypeVar("Result")
ImageFile = Path | TarMember
"""Where the bytes of an image are."""


def open_bytes(file: ImageFile) -> BinaryIO:
    """Open an image file for reading, seekable."""
    return file.open() if isinstance(file, TarMember) else file.open("rb")


def _get_size(file: ImageFile) -> int:
    return file.size if isinstance(file, TarMember) else file.stat().st_size


def hash_image(path: ImageFile) -> str:
    """Return the SHA-256 of a file, or what stands for it if it is too large or a broken link.

    Raises BuildError as `read_image`.
    """
    try:
        size = _get_size(path)
    except OSError as error:
        if isinstance(path, Path) and path.is_symlink() and error.errno in (errno.ENOENT, errno.ELOOP):
            return f"{UNREADABLE}can't be read: {error.strerror}"
    else:
        if size > FILES.limit:
            return f"{UNREADABLE}the file has {size:,} bytes; at most {FILES.limit:,} are read"
    return _insist(path, _hash)


def _hash(path: ImageFile) -> str:
    if isinstance(path, Path):
        return sha256_file(path)
    with path.open() as file:
        return sha256_pieces(iter(lambda: file.read(PIECE), b""))


def _read(path: ImageFile) -> bytes:
    if isinstance(path, Path):
        return path.read_bytes()
    with path.open() as file:
        return file.read()


def count_bytes(path: ImageFile) -> int:
    """Return the bytes of a file that are held while it is decoded; 0 for one that is not read."""
    try:
        size = _get_size(path)
    except OSError:
        return 0
    return size if size <= FILES.limit else 0


def read_image(path: ImageFile, digest: str) -> bytes:
    """Return the bytes of a file whose digest `hash_image` returned.

    Raises ImageError for a broken link or a file that is too large, and BuildError if the disk keeps failing or the bytes
    stay different.
    """
    if digest.startswith(UNREADABLE):
        raise ImageError(digest.removeprefix(UNREADABLE))

    def read(path: ImageFile) -> bytes:
        if _get_size(path) > FILES.limit or sha256(data := _read(path)) != digest:
            raise OSError(errno.ESTALE, "it changed while the store was being built")
        return data

    return _insist(path, read)


def _insist(path: ImageFile, read: Callable[[ImageFile], Result]) -> Result:
    """Return `read(path)`; after an error of the disk try again, with pauses."""
    for wait in WAITS:
        with suppress(OSError):
            return read(path)
        time.sleep(wait)
    try:
        return read(path)
    except OSError as error:
        raise BuildError(
            f"{path} can't be read ({error.strerror}), {len(WAITS) + 1} times in {sum(WAITS):.0f} s; finished blocks are kept: "
            "restore the file or see to the disk, then rerun the command"
        ) from None
