"""ImageSet: ordered images with a content digest, from a folder, DUT-S, a generator, the probes or one file."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from posenet_store.errors import ImageError, UsageError
from posenet_store.files import sha256
from posenet_store.images.decode import decode

SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"))


@dataclass(frozen=True)
class ImageSet:
    """Ordered images: `ids` (unique names), `digests` (SHA-256 of each image's bytes) and a way to read one.

    `read(index, size)` returns uint8 [size, size, 3] or raises ImageError with the reason. `ignored` lists files
    of a folder that are not images by their suffix.
    """

    name: str
    ids: tuple[str, ...]
    digests: tuple[str, ...]
    read: Callable[[int, int], NDArray[np.uint8]]
    ignored: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def sha256(self) -> str:
        """Digest over every name and every image's bytes, in order."""
        lines = (f"{digest} {name}\n" for digest, name in zip(self.digests, self.ids, strict=True))
        return sha256("".join(lines).encode())

    def limited(self, limit: int | None) -> "ImageSet":
        """Return the first `limit` images (all for None); raises UsageError if the limit is below 1."""
        if limit is None or limit >= len(self):
            return self
        if limit < 1:
            raise UsageError(f"--limit {limit} leaves no image; give 1 or more")
        return ImageSet(self.name, self.ids[:limit], self.digests[:limit], self.read, self.ignored)


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ImageError(f"can't be read: {error.strerror}") from None


def _digest(path: Path) -> str:
    try:
        return sha256(_read_bytes(path))
    except ImageError as error:
        return f"unreadable: {error}"


def _name(path: Path, root: Path) -> str:
    """The path below `root`; what is not valid UTF-8 is escaped, so that every record can be written and printed."""
    return os.fsencode(path.relative_to(root).as_posix()).decode("utf-8", "backslashreplace")


def _unreadable_folder(error: OSError) -> None:
    raise UsageError(f"folder {error.filename} can't be read ({error.strerror}); mend its permissions or leave it out")


@dataclass(frozen=True)
class FileReader:
    """Reads images of files, in two steps that a build times apart: `fetch` the bytes, `decode` them."""

    paths: Sequence[Path]
    digests: Sequence[str]

    def fetch(self, index: int) -> bytes:
        """Return a file's bytes; raises ImageError if they are not those that were hashed when the set was made."""
        data = _read_bytes(self.paths[index])
        if sha256(data) != self.digests[index]:
            raise ImageError("the file changed while the store was being built")
        return data

    def __call__(self, index: int, size: int) -> NDArray[np.uint8]:
        return decode(self.fetch(index), size)


def load_files(name: str, root: Path, paths: list[Path], ignored: tuple[str, ...] = ()) -> ImageSet:
    """Return the ImageSet of files below `root`, in the given order; every file is hashed once here.

    A file whose bytes have changed since is an ImageError when read, so features never belong to other pixels.
    """
    with ThreadPoolExecutor() as pool:
        digests = tuple(pool.map(_digest, paths))
    return ImageSet(name, tuple(_name(path, root) for path in paths), digests, FileReader(paths, digests), ignored)


def load_folder(folder: Path, name: str | None = None) -> ImageSet:
    """Return the images below `folder`, recursive, sorted by relative path; links are followed, loops are not.

    Hidden files and other suffixes than `SUFFIXES` are listed in `ignored`. Raises UsageError if none is left.
    """
    found: list[Path] = []
    ignored: list[str] = []
    seen: set[tuple[int, int]] = set()
    for place, folders, files in os.walk(folder, onerror=_unreadable_folder, followlinks=True):
        status = Path(place).stat()
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        for file in files:
            path = Path(place, file)
            special = path.exists() and not path.is_file()  # a pipe would block; a dangling link is an unreadable image
            accepted = path.suffix.lower() in SUFFIXES and not file.startswith(".") and not special
            found.append(path) if accepted else ignored.append(_name(path, folder))
    if not found:
        accepted_suffixes = ", ".join(sorted(SUFFIXES))
        raise UsageError(f"{folder} holds no image ({len(ignored)} other files); accepted: {accepted_suffixes}")
    found.sort(key=lambda path: os.fsencode(path.relative_to(folder).as_posix()))
    return load_files(name or folder.resolve().name, folder, found, tuple(sorted(ignored)))
