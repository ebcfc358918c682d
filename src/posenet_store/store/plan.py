"""Plan: the content of plan.json, which is the spec of a store and the image of each row."""

from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from math import ceil
from pathlib import Path
from typing import Any

from posenet_store.errors import PosenetStoreError, StoreError, UsageError
from posenet_store.specs import FORMAT_VERSION, LEARNED, PIXELS, BackboneSpec, StoreSpec
from posenet_store.store.access import MANIFEST, PLAN, Files, StoreFiles, read_store_json
from posenet_store.store.chunking import compute_block_bounds, count_row_bytes
from posenet_store.store.fields import (
    are_files,
    find_misfit,
    is_count,
    is_counts,
    is_digest,
    is_label,
    is_number,
    is_object,
    is_positive,
    is_text,
    is_texts,
    list_of,
    object_of,
)
from posenet_store.threads import cached_property

LIMITS = {"taps": 1_000, "rows in a block": 1 << 20, "blocks": 200_000, "bytes in a block": 16 << 30}
"""The sizes up to which stores are built and opened."""


def _is_side(value: Any) -> bool:
    return is_positive(value) and value < 2**24


def _are_taps(value: Any) -> bool:
    """Return whether a value is a list of taps f1, f2, ..., whose names are those of files, too."""
    few = type(value) is list and 0 < len(value) <= LIMITS["taps"]
    return (
        few and list_of(_TAP)(value) and [tap["name"] for tap in value] == [f"f{number}" for number in range(1, len(value) + 1)]
    )


_TAP = object_of({"name": is_label, "module": is_text, "shape": list_of(_is_side, 3)})
_NUMBERS = list_of(is_number, 3)
_PREPROCESS = {"size": _is_side, "scale": is_number, "mean": _NUMBERS, "std": _NUMBERS, "order": is_label}
_RESIZE = {"crop_mode": is_label, "crop_pct": lambda share: is_number(share) and 0 < share <= 1, "interpolation": is_label}
"""Fields that are there only where they are not the paper's."""


def _is_preprocess(value: Any) -> bool:
    """Return whether a value says how images are preprocessed."""
    known = object_of(_PREPROCESS)(value)
    return known and find_misfit(value, {name: check for name, check in _RESIZE.items() if name in value}) is None


def _is_spec(value: Any) -> bool:
    """Return whether a value has the fields of a spec; rows at which a store was extended ascend."""
    if not object_of(_SPEC)(value) or not is_counts(value.get("tokens", [])):
        return False
    edges = value.get("extended_at", [])
    return is_counts(edges) and all(first < last for first, last in pairwise([0, *edges, value["rows"]]))


_LABELS = ("backbone", "weights", "weights_sha256", "images", "images_sha256", "layout", "dtype", "format")
_SPEC = (
    dict.fromkeys((*_LABELS, "compute", "padding", "weights_kind"), is_label)
    | dict.fromkeys(("rows", "block_rows"), is_positive)
    | {"taps": _are_taps, "tap_set": is_text, "preprocess": _is_preprocess, "permutation_seed": is_count}
)
PLAN_FIELDS = {
    "fingerprint": is_digest,
    "spec": _is_spec,
    "order": is_counts,
    "image_ids": is_texts,
    "image_sha256": is_texts,
    "provenance": is_object,
    "files": are_files,
}


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

    def __post_init__(self) -> None:
        spec = self.spec
        sizes = (len(spec.taps), spec.block_rows, ceil(spec.rows / spec.block_rows), spec.block_rows * count_row_bytes(spec))
        for (what, limit), size in zip(LIMITS.items(), sizes, strict=True):
            if size > limit:
                raise UsageError(f"a store of {size:,} {what} is not accepted; at most {limit:,} are")

    def __repr__(self) -> str:
        return f"<Plan {self.spec.folder}: {self.spec.images}, {len(self.ids)} rows in {len(self.bounds)} blocks>"

    @cached_property
    def bounds(self) -> list[tuple[int, int]]:
        """(start, stop) of every block."""
        return compute_block_bounds(self.spec.rows, self.spec.block_rows)

    def list_images(self) -> list[tuple[str, str]]:
        """Return the name and digest of each image, in the order of the image set."""
        rows = sorted(range(len(self.order)), key=self.order.__getitem__)
        return [(self.ids[row], self.digests[row]) for row in rows]

    @property
    def batch_size(self) -> int | None:
        """Images a forward pass of the build, None if that is not on record."""
        computed_on = self.provenance.get("computed_on")
        size = computed_on.get("batch_size") if isinstance(computed_on, dict) else None
        return size if is_positive(size) else None

    def find_backbone_spec(self, weights: str | None = None, device: str = "auto") -> BackboneSpec:
        """Return how to load the store's network again, by default with the weights on record.

        Raises UsageError if there are none on record: the network was a user's own.
        """
        source = weights or self.provenance.get("weights_source")
        if not source and self.spec.backbone != PIXELS:  # they have no weights
            raise UsageError(
                f"{self.spec.folder} does not record where its weights come from: its network was wrapped in Python, or its "
                "plan.json was edited; give --weights if torchvision has the network, or use `repair_store` or `extend_store` "
                "from Python"
            )
        changes = {"positions": self.provenance.get("positions", LEARNED), "erase": self.provenance.get("erase", "")}
        return replace(self.spec.backbone_spec(source or "imagenet", device), **changes)

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
    """Read plan.json; raises UsageError if this is no store, StoreError if it is damaged or of another version."""
    where = f"{files}/{PLAN}"
    if files.size(PLAN) is None:
        if files.size(MANIFEST) is not None or (isinstance(files, StoreFiles) and files.commits.is_dir()):
            raise StoreError(f"{where} is missing; {files.advise('to restore it')}")
        advice = "`stores` lists those that are" if isinstance(files, StoreFiles) else "check the address"
        raise UsageError(f"{files} is not a store: it has no {PLAN}; {advice}")
    content = read_store_json(files, PLAN)
    if content.get("format") != "posenet_store" or content.get("version") != FORMAT_VERSION:
        raise StoreError(
            f"{where} is of format {content.get('format')!r:.40} version {content.get('version')!r:.40}; "
            f"this program reads posenet_store version {FORMAT_VERSION}"
        )
    if misfit := find_misfit(content, PLAN_FIELDS):
        raise StoreError(f"{where} {misfit}; it was edited or damaged")
    try:
        spec = StoreSpec.from_dict(content["spec"])
        lists = [tuple(content[key]) for key in ("image_ids", "image_sha256", "order")]
        plan = Plan(spec, lists[0], lists[1], lists[2], content["provenance"], tuple(content["files"]))
    except (StoreError, UsageError) as error:
        raise StoreError(f"{files}: {error}") from None
    if content["fingerprint"] != spec.fingerprint or any(len(column) != spec.rows for column in lists):
        raise StoreError(f"{where} does not match its own fingerprint; it was edited or damaged")
    return plan


def find_folder(root: Path, spec: StoreSpec) -> Path:
    """Return the folder below `root` of the store of `spec`, made under the present name of its images or another.

    The fingerprint says what a store is; the name of the images' folder is a label, and the folder may have been renamed.
    """
    folder = root / spec.folder
    for other in sorted(root.glob(f"*-{spec.fingerprint[:8]}")) if not folder.exists() else ():
        with suppress(PosenetStoreError, OSError):
            if read_plan(StoreFiles(other)).spec.fingerprint == spec.fingerprint:
                return other
    return folder
