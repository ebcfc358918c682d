"""Read and hash image files; where the disk fails for a moment, try again before the command stops.

A file that is no image, or a link to nothing, is quarantined for it (`ImageError`): the next command finds the same. An
error of the disk, a file that vanishes and one that changes say nothing of the image, and no row is given up for them.
"""

import errno
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from posenet_store.errors import BuildError, ImageError
from posenet_store.files import sha256, sha256_file

WAITS = (1.0, 2.0, 4.0)
"""Seconds before each further attempt."""
BROKEN_LINK = "unreadable: can't be read: "
"""Begins what stands for the digest of a link that leads to no file."""
Result = TypeVar("Result")


def hash_image(path: Path) -> str:
    """Return the SHA-256 of a file, or what stands for it if the path is a broken link; raises BuildError as `read_image`."""
    try:
        path.stat()
    except OSError as error:
        if path.is_symlink() and error.errno in (errno.ENOENT, errno.ELOOP):
            return f"{BROKEN_LINK}{error.strerror}"
    return _insist(path, sha256_file)


def read_image(path: Path, digest: str) -> bytes:
    """Return the bytes of a file whose digest `hash_image` returned.

    Raises ImageError for a broken link, and BuildError if the disk keeps failing or the bytes stay different.
    """
    if digest.startswith(BROKEN_LINK):
        raise ImageError(digest.removeprefix("unreadable: "))

    def read(path: Path) -> bytes:
        data = path.read_bytes()
        if sha256(data) != digest:
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
