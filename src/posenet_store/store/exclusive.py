"""Name files and take them away so that no process harms what another has put there: nothing is ever overwritten.

A temporary file gets its name by a hard link, which fails if the name is taken. On a disk without hard links (FAT, some
network disks) a look comes before a rename instead, which leaves a moment between the two.
"""

import errno
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from posenet_store.errors import StoreError
from posenet_store.files import FileIdentity, fsync, make_folder
from posenet_store.temporaries import name_temporary
from posenet_store.threads import map_on_threads

WITHOUT_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)


@dataclass(frozen=True)
class StagedFile:
    """A complete and synced temporary file, and the path where it belongs."""

    path: Path
    temporary: Path
    identity: FileIdentity


def identify(path: Path) -> FileIdentity | None:
    """Return a file's identity, None if there is no file; raises StoreError for a folder, which may be the user's."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(status.st_mode):
        raise StoreError(f"{path} is a folder where a file belongs; move it away and rerun the command")
    return FileIdentity.of(status)


@contextmanager
def stage(files: Mapping[Path, Iterable[bytes | memoryview] | Path]) -> Iterator[list[StagedFile]]:
    """Write files, given as path -> consecutive pieces, beside their paths, synced; the temporaries go at the end.

    A file that is given as the path of another, which is synced already and never changes, becomes a hard link to it.
    """
    temporaries = {path: name_temporary(path) for path in files}

    def write(path: Path) -> StagedFile:
        identify(path)
        make_folder(path.parent)
        content = files[path]
        if isinstance(content, Path):
            os.link(content, temporaries[path])
        else:
            with temporaries[path].open("xb") as file:
                file.writelines(content)
            fsync(temporaries[path])
        return StagedFile(path, temporaries[path], FileIdentity.of(temporaries[path].stat()))

    try:
        yield map_on_threads(write, files)
    finally:
        for temporary in temporaries.values():
            temporary.unlink(missing_ok=True)


def put(temporary: Path, path: Path) -> bool:
    """Give a synced temporary file its name, durably; returns False, and changes nothing, if another file has it."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        if identify(path) != identify(temporary):  # NFS repeats a call whose answer is lost
            return False
    except OSError as error:
        if error.errno not in WITHOUT_LINKS:
            raise
        if path.exists():
            return False
        temporary.rename(path)
    fsync(path.parent)
    return True


def take_away(path: Path, identity: FileIdentity) -> None:
    """Remove a file, durably, if it is still the one of `identity`; one that came since is put back."""
    aside = name_temporary(path)
    try:
        path.rename(aside)
    except FileNotFoundError:
        return
    if identify(aside) != identity:
        put(aside, path)
    aside.unlink(missing_ok=True)
    fsync(path.parent)
