"""StoreWriter: create a store, commit its blocks one by one, resume it and seal it.

Each block is written in the order data, fsync, rename, record: it counts once its record in commits/ exists, and the
record has the digests of its files. A kill at any moment therefore loses at most what is not written yet.
"""

import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import isfinite, nan
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from posenet_store.errors import BuildError, StoreError
from posenet_store.files import canonical_json, fsync, make_folder, sha256, sha256_file, write_json, write_pieces
from posenet_store.store.access import StoreFiles
from posenet_store.store.feature_statistics import compute_statistics
from posenet_store.store.formats import list_block_files, load_format
from posenet_store.store.plan import Plan, find_folder, read_plan
from posenet_store.store.records import (
    EncodedFiles,
    add_digest,
    describe_file,
    describe_pieces,
    find_fault,
    read_manifest,
    read_record,
    summarize_records,
)
from posenet_store.threads import map_on_threads

FLOAT16_MAX = 65504.0
NOT_FINITE = "are the weights intact? If the network computes in float16, it may overflow there: --precision bfloat16"


@dataclass(frozen=True)
class QuarantinedImage:
    """An image that could not be read: its row holds NaN in every array, and readers skip it."""

    row: int
    image_id: str
    reason: str


@dataclass(frozen=True)
class EncodedBlock:
    """A block ready to be written: its files as pieces, and the record that commits it."""

    block: int
    files: EncodedFiles
    record: dict[str, Any]


def check_range(name: str, low: float, high: float, dtype: str) -> None:
    """Raise BuildError that names the array and its extreme if a value is not finite or too large for the store's dtype.

    >>> check_range("f1", 0.0, 1.0, "float16")
    """
    if not (isfinite(low) and isfinite(high)):
        raise BuildError(f"tap {name} holds NaN or infinite features before any cast; {NOT_FINITE}")
    if dtype == "float16" and (largest := max(-low, high)) > FLOAT16_MAX:
        raise BuildError(
            f"tap {name} reaches {largest:.4g}, more than float16 holds ({FLOAT16_MAX:.0f}); build again with --dtype float32"
        )


def count_files(plan: Plan) -> int:
    """Return the number of files of the sealed store: blocks, their records, the format's own, plan and manifest."""
    block_files = len(list_block_files(plan.spec, 0))
    return len(plan.bounds) * (block_files + 1) + load_format(plan.spec.format).count_other_files(plan.spec) + 2


