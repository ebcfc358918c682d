"""Keep the digests of image files, so that the next command need not read files that have not changed.

A digest is kept with the file's size, inode, and times of its last change (of the bytes, and of anything, which nobody sets).
One of a file that has changed in the last seconds is not: it might change again within one tick of the disk's clock.
The digests of a folder, list or archive are one file, replaced in one step. If it is damaged or can't be written, files are
hashed; a digest that is wrong after all is noticed when the image is read for a network, and the file is removed then.
"""

import os
import re
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from posenet_store.errors import StoreError
from posenet_store.files import canonical_json, parse_json, sha256, write_atomic
from posenet_store.images.reading import ImageFile, hash_image
from posenet_store.images.tar_files import TarMember

VARIABLE = "POSENET_HASH_CACHE"
OFF = "off"
RECENT = 3.0
"""Seconds after its last change for which a file is hashed again; some disks count time in steps of two."""
MAX_BYTES = 512 << 20
DIGEST = re.compile("[0-9a-f]{64}")


def find_cache_folder() -> Path | None:
    """Return the folder of the digests: $POSENET_HASH_CACHE, else below the user's cache folder; None if they are not kept."""
    if chosen := os.environ.get(VARIABLE):
        return None if chosen == OFF else Path(chosen)
    base = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))  # noqa: PTH111 - Path's raises
    return base / "posenet-store" / "hashes" if base.is_absolute() else None


@dataclass
class HashCache:
    """The digests of the files of a folder, kept at `path`: name -> size, changes in ns since 1970, inode, digest."""

    path: Path | None
    entries: dict[str, list[Any]] = field(default_factory=dict)
    changed: bool = False

    @classmethod
    def open(cls, folder: Path) -> "HashCache":
        """Read the digests of a folder that are kept; none if they are damaged."""
        root, cache = find_cache_folder(), cls(None)
        if root is not None:
            cache.path = root / f"{sha256(os.fsencode(folder.resolve()))[:32]}.json"
            with suppress(OSError, StoreError):
                if cache.path.stat().st_size <= MAX_BYTES:
                    entries = parse_json(cache.path.read_bytes(), cache.path)
                    cache.entries = {name: entry for name, entry in entries.items() if isinstance(entry, list)}
        return cache

    def hash(self, name: str, file: ImageFile) -> str:
        """Return the digest of a file: the one that is kept, or what `hash_image` returns, which is kept if it is sure."""
        name = f"{file.archive.name}: {file.name}" if isinstance(file, TarMember) else name
        before, known = _identify(file), self.entries.get(name)
        if before and known and known[:-1] == before and DIGEST.fullmatch(str(known[-1])):
            return str(known[-1])
        began, digest = time.time(), hash_image(file)
        if before and max(before[1:3]) <= (began - RECENT) * 1e9 and DIGEST.fullmatch(digest) and _identify(file) == before:
            self.entries[name], self.changed = [*before, digest], True
        return digest

    def save(self) -> None:
        """Keep the digests; of two commands that save at once, those of one are kept."""
        if self.path is not None and self.changed:
            with suppress(OSError, StoreError):
                write_atomic(self.path, canonical_json(self.entries))


def _identify(file: ImageFile) -> list[int] | None:
    """Return size, times of change and inode of a file, and the place of a member in its archive; None if there is no file."""
    try:
        status = (file.archive if isinstance(file, TarMember) else file).stat()
    except OSError:
        return None
    member = [file.offset, file.size] if isinstance(file, TarMember) else []
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, *member]
