"""The files of a store, spelled once: plan.json, commits/, manifest.json, and the records in them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posenet_store.blocks import block_bounds
from posenet_store.errors import StoreError
from posenet_store.files import read_json
from posenet_store.specs import FORMAT_VERSION, StoreSpec


@dataclass(frozen=True)
class Plan:
    """What plan.json says: the spec, and for each row its image's id and digest."""

    spec: StoreSpec
    ids: tuple[str, ...]
    digests: tuple[str, ...]
    order: tuple[int, ...]
    provenance: dict[str, Any]

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
        plan = Plan(spec, lists[0], lists[1], lists[2], content["provenance"])
        recorded = content["fingerprint"]
    except StoreError as error:
        raise StoreError(f"{files.root}: {error}") from None
    except KeyError as error:
        raise StoreError(f"{files.plan} lacks {error}; it was edited or damaged") from None
    if recorded != spec.fingerprint or any(len(entries) != spec.rows for entries in lists):
        raise StoreError(f"{files.plan} does not match its own fingerprint; it was edited or damaged")
    return plan
