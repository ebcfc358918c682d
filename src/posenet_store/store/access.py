"""Name the files of a store, and read them from a folder; `access_remote` reads them from a URL."""

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG
from time import monotonic, sleep
from typing import Any, BinaryIO, Protocol

from posenet_store.errors import StoreError
from posenet_store.files import FileIdentity, check_not_endless, parse_json, sha256_file

PLAN = "plan.json"
MANIFEST = "manifest.json"
JSON_BYTES = 512 << 20
"""The largest JSON file that is read and written: a plan has some 120 bytes for each image."""
REMEMBERED = 30.0
"""Seconds for which network disks remember that a name was missing; sshfs, NFS and SMB do so for 20, 30 and 10."""
EncodedFiles = dict[str, list[bytes | memoryview]]
"""File name, relative to the store -> the file's bytes as consecutive pieces."""


def name_record(block: int) -> str:
    """Return the name of the record that commits a block."""
    return f"commits/b{block:05d}.json"


class Files(Protocol):
    """The files of a store in a folder or behind a URL, for reading; `name` is relative to the store, with "/"."""

    def __str__(self) -> str:
        """The store's path or URL."""
        ...

    def advise(self, purpose: str) -> str:
        """Return what to do about an incomplete or damaged store, such as `rerun ... to restore what is damaged`."""
        ...

    def read(self, name: str) -> bytes:
        """Return a JSON file's bytes; raises FileNotFoundError, and StoreError if it is larger than `JSON_BYTES`."""
        ...

    def size(self, name: str) -> int | None:
        """Return a file's size in bytes, None if it does not exist."""
        ...

    def sha256(self, name: str) -> str:
        """Return a file's digest; raises FileNotFoundError."""
        ...

    def open(self, name: str) -> BinaryIO:
        """Open a data file for reading, seekable; raises FileNotFoundError."""
        ...

    def identify(self, name: str) -> Hashable:
        """Return what tells the bytes that `open` gives now from others, without reading them; None if that is unknown."""
        ...

    def forget(self, name: str) -> bool:
        """Drop a file from memory, so that it is fetched again; returns whether it was there."""
        ...


@dataclass(frozen=True)
class StoreFiles:
    """The files and paths of a store in the folder `root`."""

    root: Path

    @property
    def plan(self) -> Path:
        return self.root / PLAN

    @property
    def manifest(self) -> Path:
        return self.root / MANIFEST

    @property
    def commits(self) -> Path:
        return self.root / "commits"

    def commit(self, block: int) -> Path:
        """Return the path of the record that commits a block."""
        return self.root / name_record(block)

    def list_recorded(self, blocks: Iterable[int]) -> list[int]:
        """Return those blocks whose record the folder lists.

        Some network disks remember for a while that a name was missing, although their list has it: wait until it opens.
        """
        deadline = monotonic() + REMEMBERED
        while True:
            names = {path.name for path in self.commits.glob("b*.json")}
            listed = [block for block in blocks if self.commit(block).name in names]
            if monotonic() > deadline or all(self.commit(block).exists() for block in listed):
                return listed
            sleep(1)

    def __str__(self) -> str:
        return str(self.root)

    def advise(self, purpose: str) -> str:
        """Return what to do about an incomplete or damaged store."""
        return f"rerun the build-store command {purpose}"

    def read(self, name: str) -> bytes:
        """Return a JSON file's bytes; raises StoreError if it is larger than `JSON_BYTES`."""
        if (size := check_not_endless(self.root / name).st_size) > JSON_BYTES:
            raise StoreError(f"{self}/{name} has {size:,} bytes; at most {JSON_BYTES:,} are read: is it a file of this store?")
        return (self.root / name).read_bytes()

    def size(self, name: str) -> int | None:
        """Return a file's size in bytes, None if it does not exist."""
        try:
            status = (self.root / name).stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return status.st_size if S_ISREG(status.st_mode) else None

    def sha256(self, name: str) -> str:
        """Return a file's digest."""
        return sha256_file(self.root / name)

    def open(self, name: str) -> BinaryIO:
        """Open a file for reading."""
        return (self.root / name).open("rb")

    def identify(self, name: str) -> Hashable:
        """Return what tells a file from any other of its name."""
        try:
            return FileIdentity.of((self.root / name).stat())
        except OSError:
            return None

    def forget(self, name: str) -> bool:
        """Return False: nothing is kept in memory."""
        return False


def read_store_json(files: Files, name: str) -> dict[str, Any]:
    """Read a JSON file of a store; raises StoreError that names the file if it is missing or damaged."""
    where = f"{files}/{name}"
    try:
        return parse_json(files.read(name), where)
    except FileNotFoundError:
        raise StoreError(f"{where} is missing") from None
    except OSError as error:
        raise StoreError(f"{where} can't be read ({error.strerror or error})") from None
