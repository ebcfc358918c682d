"""The writing side of a store: create, commit one block at a time, resume, seal.

The order of every block is data, fsync, rename, record: a block counts when its record in commits/ exists, and the record
names the bytes by their digest. A kill at any moment therefore loses at most the block in hand.
"""

import shutil
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posenet_store.errors import BuildError, StoreError
from posenet_store.files import canonical_json, fsync, read_json, sha256, sha256_file, write_json
from posenet_store.formats import format_named
from posenet_store.layout import Plan, StoreFiles, read_plan

FLOAT16_MAX = 65504.0
STATISTICS_ROWS = 8


@dataclass(frozen=True)
class Quarantined:
    """An image that could not be read: its row holds NaN in every array, and readers skip it."""

    row: int
    image_id: str
    reason: str


def cast(values: NDArray[np.float32], dtype: str, name: str, rows: Sequence[int]) -> NDArray[Any]:
    """Cast features to the store's dtype; `rows` are those that hold an image.

    Raises BuildError naming the array and the maximum if a value would become infinite, or is not finite already.

    >>> cast(np.float32([[1.0]]), "float16", "f1", [0]).dtype
    dtype('float16')
    """
    held = values if len(rows) == len(values) else values[list(rows)]
    low, high = (float(held.min()), float(held.max())) if held.size else (0.0, 0.0)
    if not (np.isfinite(low) and np.isfinite(high)):
        raise BuildError(f"tap {name} holds NaN or infinite features before any cast; are the weights intact?")
    if dtype == "float16" and max(-low, high) > FLOAT16_MAX:
        largest = max(-low, high)
        raise BuildError(
            f"tap {name} reaches {largest:.4g}, more than float16 holds ({FLOAT16_MAX:.0f}); build again with --dtype float32"
        )
    return values.astype(dtype, copy=False)


def statistics(values: NDArray[Any], rows: Sequence[int]) -> dict[str, float]:
    """Return count, min, max, mean, mean square and zero fraction of `rows`, a few rows at a time.

    >>> statistics(np.float32([[0.0], [2.0], [9.0]]), rows=[0, 1])["mean"]
    1.0
    """
    parts = []
    for first in range(0, len(rows), STATISTICS_ROWS):
        held = values[list(rows[first : first + STATISTICS_ROWS])].astype(np.float32)
        parts.append(
            {
                "count": held.size,
                "min": float(held.min()),
                "max": float(held.max()),
                "mean": float(held.mean(dtype=np.float64)),
                "mean_square": float(np.square(held).mean(dtype=np.float64)),
                "zeros": 1 - int(np.count_nonzero(held)) / held.size,
            }
        )
    return pooled(parts)


