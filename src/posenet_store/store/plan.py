"""The files of a store, spelled once: plan.json, commits/, manifest.json, and the records in them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from posenet_store.errors import StoreError
from posenet_store.files import canonical_json, parsed_json, sha256, sha256_file, sha256_pieces
from posenet_store.specs import FORMAT_VERSION, StoreSpec
from posenet_store.store.chunking import block_bounds

PLAN = "plan.json"
MANIFEST = "manifest.json"
RESTORE = "the store's build-store command, typed again, restores what is damaged"
Encoded = dict[str, list[bytes | memoryview]]
"""Files by name, relative to the store, as pieces one after another."""


@dataclass(frozen=True)
class Plan:
    """What plan.json says: the spec, for each row its image's id and digest, and the format's files beside the blocks."""

    spec: StoreSpec
    ids: tuple[str, ...]
    digests: tuple[str, ...]
    order: tuple[int, ...]
    provenance: dict[str, Any]
    files: tuple[dict[str, Any], ...] = ()

    @property
    def bounds(self) -> list[tuple[int, int]]:
        """(start, stop) of every block."""
        return block_bounds(self.spec.rows, self.spec.block_rows)

    def to_dict(self) -> dict[str, Any]:
        """Return the content of plan.json."""
        return {
            "format": "posenet_store",
            "version": FORMAT_VERSION,
            "fingerprint": self.spec.fingerprint,
            "spec": self.spec.to_dict(),
            "order": list(self.order),
            "image_ids": list(self.ids),
            "image_sha256": list(self.digests),
            "provenance": self.provenance,
            "files": list(self.files),
        }


def commit_name(block: int) -> str:
    """Return the place of the record that makes a block count."""
    return f"commits/b{block:05d}.json"


class Files(Protocol):
    """The files of a store, wherever they are, for reading; `name` is relative to the store, with "/"."""

    def __str__(self) -> str:
        """The store's path or URL."""
        ...

    def read(self, name: str) -> bytes:
        """Return a small file's bytes; raises FileNotFoundError."""
        ...

    def size(self, name: str) -> int | None:
        """Return a file's bytes, None if it is not there."""
        ...

    def sha256(self, name: str) -> str:
        """Return a file's digest; raises FileNotFoundError."""
        ...

    def open(self, name: str) -> BinaryIO:
        """Open a data file for reading at any place; raises FileNotFoundError."""
        ...


@dataclass(frozen=True)
class StoreFiles:
    """Every path of a store at the folder `root`."""

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
        """The record that makes a block count."""
        return self.root / commit_name(block)

    def __str__(self) -> str:
        return str(self.root)

    def read(self, name: str) -> bytes:
        """Return a file's bytes."""
        return (self.root / name).read_bytes()

    def size(self, name: str) -> int | None:
        """Return a file's bytes, None if it is not there."""
        path = self.root / name
        return path.stat().st_size if path.is_file() else None

    def sha256(self, name: str) -> str:
        """Return a file's digest."""
        return sha256_file(self.root / name)

    def open(self, name: str) -> BinaryIO:
        """Open a file for reading."""
        return (self.root / name).open("rb")


def file_entry(root: Path, path: Path) -> dict[str, Any]:
    """Return what a record says of a file: its path below `root`, its bytes, its SHA-256."""
    return {"path": path.relative_to(root).as_posix(), "bytes": path.stat().st_size, "sha256": sha256_file(path)}


def pieces_entry(name: str, pieces: Sequence[bytes | memoryview]) -> dict[str, Any]:
    """Return the same of a file that is still in memory."""
    return {"path": name, "bytes": sum(map(len, pieces)), "sha256": sha256_pieces(pieces)}


