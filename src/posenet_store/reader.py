"""The reading side of a store: what training opens. Needs neither the images nor the backbone."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posenet_store.blocks import epoch_pools, overlapping, row_bytes
from posenet_store.errors import StoreError, UsageError, unknown
from posenet_store.files import read_json, sha256, sha256_file
from posenet_store.formats import Arrays, format_named
from posenet_store.layout import RESTORE, StoreFiles, fault_of, read_manifest, read_plan
from posenet_store.specs import StoreSpec

POOL_BYTES = 256 << 20


class Reader:
    """A sealed store, read-only: rows in the stored (permuted) order, quarantined rows skipped by the iterators."""

    def __init__(self, path: Path | str) -> None:
        self.files = StoreFiles(Path(path))
        self.plan = read_plan(self.files)
        self.manifest = read_manifest(self.files)
        if self.manifest["fingerprint"] != self.spec.fingerprint:
            raise StoreError(f"{self.files.manifest} belongs to another store than plan.json; the folder was mixed up")
        if self.manifest["plan_sha256"] != sha256_file(self.files.plan):
            raise StoreError(f"{self.files.plan} was edited or damaged since the store was sealed")
        for entry in self.plan.files:
            if fault := fault_of(self.files.root, entry, deep=True):
                raise StoreError(fault)
        self._record = lru_cache(maxsize=None)(self._checked_record)

    def __reduce__(self) -> tuple[type["Reader"], tuple[str]]:
        return Reader, (str(self.files.root),)

    @property
    def spec(self) -> StoreSpec:
        """What the store is made of."""
        return self.plan.spec

    @property
    def ids(self) -> tuple[str, ...]:
        """The image id of every row."""
        return self.plan.ids

    @cached_property
    def readable(self) -> NDArray[np.bool_]:
        """bool [rows]: False where the image was quarantined."""
        mask = np.ones(self.spec.rows, dtype=bool)
        mask[[entry["row"] for entry in self.manifest["quarantined"]]] = False
        return mask

    @cached_property
    def _arrays(self) -> Arrays:
        return format_named(self.spec.format).open_arrays(self.files.root, self.spec)

    def _checked_record(self, block: int) -> dict[str, Any]:
        """A commit record that the manifest vouches for, whose files are all there in full length."""
        path = self.files.commit(block)
        if not path.is_file():
            raise StoreError(f"{path} is missing; {RESTORE}")
        if sha256(path.read_bytes()) != self.manifest["commits_sha256"][block]:
            raise StoreError(f"{path} is not the record that the manifest names; {RESTORE}")
        record = read_json(path)
        for entry in record["files"]:
            if fault := fault_of(self.files.root, entry, deep=False):
                raise StoreError(f"{fault}; block {block} is damaged; {RESTORE}")
        return record

    def read(self, name: str, start: int, stop: int) -> NDArray[Any]:
        """Return rows [start, stop) of the array `name` in the stored dtype, quarantined rows (NaN) included.

        Raises UsageError for an unknown array or foreign rows, StoreError naming the file if a piece is missing or damaged.
        """
        if name not in self.spec.arrays:
            raise unknown(f"array of {self.files.root.name}", name, self.spec.arrays)
        if not 0 <= start <= stop <= self.spec.rows:
            raise UsageError(f"rows {start}-{stop} are not rows of {self.files.root.name}; it has rows 0-{self.spec.rows}")
        for block in overlapping(self.plan.bounds, start, stop):
            self._record(block)
        try:
            return self._arrays.read(name, start, stop)
        except (ValueError, RuntimeError, OSError, KeyError) as error:
            where = f"{self.files.root}: rows {start}-{stop} of {name}"
            raise StoreError(f"{where} can't be decoded: {error}; `verify --deep` names the file") from None

    def scan(self, names: Sequence[str], start: int = 0, stop: int | None = None) -> Iterator[dict[str, NDArray[Any]]]:
        """Yield the readable rows of [start, stop) in stored order, block by block, as {name: [n, C, H, W]}."""
        end = self.spec.rows if stop is None else stop
        for block in overlapping(self.plan.bounds, start, end):
            yield self._block(names, block, start, end)

    def _block(self, names: Sequence[str], block: int, start: int, stop: int) -> dict[str, NDArray[Any]]:
        first, end = self.plan.bounds[block]
        first, end = max(first, start), min(end, stop)
        keep = self.readable[first:end]
        values = {name: self.read(name, first, end) for name in names}
        return values if keep.all() else {name: value[keep] for name, value in values.items()}

    def epoch(self, names: Sequence[str], start: int, stop: int, *, seed: int, epoch: int) -> list[NDArray[np.int64]]:
        """Return the rows that `batches` visits, pool by pool; a pool is at most 256 MiB of the arrays `names`."""
        pool_rows = max(1, POOL_BYTES // row_bytes(self.spec, names))
        return epoch_pools(self.plan.bounds, self.readable, (start, stop), pool_rows, seed, epoch)

    def batches(
        self, names: Sequence[str], start: int, stop: int, *, batch_size: int, seed: int, epoch: int
    ) -> Iterator[Mapping[str, NDArray[Any]]]:
        """Yield every readable row of [start, stop) once, in batches whose order depends on (seed, epoch) only.

        Whole blocks are read and mixed in a pool (see `blocks.epoch_pools`); memory stays within three pools.
        """
        left: dict[str, NDArray[Any]] = {}
        pools = self.epoch(names, start, stop, seed=seed, epoch=epoch)
        for number, rows in enumerate(pools, 1):
            values = self._rows(names, rows)
            if left:
                values = {name: np.concatenate([left[name], value]) for name, value in values.items()}
            count = len(values[names[0]])
            whole = count if number == len(pools) else count - count % batch_size
            for first in range(0, whole, batch_size):
                yield {name: value[first : min(first + batch_size, whole)] for name, value in values.items()}
            left = {name: value[whole:].copy() for name, value in values.items()}

    def _rows(self, names: Sequence[str], rows: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        """Read the blocks that hold `rows` whole, and return the rows in the given order."""
        found = {name: np.empty((len(rows), *self.spec.arrays[name]), self.spec.dtype) for name in names}
        for first, end in self.plan.bounds:
            places = np.flatnonzero((rows >= first) & (rows < end))
            if len(places):
                lowest, highest = int(rows[places].min()), int(rows[places].max()) + 1
                for name in names:
                    found[name][places] = self.read(name, lowest, highest)[rows[places] - lowest]
        return found


def open_store(path: Path | str) -> Reader:
    """Open a sealed store for reading; raises StoreError if it is missing, unsealed or damaged."""
    return Reader(path)
