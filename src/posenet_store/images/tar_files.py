"""List the images in tar files, such as WebDataset shards: each is read at its place, and nothing is unpacked.

The headers are read here and not by `tarfile`, which takes the memory that an archive asks for. Whatever is not a plain file
(a link, a device) is left out: no name of an archive is ever opened.
"""

import glob
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, BinaryIO

from posenet_store.errors import UsageError, printable
from posenet_store.files import check_not_endless, expand_user

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

SUFFIX = ".tar"
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
BLOCK = 512
MAX_ENTRIES = 2**22
"""Entries of an archive at most; a sample of a WebDataset has two to four."""
MAX_HEADER = 1 << 20
"""Bytes of the entries that hold a long name or further fields of the next one."""
MAX_SHARDS = 10_000
RANGE = re.compile(r"\{([0-9]{1,9})\.\.([0-9]{1,9})\}")
"""Numbers of shards in a pattern: {000..012}."""
WITHOUT_DATA = b"123456"
"""Kinds of entries that nothing follows: links, devices, folders, pipes."""


@dataclass(frozen=True)
class TarMember:
    """An entry of a tar file: `size` bytes from `offset` on; one that is not `plain` is a link, a device or the like."""

    archive: Path
    name: str
    offset: int
    size: int
    plain: bool = True

    def __str__(self) -> str:
        return f"{self.archive}: {self.name}"

    def open(self) -> BinaryIO:
        """Open the member for reading, seekable."""
        return io.BufferedReader(_Window(self))


