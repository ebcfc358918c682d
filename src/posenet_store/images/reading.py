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
from typing import TypeVar

from posenet_store.errors import BuildError, ImageError
from posenet_store.files import sha256, sha256_file
from posenet_store.images.memory import FILES

WAITS = (1.0, 2.0, 4.0)
"""Seconds before each further attempt."""
UNREADABLE = "unreadable: "
"""Begins what stands for the digest of a file whose bytes are not read; the reason follows."""
Result = TypeVar("Result")


def hash_image(path: Path) -> str:
    """Return the SHA-256 of a file, or what stands for it if it is too large or a broken link.

    Raises BuildError as `read_image`.
    """
    try:
        size = path.stat().st_size
    except OSError as error:
        if path.is_symlink() and error.errno in (errno.ENOENT, errno.ELOOP):
            return f"{UNREADABLE}can't be read: {error.strerror}"
    else:
        if size > FILES.limit:
            return f"{UNREADABLE}the file has {size:,} bytes; at most {FILES.limit:,} are read"
    return _insist(path, sha256_file)


def count_bytes(path: Path) -> int:
    """Return the bytes of a file that are held while it is decoded; 0 for one that is not read."""
    try:
        size = path.stat().st_size
    except OSError:
        return 0
    return size if size <= FILES.limit else 0


def read_image(path: Path, digest: str) -> bytes:
    """Return the bytes of a file whose digest `hash_image` returned.

    Raises ImageError for a broken link or a file that is too large, and BuildError if the disk keeps failing or the bytes
    stay different.
    """
    if digest.startswith(UNREADABLE):
        raise ImageError(digest.removeprefix(UNREADABLE))

    def read(path: Path) -> bytes:
        if path.stat().st_size > FILES.limit or sha256(data := path.read_bytes()) != digest:
            raise OSError(errno.ESTALE, "it changed while the store was being built")
        return data

    return _insist(path, read)


def _insist(path: Path, read: Callable[[Path], Result]) -> Result:
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
