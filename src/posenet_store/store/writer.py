"""The writing side of a store: create, commit one block at a time, resume, seal.

The order of every block is data, fsync, rename, record: a block counts when its record in commits/ exists, and the record
names the bytes by their digest. A kill at any moment therefore loses at most what is not written yet.
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
from posenet_store.files import canonical_json, fsync, sha256, sha256_file, write_json, write_pieces
from posenet_store.store.access import StoreFiles
from posenet_store.store.feature_statistics import compute_row_statistics, pool_statistics
from posenet_store.store.formats import load_format
from posenet_store.store.plan import Plan, read_plan
from posenet_store.store.records import (
    EncodedFiles,
    add_digest,
    describe_file,
    describe_pieces,
    find_fault,
    read_manifest,
    read_record,
)
from posenet_store.threads import map_on_threads

FLOAT16_MAX = 65504.0


@dataclass(frozen=True)
class QuarantinedImage:
    """An image that could not be read: its row holds NaN in every array, and readers skip it."""

    row: int
    image_id: str
    reason: str


@dataclass(frozen=True)
class EncodedBlock:
    """A block as it goes to the disk: its files as pieces, and the record that makes it count."""

    block: int
    files: EncodedFiles
    record: dict[str, Any]


def check_range(name: str, low: float, high: float, dtype: str) -> None:
    """Raise BuildError naming the array and its extreme if a value is not finite, or would not be in the store's dtype.

    >>> check_range("f1", 0.0, 1.0, "float16")
    """
    if not (isfinite(low) and isfinite(high)):
        raise BuildError(f"tap {name} holds NaN or infinite features before any cast; are the weights intact?")
    if dtype == "float16" and max(-low, high) > FLOAT16_MAX:
        largest = max(-low, high)
        raise BuildError(
            f"tap {name} reaches {largest:.4g}, more than float16 holds ({FLOAT16_MAX:.0f}); build again with --dtype float32"
        )


def count_files(plan: Plan) -> int:
    """Return the number of files of the sealed store, plan and manifest included."""
    kind = load_format(plan.spec.format)
    blocks, each = len(plan.bounds), len(kind.list_block_files(plan.spec, 0))
    return blocks * (each + 1) + kind.count_other_files(plan.spec) + 2


def _sound(files: StoreFiles, plan: Plan) -> bool:
    """True if the folder's plan is this plan and the files beside its blocks are whole; raises StoreError if it is another."""
    if not files.plan.is_file() and not files.commits.is_dir():
        raise StoreError(f"{files.root} exists and is not a store; move it away, or give another --stores folder")
    try:
        found = read_plan(files)
    except StoreError:
        return False
    if found.spec.fingerprint != plan.spec.fingerprint:
        raise StoreError(f"{files.root} belongs to fingerprint {found.spec.fingerprint}; move it away to build this one")
    same = (found.ids, found.digests, found.order) == (plan.ids, plan.digests, plan.order)
    return same and not any(find_fault(files, entry, deep=True) for entry in found.files)