class _Window(io.RawIOBase):
    """The bytes of a member as a file."""

    def __init__(self, member: TarMember) -> None:
        self._file, self._start, self._size, self._position = member.archive.open("rb"), member.offset, member.size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a position, counted from the start, from here or from the end."""
        self._position = max(0, offset + (0, self._position, self._size)[whence])
        return self._position

    def readinto(self, buffer: "WriteableBuffer") -> int:
        """Read up to as many bytes as the buffer has, none at the end of the member."""
        view = memoryview(buffer).cast("B")
        self._file.seek(self._start + self._position)
        count = self._file.readinto(view[: max(0, min(len(view), self._size - self._position))])
        self._position += count
        return count

    def close(self) -> None:
        """Close the archive."""
        self._file.close()
        super().close()


def is_tar(source: str) -> bool:
    """Return whether `source` names tar files, also by a pattern or with a range of numbers, and is no folder.

    >>> is_tar("shards-{000..012}.tar"), is_tar("photo.jpg")
    (True, False)
    """
    return source.lower().endswith((SUFFIX, *COMPRESSED)) and not expand_user(source).is_dir()


def find_archives(source: str) -> list[Path]:
    """Return the tar files that a path, a pattern or a range of numbers names, in order.

    Raises UsageError if there is none, one is missing, or they are compressed.
    """
    if source.lower().endswith(COMPRESSED):
        raise UsageError(f"{source} is compressed, so that single images can't be read: unpack it to a .tar file first")
    names = _expand_ranges(str(expand_user(source)))
    paths = [Path(name) for text in names for name in (sorted(glob.glob(text)) if glob.has_magic(text) else [text])]  # noqa: PTH207
    if missing := [path for path in paths if not path.is_file()]:
        raise UsageError(f"{missing[0]} is no file ({len(missing)} of {len(paths)} tar files of {source} are missing)")
    if not paths:
        raise UsageError(f"no tar file matches {source}")
    return paths


def _expand_ranges(text: str) -> list[str]:
    """Return a text once for each number of its ranges, as the shell does; raises UsageError for too many.

    >>> _expand_ranges("a-{08..10}.tar")
    ['a-08.tar', 'a-09.tar', 'a-10.tar']
    """
    counts = [int(last) - int(first) + 1 for first, last in RANGE.findall(text)]
    if min(counts, default=1) < 1 or prod(counts) > MAX_SHARDS:
        raise UsageError(f"{text} is not accepted; give ranges that ascend, of at most {MAX_SHARDS:,} tar files together")
    if not (match := RANGE.search(text)):
        return [text]
    first, last = match.groups()
    numbers = [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]
    return [
        name for number in numbers for name in _expand_ranges(f"{text[: match.start()]}{number}{text[match.end() :]}")
    ]  # fmt: skip


def list_members(archive: Path) -> Iterator[TarMember]:
    """Yield the entries of a tar file but folders, in order.

    Raises UsageError if it is no tar file, cut short, or has an entry that is not accepted.
    """
    size, entries = check_not_endless(archive).st_size, 0
    with archive.open("rb") as file:
        fields: dict[str, str] = {}
        position = 0
        while (header := file.read(BLOCK)) != bytes(BLOCK):
            if len(header) < BLOCK:
                raise UsageError(f"{archive} is cut short: the end of a tar file is missing; copy or download it again")
            entries += 1
            kind, name, length = _parse_header(header, archive, fields)
            start = position + BLOCK
            length = 0 if kind in WITHOUT_DATA else length
            if entries > MAX_ENTRIES:
                raise UsageError(f"{archive} has more than {MAX_ENTRIES:,} entries")
            if start + length > size:
                raise UsageError(f"{archive} is cut short: {name!r:.200} ends behind it; copy or download it again")
            if kind in b"LKxg":
                fields |= _read_fields(file, kind, length, archive)
            else:
                fields = {}
                if kind in b"0\x007":
                    yield TarMember(archive, _check_name(name, archive), start, length)
                elif kind != b"5":
                    yield TarMember(archive, name, start, length, plain=False)
            position = start + -(-length // BLOCK) * BLOCK
            file.seek(position)


def _parse_header(header: bytes, archive: Path, fields: dict[str, str]) -> tuple[bytes, str, int]:
    """Return the kind, name and size of an entry; `fields` are those that preceded it, which count more."""
    if _parse_number(header[148:156], archive) != sum(header) - sum(header[148:156]) + 8 * ord(" "):
        raise UsageError(f"{archive} is no tar file, or damaged: a header does not have its checksum")
    name = _decode(header[:100])
    if header[257:263] == b"ustar\0" and header[345] and (prefix := _decode(header[345:500])):
        name = f"{prefix}/{name}"
    kind = header[156:157]
    if kind == b"S" or any(field.startswith("GNU.sparse") for field in fields):
        raise UsageError(f"{archive}: {name!r:.200} is a sparse file, which is not accepted; make the archive without --sparse")
    if kind not in b"LKxg":
        name = fields.get("path", name)
        if (length := fields.get("size", "")) and re.fullmatch("[0-9]{1,18}", length):
            return kind, name, int(length)
    return kind, name, _parse_number(header[124:136], archive)


def _decode(field: bytes) -> str:
    """Return the text of a field that ends at the first NUL."""
    return field.split(b"\0", 1)[0].decode("utf-8", "backslashreplace")


def _parse_number(field: bytes, archive: Path) -> int:
    """Return a number in octal, or in base 256 as GNU writes large ones; raises UsageError if it is neither."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    text = field.strip(b" \0")
    if not re.fullmatch(b"[0-7]*", text):
        raise UsageError(f"{archive} is no tar file, or damaged: {field!r:.60} is no number")
    return int(text or b"0", 8)


def _read_fields(file: BinaryIO, kind: bytes, length: int, archive: Path) -> dict[str, str]:
    """Return the fields for the next entry: a long name (GNU), or records such as `20 path=a/b.jpg` (POSIX)."""
    if length > MAX_HEADER:
        raise UsageError(f"{archive}: the fields of an entry have {length:,} bytes; at most {MAX_HEADER:,} are read")
    data, fields = file.read(length), dict[str, str]()
    if kind == b"L":
        return {"path": _decode(data)}
    while kind == b"x" and data:
        digits = data.split(b" ", 1)[0]
        count = int(digits) if re.fullmatch(b"[0-9]{1,9}", digits) else 0
        name, mark, value = data[len(digits) + 1 : count - 1].partition(b"=")
        if not mark or not len(digits) < count <= len(data):
            raise UsageError(f"{archive} is no tar file, or damaged: the fields of an entry can't be read")
        fields[_decode(name)] = value.decode("utf-8", "backslashreplace")
        data = data[count:]
    return fields


def _check_name(name: str, archive: Path) -> str:
    """Return the name of a member without a leading ./; raises UsageError if it is no plain path below the archive."""
    path = PurePosixPath(name)
    if not path.parts or path.is_absolute() or ".." in path.parts or not name.isprintable():
        raise UsageError(f"{archive}: the entry {printable(name)!r:.200} has a name that is no plain path below a folder")
    return str(path)