class StoreWriter:
    """A store that is being built; `open` creates or resumes it."""

    def __init__(self, files: StoreFiles, plan: Plan) -> None:
        self.files = files
        self.plan = plan

    @classmethod
    def open(cls, root: Path, plan: Plan, folder: Path | None = None) -> "StoreWriter":
        """Create the store of `plan` below `root`, or resume it; damaged plans and metadata are restored.

        `folder` is where it lies, if that is known already: a store may have been renamed.

        Blocks whose record changed since the store was sealed are taken out, to be extracted again. Raises StoreError if
        the folder holds something else.
        """
        files = StoreFiles(folder or find_folder(root, plan.spec))
        if not files.root.exists():
            _create_store(files, plan)
        elif not _has_intact_plan(files, plan):
            _restore_metadata(files, plan)
        writer = cls(files, read_plan(files))
        if changed := writer._list_changed():
            writer.unseal(changed)
        return writer

    def _list_changed(self) -> list[int]:
        """Return the blocks whose record is not the one in the manifest: sealing again would declare them undamaged."""
        try:
            manifest = read_manifest(self.files)
        except StoreError:
            return []
        if manifest["fingerprint"] != self.plan.spec.fingerprint:
            return []
        records = [(block, self.files.commit(block), digest) for block, digest in enumerate(manifest["commits_sha256"])]
        return [block for block, path, digest in records if path.is_file() and sha256_file(path) != digest]

    @property
    def sealed(self) -> bool:
        """True if there is an intact manifest that names the plan and all records."""
        try:
            manifest = read_manifest(self.files)
            digests = [sha256_file(self.files.commit(block)) for block in range(len(self.plan.bounds))]
            return bool(manifest["commits_sha256"] == digests and manifest["plan_sha256"] == sha256_file(self.files.plan))
        except (StoreError, OSError):
            return False

    def unseal(self, blocks: Sequence[int]) -> None:
        """Take blocks out of the store: remove the manifest first, then their records."""
        self.files.manifest.unlink(missing_ok=True)
        for block in blocks:
            self.files.commit(block).unlink(missing_ok=True)

    def find_record(self, block: int) -> dict[str, Any] | None:
        """Return a block's record if it is readable and the files have the recorded sizes, else None."""
        try:
            record = read_record(self.files, block)
            return None if any(find_fault(self.files, entry, deep=False) for entry in record["files"]) else record
        except (StoreError, KeyError, TypeError):
            return None

    def list_records(self) -> list[dict[str, Any]]:
        """Return the records of all committed blocks."""
        return [record for block in range(len(self.plan.bounds)) if (record := self.find_record(block))]

    def list_missing(self) -> list[int]:
        """Return the blocks that are still to be extracted."""
        return [block for block in range(len(self.plan.bounds)) if self.find_record(block) is None]

    def list_quarantined(self) -> list[QuarantinedImage]:
        """Return the images that could not be read so far."""
        return [QuarantinedImage(**entry) for record in self.list_records() for entry in record["quarantined"]]

    def encode(
        self,
        block: int,
        arrays: Mapping[str, NDArray[Any]],
        quarantined: Sequence[QuarantinedImage],
        computed_on: Mapping[str, Any] | None = None,
    ) -> EncodedBlock:
        """Encode a block's arrays for `write`; sets the rows of quarantined images to NaN, in place.

        `computed_on` is what the record says of a GPU; CPUs are left out, so that all of one kind make the same record.
        """
        spec, (start, stop) = self.plan.spec, self.plan.bounds[block]
        unreadable = [image.row - start for image in quarantined]
        readable = [row for row in range(stop - start) if row not in unreadable]
        for array in arrays.values():
            array[unreadable] = nan
        files = load_format(spec.format).encode_block(spec, block, arrays, self.plan.ids[start:stop])
        content = {
            "block": block,
            "rows": [start, stop],
            "fingerprint": spec.fingerprint,
            "files": map_on_threads(lambda name: describe_pieces(name, files[name]), files),
            "statistics": {name: compute_statistics(values, readable) for name, values in arrays.items()},
            "quarantined": [vars(image) for image in quarantined],
        } | ({"computed_on": dict(computed_on)} if computed_on else {})
        return EncodedBlock(block, files, add_digest(content))

    def write(self, encoded: EncodedBlock) -> None:
        """Write a block's files durably, then the record that commits it.

        Nothing is removed first: a valid block that is written again, by this or another process, stays valid throughout.
        """
        map_on_threads(lambda name: write_pieces(self.files.root / name, encoded.files[name]), encoded.files)
        write_json(self.files.commit(encoded.block), encoded.record)

    def commit(self, block: int, arrays: Mapping[str, NDArray[Any]], quarantined: Sequence[QuarantinedImage]) -> None:
        """Encode a block and write it."""
        self.write(self.encode(block, arrays, quarantined))

    def seal(self, summary: Mapping[str, Any]) -> None:
        """Write manifest.json, which makes the store readable; raises BuildError while blocks are missing."""
        if missing := self.list_missing():
            raise BuildError(f"{self.files.root} can't be sealed: {len(missing)} blocks are missing, the first is {missing[0]}")
        spec, records = self.plan.spec, self.list_records()
        load_format(spec.format).finish(self.files.root, spec)
        digests = [sha256_file(self.files.commit(block)) for block in range(len(records))]
        content = summarize_records(spec, records) | {
            "plan_sha256": sha256_file(self.files.plan),
            "store_id": sha256(canonical_json(digests)),
            "commits_sha256": digests,
            "rows": spec.rows,
            "bytes": sum(entry["bytes"] for record in records for entry in record["files"]),
            "summary": dict(summary),
        }
        write_json(self.files.manifest, add_digest(content))


def _has_intact_plan(files: StoreFiles, plan: Plan) -> bool:
    """Return whether the store's plan is `plan` and the format's own files are intact; raises StoreError for another store."""
    if not files.plan.is_file() and not files.commits.is_dir():
        raise StoreError(f"{files.root} exists and is not a store; move it away, or give another --stores folder")
    try:
        stored = read_plan(files)
    except StoreError:
        return False
    if stored.spec.fingerprint != plan.spec.fingerprint:
        raise StoreError(f"{files.root} belongs to fingerprint {stored.spec.fingerprint}; move it away to build this one")
    same = (stored.ids, stored.digests, stored.order) == (plan.ids, plan.digests, plan.order)
    return same and not any(find_fault(files, entry, deep=True) for entry in stored.files)


def _list_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


@contextmanager
def _make_skeleton(files: StoreFiles, plan: Plan) -> Iterator[StoreFiles]:
    """Make everything that a store needs before its first block, in a temporary folder beside the store's folder."""
    make_folder(files.root.parent)
    skeleton = StoreFiles(files.root.with_name(f".{files.root.name}.{uuid.uuid4().hex}.tmp"))
    try:
        make_folder(skeleton.commits)
        load_format(plan.spec.format).create(skeleton.root, plan.spec, plan.ids)
        entries = tuple(describe_file(skeleton.root, path) for path in _list_files(skeleton.root))
        write_json(skeleton.plan, replace(plan, files=entries).to_dict())
        yield skeleton
    finally:
        shutil.rmtree(skeleton.root, ignore_errors=True)


def _create_store(files: StoreFiles, plan: Plan) -> None:
    """Rename a complete skeleton to the store's folder, so that no store is ever incomplete."""
    with _make_skeleton(files, plan) as skeleton:
        try:
            skeleton.root.rename(files.root)
        except OSError:
            if not files.plan.is_file():  # otherwise another builder was first, and its store is as good as this one
                raise
    fsync(files.root.parent)


def _restore_metadata(files: StoreFiles, plan: Plan) -> None:
    """Replace the store's plan and the format's own files by those of a skeleton; blocks and records stay."""
    with _make_skeleton(files, plan) as skeleton:
        for path in _list_files(skeleton.root):
            target = files.root / path.relative_to(skeleton.root)
            make_folder(target.parent)
            path.replace(target)
            fsync(target.parent)
