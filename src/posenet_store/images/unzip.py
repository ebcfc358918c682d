"""Unzip an untrusted archive: only plain files inside the target folder, each compared with its checksum."""

import errno
import os
import shutil
import stat
import struct
import zlib
from collections.abc import Callable
from lzma import LZMAError
from pathlib import Path, PurePosixPath, PureWindowsPath
from zipfile import BadZipFile, LargeZipFile, ZipFile, ZipInfo

from posenet_store.errors import PosenetStoreError

MAX_ENTRIES = 200_000
CHUNK = 1 << 20
ARCHIVE_ERRORS = (
    BadZipFile, LargeZipFile, zlib.error, LZMAError, struct.error, EOFError, ValueError, RuntimeError, OverflowError
)  # fmt: skip
"""What zipfile raises for a damaged archive; one flipped bit may name another compression, or an offset before the start."""
ARCHIVE_ERRNOS = (None, errno.EINVAL, errno.ENAMETOOLONG, errno.EEXIST, errno.ENOTDIR, errno.EISDIR)


def unzip(path: Path, folder: Path, limit: int, advance: Callable[[int, int], None] = lambda done, files: None) -> None:
    """Unpack a zip archive into the empty `folder`; `advance(done, files)` counts files.

    `limit` is the maximum of all files together, in bytes. Raises PosenetStoreError if the archive is damaged or has
    forbidden entries, OSError if the disk has too little room; the caller then removes the content of `folder`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with ZipFile(path) as archive:
            files = _check_entries(archive, limit)
            for done, entry in enumerate(files, 1):
                target = folder / entry.filename
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(entry) as source, target.open("xb") as file:
                    shutil.copyfileobj(source, file, CHUNK)  # compares the checksum at the end
                advance(done, len(files))
    except (*ARCHIVE_ERRORS, OSError) as error:
        if isinstance(error, OSError) and error.errno not in ARCHIVE_ERRNOS:  # of the disk
            raise
        raise PosenetStoreError(f"{path} is not a valid zip archive: {error}") from None


def _check_entries(archive: ZipFile, limit: int) -> list[ZipInfo]:
    """Return the archive's files; raises PosenetStoreError for forbidden or too large content, OSError for a full disk.

    Sizes are those stated in the archive; zipfile never unpacks an entry to more than its stated size.
    """
    entries = archive.infolist()
    size = sum(entry.file_size for entry in entries)
    problem = next((f"the entry {e.orig_filename!r:.200} {why}" for e in entries if (why := _find_problem(e))), None)
    files = [] if problem else [entry for entry in entries if not entry.is_dir()]  # a name may be empty
    if len(entries) > MAX_ENTRIES or size > limit:
        problem = f"it holds {len(entries):,} entries of {size:,} bytes; at most {MAX_ENTRIES:,} of {limit:,} are accepted"
    elif len({entry.filename.casefold() for entry in files}) < len(files):
        problem = "it holds two entries of one name"
    if problem:
        raise PosenetStoreError(f"{archive.filename}: {problem}; nothing was unpacked")
    if size > (free := shutil.disk_usage(Path(archive.filename or ".").parent).free):
        raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}: {size:,} bytes to unpack, {free:,} free", archive.filename)
    return files


def _find_problem(entry: ZipInfo) -> str | None:
    """Return why an entry must not be unpacked, None if it may be; checks the raw name, not the one that zipfile derives."""
    name, kind = entry.orig_filename, stat.S_IFMT(entry.external_attr >> 16)
    if not name or "\\" in name or not name.isprintable() or PureWindowsPath(name).drive:
        return "has a name that is no plain path"
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        return "lies outside the archive's folder"
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link or a special file"
    return "is encrypted" if entry.flag_bits & 1 else None
