"""Remove stores and what is left of builds and sweeps below a root; nothing outside it, and no link is followed."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from posenet_store.errors import UsageError, unknown
from posenet_store.files import expand_user, fsync
from posenet_store.store.access import PLAN
from posenet_store.store.catalogue import find_outdated, list_stores
from posenet_store.temporaries import is_abandoned, name_temporary

MOMENTS = "moments"


@dataclass(frozen=True)
class Removal:
    """A file or folder below `root` that can be removed, the bytes that this frees, and why.

    Files that another store shares free nothing.
    """

    root: Path
    path: Path
    bytes: int
    reason: str

    @classmethod
    def of(cls, root: Path, path: Path, reason: str) -> "Removal":
        """Return the removal of a path."""
        files = [path] if path.is_file() else [file for file in path.rglob("*") if not file.is_symlink() and file.is_file()]
        statuses = [file.stat() for file in files]
        return cls(root, path, sum(status.st_size for status in statuses if status.st_nlink == 1), reason)


def find_store(root: str | Path, name: str) -> list[Removal]:
    """Return the removals of a store and of its cached moments; raises UsageError if no store below `root` is called so."""
    folder = expand_user(root)
    names = [info.path.name for info in list_stores(folder).stores if not info.path.is_symlink()]
    if name not in names:
        raise unknown(f"store in {folder}", name, names)
    moments = folder / MOMENTS / name
    cached = [Removal.of(folder, moments, f"moments of {name}")] if _is_folder(moments) else []
    return [Removal.of(folder, folder / name, "store"), *cached]


def find_leftovers(root: str | Path, older: bool = False) -> list[Removal]:
    """Return what nothing needs: moments of stores that are gone, and temporaries of builds that were killed.

    With `older`, also stores whose network and images have the names of a newer store's, but not its images.
    """
    folder = expand_user(root)
    infos = list_stores(folder).stores
    outdated = [info.path.name for info, _ in find_outdated(infos) if not info.path.is_symlink()] if older else []
    stores = [removal for name in outdated for removal in find_store(folder, name)]
    return [*stores, *_find_orphans(folder), *_find_temporaries(folder)]


def _find_orphans(root: Path) -> Iterator[Removal]:
    """Yield the cached moments of stores that are not there, damaged ones included among those that are."""
    for path in sorted((root / MOMENTS).glob("*")) if _is_folder(root / MOMENTS) else ():
        if _is_folder(path) and not (root / path.name).exists():
            yield Removal.of(root, path, "moments of a store that is gone")


def _find_temporaries(root: Path) -> Iterator[Removal]:
    """Yield temporary files and folders in `root` and in its stores that no living process can own."""
    stores = [path.parent for path in root.glob(f"*/{PLAN}") if not path.parent.is_symlink()]
    folders = [root, *(root / MOMENTS).glob("*/")]
    candidates = [path for folder in folders for path in folder.glob(".*.tmp")]
    candidates += [path for store in stores for path in sorted(store.rglob(".*.tmp"))]
    for path in candidates:
        if not path.is_symlink() and is_abandoned(path):
            yield Removal.of(root, path, "temporary of a build that was killed")


def remove(removal: Removal) -> None:
    """Remove a file or folder; a folder is renamed first, so that an interruption leaves a temporary and no damaged store.

    Raises UsageError, and removes nothing, if the path is a link or not below the root.
    """
    path = removal.path
    if path.is_symlink() or removal.root.resolve() not in path.resolve().parents:
        raise UsageError(f"{path} is a link or not below {removal.root}; remove it by hand if you mean it")
    if path.is_file():
        path.unlink(missing_ok=True)
        return
    temporary = name_temporary(removal.root / path.name.strip("."))
    path.rename(temporary)
    fsync(removal.root)  # otherwise a power cut could bring the name back, of a folder that is half removed
    shutil.rmtree(temporary)


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()
