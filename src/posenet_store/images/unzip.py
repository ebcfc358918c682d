"""A zip archive from somewhere else, unpacked with nothing outside its folder, nothing but files, and nothing unchecked."""

import errno
import os
import shutil
import stat
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath, PureWindowsPath
from zipfile import BadZipFile, LargeZipFile, ZipFile, ZipInfo

from posenet_store.errors import PosenetStoreError

ENTRIES = 200_000
CHUNK = 1 << 20


def _refusal(entry: ZipInfo) -> str | None:
    """Why an entry is not unpacked, None if it may be; the raw name counts, not what zipfile makes of it."""
    name, kind = entry.orig_filename, stat.S_IFMT(entry.external_attr >> 16)
    if not name or "\\" in name or not name.isprintable() or PureWindowsPath(name).drive:
        return "has a name that is no plain path"
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        return "lies outside the archive's folder"
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link or a special file"
    return "is encrypted" if entry.flag_bits & 1 else None


def checked_entries(archive: ZipFile, limit: int) -> list[ZipInfo]:
    """Return the archive's files; raises PosenetStoreError for one that must not be unpacked, or for too much of them.

    `limit` is in bytes and holds for what the archive says of its unpacked size; no entry can unpack to more than it says.
    Raises OSError if the disk has less free.
    """
    entries = archive.infolist()
    for entry in entries:
        if reason := _refusal(entry):
            raise PosenetStoreError(f"{archive.filename}: the entry {entry.orig_filename!r} {reason}; nothing was unpacked")
    total = sum(entry.file_size for entry in entries)
    if len(entries) > ENTRIES or total > limit:
        raise PosenetStoreError(
            f"{archive.filename} holds {len(entries):,} entries of {total:,} bytes; at most {ENTRIES:,} of {limit:,} are "
            "accepted; nothing was unpacked"
        )
    files = [entry for entry in entries if not entry.is_dir()]
    if len({entry.filename.casefold() for entry in files}) < len(files):
        raise PosenetStoreError(f"{archive.filename} holds two entries of one name; nothing was unpacked")
    if total > (free := shutil.disk_usage(Path(archive.filename or ".").parent).free):
        raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}: {total:,} bytes to unpack, {free:,} free", archive.filename)
    return files


def unzip(path: Path, folder: Path, limit: int, advance: Callable[[int, int], None] = lambda done, files: None) -> None:
    """Unpack a zip archive into the empty `folder`; each file's checksum is compared with the archive's.

    `limit` is the most that all files together may take, in bytes. `advance(done, files)` counts files. Raises
    PosenetStoreError that names the archive if it is damaged or holds what must not be unpacked, OSError if the disk has
    no room; what is in `folder` then is for the caller to remove.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with ZipFile(path) as archive:
            files = checked_entries(archive, limit)
            for done, entry in enumerate(files, 1):
                target = folder / entry.filename
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(entry) as source, target.open("xb") as file:
                    shutil.copyfileobj(source, file, CHUNK)  # the checksum is compared at its end
                advance(done, len(files))
    except (BadZipFile, LargeZipFile, zlib.error, EOFError, NotImplementedError, FileExistsError, NotADirectoryError) as error:
        raise PosenetStoreError(f"{path} is no sound zip archive: {error}") from None