def pooled(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Pool the statistics of disjoint parts; an empty part counts nothing.

    >>> zero, two = ({"count": 1, "min": v, "max": v, "mean": v, "mean_square": v * v, "zeros": 0.0} for v in (0, 2))
    >>> pooled([zero, two])["mean_square"], pooled([])
    (2.0, {'count': 0})
    """
    held = [part for part in parts if part["count"]]
    count = sum(part["count"] for part in held)
    if not held:
        return {"count": 0}
    means = {key: sum(p[key] * p["count"] for p in held) / count for key in ("mean", "mean_square", "zeros")}
    return {"count": count, "min": min(p["min"] for p in held), "max": max(p["max"] for p in held), **means}


def file_count(plan: Plan) -> int:
    """Return the number of files of the sealed store, plan and manifest included."""
    kind = format_named(plan.spec.format)
    blocks, each = len(plan.bounds), len(kind.block_files(Path(), plan.spec, 0))
    return blocks * (each + 1) + kind.files_beside_blocks(plan.spec) + 2


class StoreWriter:
    """A store being built; opening one that exists resumes it."""

    def __init__(self, files: StoreFiles, plan: Plan) -> None:
        self.files = files
        self.plan = plan

    @classmethod
    def open(cls, root: Path, plan: Plan) -> "StoreWriter":
        """Create the store of `plan` below `root`, or resume it; raises StoreError if the folder holds another one."""
        files = StoreFiles(root / plan.spec.folder)
        if not files.root.exists():
            cls._create(files, plan)
        found = read_plan(files)
        if found.spec.fingerprint != plan.spec.fingerprint:
            raise StoreError(f"{files.root} belongs to fingerprint {found.spec.fingerprint}; move it away to build this one")
        return cls(files, found)

    @staticmethod
    def _create(files: StoreFiles, plan: Plan) -> None:
        """Make the whole skeleton beside its place and rename it: a store never exists half."""
        files.root.parent.mkdir(parents=True, exist_ok=True)
        temporary = StoreFiles(files.root.with_name(f".{files.root.name}.{uuid.uuid4().hex}.tmp"))
        try:
            temporary.commits.mkdir(parents=True)
            format_named(plan.spec.format).create(temporary.root, plan.spec, plan.ids)
            write_json(temporary.plan, plan.to_dict())
            temporary.root.rename(files.root)
        except OSError:
            if not files.plan.is_file():  # another builder may have been first: then its store is as good as ours
                raise
        finally:
            shutil.rmtree(temporary.root, ignore_errors=True)
        fsync(files.root.parent)

    @property
    def sealed(self) -> bool:
        """True once the manifest is written."""
        return self.files.manifest.is_file()

    def committed(self, block: int) -> bool:
        """True if the block's record exists, is readable, and its files have the recorded sizes."""
        path = self.files.commit(block)
        if not path.is_file():
            return False
        try:
            record = read_json(path)
            return all((self.files.root / f["path"]).stat().st_size == f["bytes"] for f in record["files"])
        except (StoreError, OSError, KeyError):
            return False

    def missing(self) -> list[int]:
        """Return the blocks still to be extracted."""
        return [block for block in range(len(self.plan.bounds)) if not self.committed(block)]

    def commit(self, block: int, arrays: Mapping[str, NDArray[Any]], quarantined: Sequence[Quarantined]) -> None:
        """Write one block: all arrays durably, then the record that makes them count.

        Nothing is removed first: a valid block that is written again, by this or another process, stays valid throughout.
        """
        start, stop = self.plan.bounds[block]
        unreadable = {entry.row for entry in quarantined}
        rows = [row - start for row in range(start, stop) if row not in unreadable]
        kind, spec = format_named(self.plan.spec.format), self.plan.spec
        kind.write_block(self.files.root, spec, block, arrays, self.plan.ids[start:stop])
        paths = kind.block_files(self.files.root, spec, block)
        write_json(
            self.files.commit(block),
            {
                "block": block,
                "rows": [start, stop],
                "fingerprint": self.plan.spec.fingerprint,
                "files": [self._file_entry(path) for path in paths],
                "statistics": {name: statistics(values, rows) for name, values in arrays.items()},
                "quarantined": [vars(entry) for entry in quarantined],
            },
        )

    def _file_entry(self, path: Path) -> dict[str, str | int]:
        relative = path.relative_to(self.files.root).as_posix()
        return {"path": relative, "bytes": path.stat().st_size, "sha256": sha256_file(path)}

    def records(self) -> list[dict[str, Any]]:
        """Return the records of all committed blocks."""
        return [read_json(self.files.commit(b)) for b in range(len(self.plan.bounds)) if self.committed(b)]

    def quarantined(self) -> list[Quarantined]:
        """Return every image that could not be read so far."""
        return [Quarantined(**entry) for record in self.records() for entry in record["quarantined"]]

    def seal(self, summary: Mapping[str, Any]) -> None:
        """Write manifest.json, which makes the store readable; raises BuildError while blocks are missing."""
        if missing := self.missing():
            raise BuildError(f"{self.files.root} can't be sealed: {len(missing)} blocks are missing, the first is {missing[0]}")
        records = self.records()
        digests = [sha256(self.files.commit(block).read_bytes()) for block in range(len(records))]
        write_json(
            self.files.manifest,
            {
                "fingerprint": self.plan.spec.fingerprint,
                "store_id": sha256(canonical_json(digests)),
                "commits_sha256": digests,
                "rows": self.plan.spec.rows,
                "bytes": sum(f["bytes"] for record in records for f in record["files"]),
                "statistics": {name: pooled([r["statistics"][name] for r in records]) for name in self.plan.spec.arrays},
                "quarantined": [entry for record in records for entry in record["quarantined"]],
                "summary": dict(summary),
            },
        )
