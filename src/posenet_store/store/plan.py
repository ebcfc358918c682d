"""Plan: the content of plan.json, which is the spec of a store and the image of each row."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posenet_store.errors import StoreError, UsageError
from posenet_store.specs import FORMAT_VERSION, PIXELS, BackboneSpec, StoreSpec
from posenet_store.store.access import PLAN, Files, StoreFiles, read_store_json
from posenet_store.store.chunking import compute_block_bounds


@dataclass(frozen=True, repr=False)
class Plan:
    """The content of plan.json: a store's spec, each row's image id and digest, and the format's files outside the blocks.

    `order` is the index of each row's image in the image set.
    """

    spec: StoreSpec
    ids: tuple[str, ...]
    digests: tuple[str, ...]
    order: tuple[int, ...]
    provenance: dict[str, Any]
    files: tuple[dict[str, Any], ...] = ()

    def __repr__(self) -> str:
        return f"<Plan {self.spec.folder}: {self.spec.images}, {len(self.ids)} rows in {len(self.bounds)} blocks>"

    @property
    def bounds(self) -> list[tuple[int, int]]:
        """(start, stop) of every block."""
        return compute_block_bounds(self.spec.rows, self.spec.block_rows)

    def find_backbone_spec(self, weights: str | None = None, device: str = "auto") -> BackboneSpec:
        """Return how to load the store's network again, by default with the weights on record.

        Raises UsageError if there are none on record: the network was a user's own.
        """
        source = weights or self.provenance.get("weights_source")
        if not source and self.spec.backbone != PIXELS:  # they have no weights
            raise UsageError(
                f"{self.spec.folder} does not record where its weights come from: its network was wrapped in Python, or its "
                "plan.json was edited; give --weights if torchvision has the network, or use `repair_store` from Python"
            )
        return self.spec.backbone_spec(source or "imagenet", device)

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


def read_plan(files: Files) -> Plan:
    """Read plan.json; raises StoreError if this is no store, of another version, or does not match its fingerprint."""
    where = f"{files}/{PLAN}"
    if files.size(PLAN) is None:
        advice = "`stores` lists those that are" if isinstance(files, StoreFiles) else "check the address"
        raise StoreError(f"{files} is not a store: it has no {PLAN}; {advice}")
    content = read_store_json(files, PLAN)
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


def find_folder(root: Path, spec: StoreSpec) -> Path:
    """Return the folder below `root` of the store of `spec`, made under the present name of its images or another.

    The fingerprint says what a store is; the name of the images' folder is a label, and the folder may have been renamed.
    """
    folder = root / spec.folder
    for other in sorted(root.glob(f"*-{spec.fingerprint[:8]}")) if not folder.exists() else ():
        with suppress(StoreError, OSError):
            if read_plan(StoreFiles(other)).spec.fingerprint == spec.fingerprint:
                return other
    return folder
