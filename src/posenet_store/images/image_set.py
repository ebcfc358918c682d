"""ImageSet: ordered images with a content digest; make one from files or a folder."""

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from heapq import nlargest
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posenet_store.errors import BuildError, UsageError
from posenet_store.files import sha256, to_utf8
from posenet_store.images.decode import FORMATS, decode, open_image
from posenet_store.images.hash_cache import HashCache
from posenet_store.images.memory import FILES, PIXELS, count_decoding
from posenet_store.images.reading import ImageFile, count_bytes, open_bytes, read_image
from posenet_store.specs import Size
from posenet_store.threads import map_on_threads

Advance = Callable[[int, int], None]
"""Called with how many images are hashed by now, and of how many."""
SUFFIXES = frozenset(FORMATS)


@dataclass(frozen=True, repr=False)
class ImageSet:
    """Ordered images: `ids` (unique names), `digests` (SHA-256 of each image's bytes) and a function that reads one.

    `read(index, size)` returns uint8 [size, size, 3] or raises ImageError with the reason; `size` is a `Resize` instead of a
    number for networks whose images are not squashed. `ignored` are the files of a folder that are not images by their
    suffix, `notes` what a user should know of the choice of images. `count_memory(index, size)` returns the bytes that
    reading an image holds.
    """

    name: str
    ids: tuple[str, ...]
    digests: tuple[str, ...]
    read: Callable[[int, Any], NDArray[np.uint8]]
    ignored: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    count_memory: Callable[[int, Any], int] = lambda index, size: 0

    def __repr__(self) -> str:
        return f"<ImageSet {self.name}: {len(self):,} images, the first is {self.ids[0]!r}>"

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def sha256(self) -> str:
        """Digest over every name and every image's bytes, in order."""
        lines = (f"{digest} {name}\n" for digest, name in zip(self.digests, self.ids, strict=True))
        return sha256("".join(lines).encode())

    def take(self, limit: int | None) -> "ImageSet":
        """Return the first `limit` images (all for None); raises UsageError if the limit is below 1."""
        check_limit(limit)
        return replace(self, ids=self.ids[:limit], digests=self.digests[:limit])

    def select(self, indices: Sequence[int]) -> "ImageSet":
        """Return the images at `indices`, in that order."""
        ids, digests = (tuple(entries[index] for index in indices) for entries in (self.ids, self.digests))
        if isinstance(self.read, FileReader):
            reader = FileReader([self.read.paths[index] for index in indices], digests, self.read.cache)
            return replace(self, ids=ids, digests=digests, read=reader, count_memory=reader.count_memory)
        return replace(
            self, ids=ids, digests=digests,
            read=lambda index, size: self.read(indices[index], size),
            count_memory=lambda index, size: self.count_memory(indices[index], size),
        )  # fmt: skip

    def count_reading(self, size: Size, threads: int) -> int:
        """Return the bytes that reading images in that many threads holds at most; the header of each file is read for it."""
        largest = nlargest(threads, map_on_threads(lambda index: self.count_memory(index, size), range(len(self))))
        return min(sum(largest), FILES.limit + PIXELS.limit)


def check_limit(limit: int | None) -> None:
    """Raise UsageError if a limit of images is below 1."""
    if limit is not None and limit < 1:
        raise UsageError(f"--limit {limit} leaves no image; give 1 or more")


@dataclass(frozen=True)
class FileReader:
    """Reads images from files in two steps, which a build times separately: `fetch` the bytes, then decode them.

    Both happen while the bytes of the file are `reserve`d. The digests may come from `cache`.
    """

    paths: Sequence[ImageFile]
    digests: Sequence[str]
    cache: Path | None = None

    def reserve(self, index: int) -> AbstractContextManager[None]:
        """Wait until there is memory for a file's bytes, and keep it for the `with` block."""
        return FILES.reserve(count_bytes(self.paths[index]))

    def fetch(self, index: int) -> bytes:
        """Return a file's bytes; raises BuildError if the disk fails, or if they changed since the set was made.

        Then the next command hashes all files again.
        """
        try:
            return read_image(self.paths[index], self.digests[index])
        except BuildError:
            if self.cache:
                with suppress(OSError):
                    self.cache.unlink()
            raise

    def __call__(self, index: int, size: Size) -> NDArray[np.uint8]:
        with self.reserve(index):
            return decode(self.fetch(index), size)

    def count_memory(self, index: int, size: Size) -> int:
        """Return the bytes that reading and decoding an image holds, by its header; 0 if it can't be opened."""
        try:
            with open_bytes(self.paths[index]) as file, open_image(file) as image:
                return count_bytes(self.paths[index]) + count_decoding(image, size)
        except Exception:  # as it may be damaged, PIL can raise anything; the build quarantines it
            return 0


@dataclass(frozen=True)
class Listing:
    """The image files of a folder in order, names of other files in it, and notes on the choice; nothing is read yet.

    `names` are those of the images, if they are not their paths below the folder.
    """

    folder: Path
    images: tuple[ImageFile, ...]
    ignored: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    names: tuple[str, ...] | None = None


