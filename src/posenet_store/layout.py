"""The files of a store, spelled once: plan.json, commits/, manifest.json, and the records in them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posenet_store.blocks import block_bounds
from posenet_store.errors import StoreError
from posenet_store.files import canonical_json, read_json, sha256, sha256_file
from posenet_store.specs import FORMAT_VERSION, StoreSpec

RESTORE = "the store's build-store command, typed again, restores what is damaged"


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


@dataclass(frozen=True)
class StoreFiles:
    """Every path of a store at `root`."""

    root: Path

    @property
    def plan(self) -> Path:
        return self.root / "plan.json"

    @property
    def manifest(self) -> Path:
        return self.root / "manifest.json"

    @property
    def commits(self) -> Path:
        return self.root / "commits"

    def commit(self, block: int) -> Path:
        """The record that makes a block count."""
        return self.commits / f"b{block:05d}.json"


def file_entry(root: Path, path: Path) -> dict[str, Any]:
    """Return what a record says of a file: its path below `root`, its bytes, its SHA-256."""
    return {"path": path.relative_to(root).as_posix(), "bytes": path.stat().st_size, "sha256": sha256_file(path)}


def fault_of(root: Path, entry: dict[str, Any], deep: bool) -> str | None:
    """Return how a file differs from its entry, None if it does not; only `deep` reads its bytes."""
    path = root / entry["path"]
    size = path.stat().st_size if path.is_file() else None
    if size != entry["bytes"]:
        return f"{path} is missing" if size is None else f"{path} has {size} bytes instead of {entry['bytes']}"
    if deep and sha256_file(path) != entry["sha256"]:
        return f"{path} holds other bytes than were written"
    return None


def signed(content: dict[str, Any]) -> dict[str, Any]:
    """Return `content` with the digest of itself."""
    return content | {"sha256": sha256(canonical_json(content))}


def read_manifest(files: StoreFiles) -> dict[str, Any]:
    """Read manifest.json; raises StoreError if it is missing, or is not what was sealed."""
    if not files.manifest.is_file():
        raise StoreError(f"{files.root} is not sealed: its build has not ended; type the same build-store command to resume it")
    content = read_json(files.manifest)
    if signed({key: value for key, value in content.items() if key != "sha256"}) != content:
        raise StoreError(f"{files.manifest} was edited or damaged since the store was sealed; {RESTORE}")
    return content


def read_plan(files: StoreFiles) -> Plan:
    """Read plan.json; raises StoreError if this is no store, of another version, or does not match its fingerprint."""
    if not files.plan.is_file():
        raise StoreError(f"{files.root} is not a store: it has no plan.json; `stores` lists those that are")
    content = read_json(files.plan)
    if content.get("format") != "posenet_store" or content.get("version") != FORMAT_VERSION:
        raise StoreError(
            f"{files.plan} is of format {content.get('format')!r} version {content.get('version')!r}; "
            f"this program reads posenet_store version {FORMAT_VERSION}"
        )
    try:
        spec = StoreSpec.from_dict(content["spec"])
        lists = [tuple(content[key]) for key in ("image_ids", "image_sha256", "order")]
        entries = tuple({"path": str(e["path"]), "bytes": e["bytes"], "sha256": e["sha256"]} for e in content["files"])
        plan = Plan(spec, lists[0], lists[1], lists[2], content["provenance"], entries)
        recorded = content["fingerprint"]
    except StoreError as error:
        raise StoreError(f"{files.root}: {error}") from None
    except KeyError as error:
        raise StoreError(f"{files.plan} lacks {error}; it was edited or damaged") from None
    except TypeError as error:
        raise StoreError(f"{files.plan} holds a value of another type ({error}); it was edited or damaged") from None
    if recorded != spec.fingerprint or any(len(column) != spec.rows for column in lists):
        raise StoreError(f"{files.plan} does not match its own fingerprint; it was edited or damaged")
    return plan