class StoreWriter:
    """A store being built; opening one that exists resumes it."""

    def __init__(self, files: StoreFiles, plan: Plan) -> None:
        self.files = files
        self.plan = plan

    @classmethod
    def open(cls, root: Path, plan: Plan) -> "StoreWriter":
        """Create the store of `plan` below `root`, or resume it, its plan and metadata restored if they are damaged.

        Blocks whose record changed since the store was sealed are taken out, to be extracted again.

        Raises StoreError if the folder holds something else.
        """
        files = StoreFiles(root / plan.spec.folder)
        if not files.root.exists():
            cls._create(files, plan)
        elif not _sound(files, plan):
            cls._restore(files, plan)
        writer = cls(files, read_plan(files))
        if changed := writer._changed_since_sealing():
            writer.unseal(changed)
        return writer

    def _changed_since_sealing(self) -> list[int]:
        """Return the blocks whose record a sound manifest does not name: sealed again, their damage would pass for sound."""
        try:
            manifest = read_manifest(self.files)
        except StoreError:
            return []
        if manifest["fingerprint"] != self.plan.spec.fingerprint:
            return []
        records = [(block, self.files.commit(block), digest) for block, digest in enumerate(manifest["commits_sha256"])]
        return [block for block, path, digest in records if path.is_file() and sha256_file(path) != digest]

    @staticmethod
    @contextmanager
    def _skeleton(files: StoreFiles, plan: Plan) -> Iterator[StoreFiles]:
        """Make everything that comes before the first block in a temporary folder beside the store's place."""
        files.root.parent.mkdir(parents=True, exist_ok=True)
        temporary = StoreFiles(files.root.with_name(f".{files.root.name}.{uuid.uuid4().hex}.tmp"))
        try:
            temporary.commits.mkdir(parents=True)
            load_format(plan.spec.format).create(temporary.root, plan.spec, plan.ids)
            created = sorted(path for path in temporary.root.rglob("*") if path.is_file())
            entries = tuple(describe_file(temporary.root, path) for path in created)
            write_json(temporary.plan, replace(plan, files=entries).to_dict())
            yield temporary
        finally:
            shutil.rmtree(temporary.root, ignore_errors=True)

    @classmethod
    def _create(cls, files: StoreFiles, plan: Plan) -> None:
        """Rename a whole skeleton into place: a store never exists half."""
        with cls._skeleton(files, plan) as made:
            try:
                made.root.rename(files.root)
            except OSError:
                if not files.plan.is_file():  # another builder may have been first: then its store is as good as ours
                    raise
        fsync(files.root.parent)

    @classmethod
    def _restore(cls, files: StoreFiles, plan: Plan) -> None:
        """Put the skeleton's files in place of damaged ones; blocks and records stay."""
        with cls._skeleton(files, plan) as made:
            for path in sorted(path for path in made.root.rglob("*") if path.is_file()):
                target = files.root / path.relative_to(made.root)
                target.parent.mkdir(parents=True, exist_ok=True)
                path.replace(target)
                fsync(target.parent)

    @property
    def sealed(self) -> bool:
        """True if a sound manifest is there that names the records there are."""
        try:
            manifest = read_manifest(self.files)
            records = [sha256(self.files.commit(block).read_bytes()) for block in range(len(self.plan.bounds))]
            return bool(manifest["commits_sha256"] == records and manifest["plan_sha256"] == sha256_file(self.files.plan))
        except (StoreError, OSError):
            return False

    def find_record(self, block: int) -> dict[str, Any] | None:
        """Return the block's record if it is readable and its files have the recorded sizes, else None."""
        try:
            found = read_record(self.files, block)
            return None if any(find_fault(self.files, entry, deep=False) for entry in found["files"]) else found
        except (StoreError, KeyError, TypeError):
            return None

    def unseal(self, blocks: Sequence[int]) -> None:
        """Take blocks that are damaged out of the store: first the manifest goes, then their records."""
        self.files.manifest.unlink(missing_ok=True)
        for block in blocks:
            self.files.commit(block).unlink(missing_ok=True)

    def list_missing(self) -> list[int]:
        """Return the blocks still to be extracted."""
        return [block for block in range(len(self.plan.bounds)) if self.find_record(block) is None]

    def encode(self, block: int, arrays: Mapping[str, NDArray[Any]], quarantined: Sequence[QuarantinedImage]) -> "EncodedBlock":
        """Encode a block's arrays to the files and the record for `write`; rows of quarantined images are set to NaN."""
        start, stop = self.plan.bounds[block]
        unreadable = [entry.row - start for entry in quarantined]
        for array in arrays.values():
            array[unreadable] = nan
        rows = [row for row in range(stop - start) if row not in unreadable]
        kind, spec = load_format(self.plan.spec.format), self.plan.spec
        files = kind.encode_block(spec, block, arrays, self.plan.ids[start:stop])
        places = [(name, row) for name in arrays for row in rows]
        counted = map_on_threads(lambda place: compute_row_statistics(arrays[place[0]][place[1]]), places)
        of_array = {name: counted[number * len(rows) : (number + 1) * len(rows)] for number, name in enumerate(arrays)}
        content = {
            "block": block,
            "rows": [start, stop],
            "fingerprint": spec.fingerprint,
            "files": map_on_threads(lambda name: describe_pieces(name, files[name]), files),
            "statistics": {name: pool_statistics(parts) for name, parts in of_array.items()},
            "quarantined": [vars(entry) for entry in quarantined],
        }
        return EncodedBlock(block, files, add_digest(content))

    def write(self, encoded: "EncodedBlock") -> None:
        """Write one block: all files durably, then the record that makes them count.

        Nothing is removed first: a valid block that is written again, by this or another process, stays valid throughout.
        """
        map_on_threads(lambda name: write_pieces(self.files.root / name, encoded.files[name]), encoded.files)
        write_json(self.files.commit(encoded.block), encoded.record)

    def commit(self, block: int, arrays: Mapping[str, NDArray[Any]], quarantined: Sequence[QuarantinedImage]) -> None:
        """Encode one block and write it."""
        self.write(self.encode(block, arrays, quarantined))

    def list_records(self) -> list[dict[str, Any]]:
        """Return the records of all committed blocks."""
        found = (self.find_record(block) for block in range(len(self.plan.bounds)))
        return [record for record in found if record is not None]

    def list_quarantined(self) -> list[QuarantinedImage]:
        """Return every image that could not be read so far."""
        return [QuarantinedImage(**entry) for record in self.list_records() for entry in record["quarantined"]]

    def seal(self, summary: Mapping[str, Any]) -> None:
        """Write manifest.json, which makes the store readable; raises BuildError while blocks are missing."""
        if missing := self.list_missing():
            raise BuildError(f"{self.files.root} can't be sealed: {len(missing)} blocks are missing, the first is {missing[0]}")
        load_format(self.plan.spec.format).finish(self.files.root, self.plan.spec)
        records = self.list_records()
        digests = [sha256(self.files.commit(block).read_bytes()) for block in range(len(records))]
        content = add_digest(
            {
                "fingerprint": self.plan.spec.fingerprint,
                "plan_sha256": sha256_file(self.files.plan),
                "store_id": sha256(canonical_json(digests)),
                "commits_sha256": digests,
                "rows": self.plan.spec.rows,
                "bytes": sum(f["bytes"] for record in records for f in record["files"]),
                "statistics": {
                    name: pool_statistics([r["statistics"][name] for r in records]) for name in self.plan.spec.arrays
                },
                "quarantined": [entry for record in records for entry in record["quarantined"]],
                "summary": dict(summary),
            }
        )
        write_json(self.files.manifest, content)