def load_files(name: str, files: Listing, limit: int | None = None, advance: Advance = lambda done, total: None) -> ImageSet:
    """Return the ImageSet of the first `limit` files of a listing (all for None); those without a kept digest are hashed now.

    A file that changes later is noticed when it is read, so features never belong to other pixels. Raises BuildError if
    the disk keeps failing.
    """
    check_limit(limit)
    paths, digests = files.images[:limit], []
    names = files.names or tuple(_relative_name(path, files.folder) for path in paths if isinstance(path, Path))
    ids = names[:limit]
    cache = HashCache.open(files.folder)
    with ThreadPoolExecutor() as pool:
        for digest in pool.map(cache.hash, ids, paths):
            digests.append(digest)
            advance(len(digests), len(paths))
    cache.save()
    reader = FileReader(paths, digests, cache.path)
    return ImageSet(to_utf8(name), ids, tuple(digests), reader, files.ignored, files.notes, reader.count_memory)


def load_folder(
    folder: Path, name: str | None = None, limit: int | None = None, advance: Advance = lambda done, total: None
) -> ImageSet:
    """Return the images below `folder` that `list_folder` lists, named after it."""
    files = list_folder(folder)
    return load_files(name or files.folder.resolve().name, files, limit, advance)


def list_folder(folder: Path) -> Listing:
    """List the images below `folder`, recursively, sorted by relative path; links are followed, but no loops.

    Of a folder that holds NAME-Image and NAME-Mask, as DUT-S does, the first is taken; a note says so, and also if
    folders hold files of one name, which may be masks. Hidden files and other suffixes than `SUFFIXES` are listed in
    `ignored`. Raises UsageError if there is no image.
    """
    notes = []
    if (inner := _find_image_folder(folder)) is not None:
        notes.append(f"{folder} holds images and masks; {inner.name} is taken")
        folder = inner
    files = _list_files(folder)
    images = sort_by_name(filter(is_image, files), folder)
    ignored = sorted(_relative_name(path, folder) for path in files if not is_image(path))
    if not images:
        raise UsageError(f"{folder} holds no image ({len(ignored)} other files); accepted: {', '.join(sorted(SUFFIXES))}")
    notes += _note_equal_names(folder, images)
    return Listing(folder, tuple(images), tuple(ignored), tuple(notes))


def _find_image_folder(folder: Path) -> Path | None:
    """Return NAME-Image if the folder holds it and NAME-Mask, None if not, or if several do."""
    pairs = [path for path in folder.glob("*-Image") if path.with_name(path.name.replace("-Image", "-Mask")).is_dir()]
    return pairs[0] if len(pairs) == 1 else None


def _note_equal_names(folder: Path, images: Sequence[Path]) -> list[str]:
    """Return a note if two folders hold files of one name: masks or labels often lie beside the images so."""
    parents: dict[str, set[Path]] = {}
    for path in images:
        parents.setdefault(path.stem, set()).add(path.parent)
    equal = [stem for stem, folders in parents.items() if len(folders) > 1]
    if not equal:
        return []
    folders = ", ".join(sorted(path.relative_to(folder).as_posix() for path in parents[equal[0]]))
    return [
        f"{len(equal)} names occur in several folders, such as {equal[0]} in {folders}: are some of them masks? All are taken"
    ]


def _list_files(folder: Path) -> list[Path]:
    """List the files below `folder`, without hidden folders; each folder counts once."""
    paths: list[Path] = []
    visited: set[tuple[int, int]] = set()
    for parent, folders, files in os.walk(folder, onerror=_refuse_folder, followlinks=True):
        status = Path(parent).stat()
        if (status.st_dev, status.st_ino) in visited:
            folders.clear()
            continue
        visited.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        paths += [Path(parent, name) for name in files]
    return paths


def sort_by_name(paths: Iterable[Path], folder: Path) -> list[Path]:
    """Sort paths by the bytes of their names below `folder`, the same on every machine."""
    return sorted(paths, key=lambda path: os.fsencode(path.relative_to(folder).as_posix()))


def is_image(path: Path) -> bool:
    """Return whether a file is taken for an image, by its suffix."""
    special = path.exists() and not path.is_file()  # such as a pipe, which would block; a broken link is an unreadable image
    return has_image_name(path) and not special


def has_image_name(path: Path) -> bool:
    """Return whether a name is that of an image: an accepted suffix, and not hidden."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def _refuse_folder(error: OSError) -> None:
    raise UsageError(f"folder {error.filename} can't be read ({error.strerror}); fix its permissions or leave it out")


def _relative_name(path: Path, root: Path) -> str:
    """Return the path below `root` in UTF-8; that of a file elsewhere, which a list may name, as it is."""
    return to_utf8((path.relative_to(root) if path.is_relative_to(root) else path).as_posix())
