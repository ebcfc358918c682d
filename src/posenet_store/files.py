"""Write files durably and compute digests; every write and digest of the project is made here."""

import errno
import fcntl
import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, BinaryIO, NamedTuple

import google_crc32c
import numpy as np

from posenet_store.errors import StoreError, UsageError
from posenet_store.temporaries import name_temporary

NAME_BYTES = 140
"""Bytes of a name that is made of labels; file systems accept 255."""
TENSOR_SUFFIXES = (".pth", ".pt", ".safetensors")
"""Of files of weights and of heads."""
WITHOUT_LOCKS = (errno.ENOLCK, errno.EBADF, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
"""What disks say that have no locks, such as NFS without its lock daemon."""


def expand_user(path: str | Path) -> Path:
    """Return a path with the folder of a user in place of `~`; that of an unknown user stays as it is.

    >>> expand_user("~nobody-knows/a")
    PosixPath('~nobody-knows/a')
    """
    return Path(os.path.expanduser(path))  # noqa: PTH111 - that of Path raises RuntimeError


class FileIdentity(NamedTuple):
    """What tells a file from any other that has had its name; `modified` in ns since 1970."""

    device: int
    inode: int
    bytes: int
    modified: int

    @classmethod
    def of(cls, status: os.stat_result) -> "FileIdentity":
        """Return the identity of the file that has a status."""
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def canonical_json(value: object) -> bytes:
    """Encode `value` so that equal values give equal bytes (sorted keys, no spaces, no NaN).

    >>> canonical_json({"b": 1, "a": [1.5]})
    b'{"a":[1.5],"b":1}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def sha256(data: bytes | memoryview) -> str:
    """Return the SHA-256 of `data` in hexadecimal."""
    return sha256_pieces([data])


def sha256_pieces(pieces: Iterable[bytes | memoryview]) -> str:
    """Return the SHA-256 of consecutive pieces in hexadecimal.

    >>> sha256_pieces([b"a", b"b"]) == sha256(b"ab")
    True
    """
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


def crc32c(data: bytes | memoryview) -> int:
    """Return the CRC-32C of `data`; ten times as fast as a digest, for data that is read often."""
    return int(google_crc32c.value(np.frombuffer(data, np.uint8)))  # it accepts no memoryview


def check_not_endless(path: Path) -> os.stat_result:
    """Return the status of a file; raises OSError for a pipe or a device, of which reading may never end."""
    status = path.stat()
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
        raise OSError(errno.EINVAL, "a pipe or a device, not a file", str(path))
    return status


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes; raises OSError if it can't be read."""
    check_not_endless(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def find_existing(path: Path) -> Path:
    """Return the nearest folder or file at or above `path` that exists."""
    return next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())


def check_folder(path: Path, option: str) -> None:
    """Raise UsageError if a path that should be a folder, or will become one, is a file or below one.

    >>> check_folder(Path("no/such/folder"), "--stores")
    """
    _find_folder(path, f"{option} {path}")


def check_writable(path: Path, option: str) -> None:
    """Raise UsageError if nothing can be written to a folder that exists, or where it would be made."""
    _try_to_write(path, f"{option} {path}")


def check_file_path(path: Path, option: str) -> None:
    """Raise UsageError if a file can't be written at `path`."""
    if path.is_dir():
        raise UsageError(f"{option} {path} is a folder; give the path of a file")
    _try_to_write(path.parent, f"{option} {path}")


def _find_folder(path: Path, wanted: str) -> Path:
    """Return the nearest folder that exists; raises UsageError that begins with what was `wanted` if that is in the way."""
    if path.is_symlink() and not path.exists():
        raise UsageError(f"{wanted} is a link to {path.readlink()}, which does not exist; remove the link, or mount the disk")
    if not (existing := find_existing(path)).is_dir():
        raise UsageError(f"{wanted} is not accepted: {existing} is a file, not a folder")
    return existing


def _try_to_write(path: Path, wanted: str) -> None:
    try:
        with TemporaryFile(dir=_find_folder(path, wanted)):
            return
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UsageError(f"{wanted} can't be written ({error.strerror}); give another place") from None


def fsync(path: Path) -> None:
    """Flush a file's bytes, or a folder's entries, to the disk, so that they survive a power cut.

    Does nothing for a folder of a file system that can't flush folders (CIFS).
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not (path.is_dir() and error.errno in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS)):
            raise
    finally:
        os.close(descriptor)


def make_folder(path: Path) -> None:
    """Make a folder, and those above it that are missing, each synced in the one above; do nothing if it exists."""
    if not path.is_dir():
        make_folder(path.parent)
        path.mkdir(exist_ok=True)
        fsync(path.parent)


@contextmanager
def lock_folder(root: Path, refusal: str, announce: Callable[[str], None]) -> Iterator[None]:
    """Let no other process that asks for it work in a folder that exists; the lock, on its file `.lock`, ends with the process.

    Raises UsageError with the text `refusal` if another one does. Goes on without a lock, and announces that, where the disk
    has none.
    """
    path = root / ".lock"
    file = path.open("ab")
    try:
        while not _lock(file, path):
            file.close()
            file = path.open("ab")
    except OSError as error:
        if isinstance(error, BlockingIOError) or error.errno not in WITHOUT_LOCKS:
            file.close()
            raise (UsageError(refusal) if isinstance(error, BlockingIOError) else error) from None
        announce(f"{root} can't be locked ({error.strerror}): let no other command write there at the same time")
    with file:
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _lock(file: BinaryIO, path: Path) -> bool:
    """Lock a file; return whether it still is the one at `path`: who had the lock may just have removed it."""
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with suppress(FileNotFoundError):
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    return False


def to_utf8(name: str) -> str:
    """Return a path's text with bytes that are not valid UTF-8 escaped, so that it can be recorded and printed.

    >>> to_utf8(os.fsdecode(b"caf\\xe9")) == r"caf\\xe9"
    True
    """
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def shorten_name(label: str) -> str:
    """Return a label as far as a file's name has room for it, beside a digest and what `name_temporary` adds.

    Colons are replaced too: `scp` would take what precedes one for a machine.

    >>> shorten_name("photos"), shorten_name("a/b"), len(shorten_name("x" * 300))
    ('photos', 'a-b', 140)
    """
    return label.replace("/", "-").replace(":", "-").encode(errors="backslashreplace")[:NAME_BYTES].decode(errors="ignore")


@contextmanager
def replace_atomically(path: Path) -> Iterator[Path]:
    """Yield a unique temporary path beside `path`; on success that file is synced and replaces `path` in one step.

    A missing folder is created. After a failure before the replacement the temporary is removed and `path` is unchanged.
    Raises StoreError if `path` is a folder; it is not removed, since it may be the user's.
    """
    if path.is_dir():
        raise StoreError(f"{path} is a folder where a file belongs; move it away and rerun the command")
    make_folder(path.parent)
    temporary = name_temporary(path)
    try:
        yield temporary
        fsync(temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync(path.parent)


def write_atomic(path: Path, data: bytes | memoryview) -> None:
    """Write `data` to `path` so that a reader sees the old file or the complete new one, never a part."""
    with replace_atomically(path) as temporary:
        temporary.write_bytes(data)


def replace_unsynced(path: Path, data: bytes) -> None:
    """Replace `path` in one step without syncing it, for short-lived data; only one process may write to a path."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(data)
    temporary.replace(path)


def format_json(value: object) -> bytes:
    """Encode `value` as readable JSON."""
    return json.dumps(value, indent=1, sort_keys=True, allow_nan=False).encode() + b"\n"


def write_json(path: Path, value: object) -> None:
    """Write `value` as readable JSON, atomically."""
    write_atomic(path, format_json(value))


def _refuse_constant(name: str) -> float:
    """Refuse NaN and infinity, which JSON does not have and this module never writes."""
    raise ValueError(f"{name} is not a number")


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object; raises ValueError if a key is there twice, of which two programs might take different ones."""
    if len(fields := dict(pairs)) < len(pairs):
        raise ValueError("a key is there twice")
    return fields


def parse_json(data: bytes, where: object) -> dict[str, Any]:
    """Parse a JSON object; raises StoreError that names `where` if it is not one."""
    try:
        value = json.loads(data, parse_constant=_refuse_constant, object_pairs_hook=_refuse_duplicates)
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{where} is not valid JSON ({error}); it was damaged after it was written") from None
    if not isinstance(value, dict):
        raise StoreError(f"{where} holds a {type(value).__name__}, not an object; it was damaged")
    return value


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; raises StoreError that names the file if it is missing or not one."""
    try:
        return parse_json(path.read_bytes(), path)
    except FileNotFoundError:
        raise StoreError(f"{path} is missing") from None