def fault_of(files: Files, entry: dict[str, Any], deep: bool) -> str | None:
    """Return how a file differs from its entry, None if it does not; only `deep` reads its bytes."""
    where, size = f"{files}/{entry['path']}", files.size(entry["path"])
    if size != entry["bytes"]:
        return f"{where} is missing" if size is None else f"{where} has {size} bytes instead of {entry['bytes']}"
    try:
        changed = deep and files.sha256(entry["path"]) != entry["sha256"]
    except OSError as error:
        return f"{where} can't be read ({error.strerror or error})"
    return f"{where} holds other bytes than were written" if changed else None


def read_object(files: Files, name: str) -> dict[str, Any]:
    """Read one of a store's JSON files; raises StoreError that names it if it is missing or damaged."""
    where = f"{files}/{name}"
    try:
        return parsed_json(files.read(name), where)
    except FileNotFoundError:
        raise StoreError(f"{where} is missing") from None
    except OSError as error:
        raise StoreError(f"{where} can't be read ({error.strerror or error})") from None


def signed(content: dict[str, Any]) -> dict[str, Any]:
    """Return `content` with the digest of itself."""
    return content | {"sha256": sha256(canonical_json(content))}


def is_signed(content: dict[str, Any]) -> bool:
    """True if `content` is what was signed."""
    return signed({key: value for key, value in content.items() if key != "sha256"}) == content


def read_manifest(files: Files) -> dict[str, Any]:
    """Read manifest.json; raises StoreError if it is missing, or is not what was sealed."""
    if files.size(MANIFEST) is None:
        raise StoreError(f"{files} is not sealed: its build has not ended; type the same build-store command to resume it")
    content = read_object(files, MANIFEST)
    if not is_signed(content):
        raise StoreError(f"{files}/{MANIFEST} was edited or damaged since the store was sealed; {RESTORE}")
    return content


def read_record(files: Files, block: int) -> dict[str, Any]:
    """Read a block's record; raises StoreError if it is missing, damaged, or of another block."""
    name = commit_name(block)
    content = read_object(files, name)
    # The first stores have records without a digest of themselves; their manifest has one of each.
    if content.get("block") != block or ("sha256" in content and not is_signed(content)):
        raise StoreError(f"{files}/{name} was edited or damaged since it was written")
    return content


def records_so_far(files: Files, plan: Plan) -> dict[int, dict[str, Any]]:
    """Return the records of the blocks that are committed now; raises StoreError if one is damaged."""
    committed = [block for block in range(len(plan.bounds)) if files.size(commit_name(block)) is not None]
    return {block: read_record(files, block) for block in committed}


def read_plan(files: Files) -> Plan:
    """Read plan.json; raises StoreError if this is no store, of another version, or does not match its fingerprint."""
    where = f"{files}/{PLAN}"
    if files.size(PLAN) is None:
        raise StoreError(f"{files} is not a store: it has no {PLAN}; `stores` lists those that are")
    content = read_object(files, PLAN)
    if content.get("format") != "posenet_store" or content.get("version") != FORMAT_VERSION:
        raise StoreError(
            f"{where} is of format {content.get('format')!r} version {content.get('version')!r}; "
            f"this program reads posenet_store version {FORMAT_VERSION}"
        )
    try:
        spec = StoreSpec.from_dict(content["spec"])
        lists = [tuple(content[key]) for key in ("image_ids", "image_sha256", "order")]
        entries = tuple({"path": str(e["path"]), "bytes": e["bytes"], "sha256": e["sha256"]} for e in content["files"])
        plan = Plan(spec, lists[0], lists[1], lists[2], content["provenance"], entries)
        recorded = content["fingerprint"]
    except StoreError as error:
        raise StoreError(f"{files}: {error}") from None
    except KeyError as error:
        raise StoreError(f"{where} lacks {error}; it was edited or damaged") from None
    except TypeError as error:
        raise StoreError(f"{where} holds a value of another type ({error}); it was edited or damaged") from None
    if recorded != spec.fingerprint or any(len(column) != spec.rows for column in lists):
        raise StoreError(f"{where} does not match its own fingerprint; it was edited or damaged")
    return plan
