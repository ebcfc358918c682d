"""The manifest of an open store and the records of its blocks; each file is compared with its digest when it is new."""

from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posenet_store.errors import PosenetStoreError, StoreError
from posenet_store.files import sha256
from posenet_store.store.access import MANIFEST, Files, name_record
from posenet_store.store.plan import Plan, read_plan
from posenet_store.store.records import (
    RESTORE,
    find_fault,
    read_committed_records,
    read_matching_manifest,
    read_record,
    summarize_records,
)

Identity = str | dict[int, str]
"""Which features a reader reads: a sealed store's id, else the digests of the records that it has opened, by block."""


class _ReplacedError(StoreError):
    """The store is not the one that was opened."""


class BlockRecords:
    """The manifest of a store and the records of its blocks.

    With `unsealed`, those of a store that is still being built: the blocks committed by now. With `identity`, exactly what
    another reader opened. Raises StoreError if the store is not sealed, damaged, or another one than `identity` says.
    """

    def __init__(self, files: Files, plan: Plan, unsealed: bool, identity: Identity | None = None) -> None:
        self._files, self._plan = files, plan
        self._records: dict[int, dict[str, Any]] = {}
        self._verified: dict[str, Hashable] = {}
        self.sealed = not isinstance(identity, dict) and (not unsealed or files.size(MANIFEST) is not None)
        if self.sealed:
            self.manifest = read_matching_manifest(files, plan)
        else:
            blocks = identity if isinstance(identity, dict) else range(len(plan.bounds))
            self._records = read_committed_records(files, plan, blocks)
            self.manifest = summarize_records(plan.spec, self._records.values())
        if identity is not None and self.identity != identity:
            raise _ReplacedError(f"{files} was replaced or built again since it was opened; open it again")
        for entry in plan.files:
            if fault := find_fault(files, entry, deep=True):
                raise StoreError(fault)

    @property
    def identity(self) -> Identity:
        """What another process must find here to read the same."""
        if self.sealed:
            return str(self.manifest["store_id"])
        return {block: record["sha256"] for block, record in self._records.items()}

    @property
    def state(self) -> str:
        """How far the build is: "sealed", or how many blocks there are."""
        return "sealed" if self.sealed else f"unsealed, {len(self._records)} of {len(self._plan.bounds)} blocks"

    def find_readable(self) -> NDArray[np.bool_]:
        """Return bool [rows]: False where the image is quarantined or not committed yet."""
        mask = np.full(self._plan.spec.rows, self.sealed)
        for block in () if self.sealed else self._records:
            mask[slice(*self._plan.bounds[block])] = True
        mask[[entry["row"] for entry in self.manifest["quarantined"]]] = False
        return mask

    def read(self, block: int) -> dict[str, Any]:
        """Return a block's record; raises StoreError if it is missing or not the one that the manifest names."""
        if block not in self._records:
            where = f"{self._files}/{name_record(block)}"
            if not self.sealed:
                raise StoreError(f"{where} was not there when the store was opened; its build has not ended")
            try:
                digest = sha256(self._files.read(name_record(block)))
            except FileNotFoundError:
                raise self._explain(f"{where} is missing") from None
            if digest != self.manifest["commits_sha256"][block]:
                raise self._explain(f"{where} is not the record that the manifest names")
            self._records[block] = read_record(self._files, self._plan, block)
        return self._records[block]

    @contextmanager
    def checking(self, block: int, path: str) -> Iterator[None]:
        """Read a file of a block in the context; raises StoreError that names it if it is damaged, or replaced meanwhile."""
        self._check_file(block, path)
        try:
            yield
        finally:
            self._check_file(block, path)

    def _check_file(self, block: int, path: str) -> None:
        """Compare a file with its digest, unless it is the file that was compared last."""
        identity = self._files.identify(path)
        if identity is not None and self._verified.get(path) == identity:
            return
        entry = next((entry for entry in self.read(block)["files"] if entry["path"] == path), None)
        if entry is None:
            raise self._explain(f"{self._files}/{path} is in no record")
        if fault := find_fault(self._files, entry, deep=True):
            raise self._explain(f"{fault}; block {block} is damaged")
        # Taken before the digest, so that a file that came meanwhile is compared, too; one from a URL is fetched for it.
        self._verified[path] = identity if identity is not None else self._files.identify(path)

    def _explain(self, fault: str) -> StoreError:
        """Return the error for a fault: the store was replaced, else it is damaged."""
        try:
            BlockRecords(self._files, read_plan(self._files), not self.sealed, self.identity)
        except _ReplacedError as error:
            return error
        except PosenetStoreError:
            pass
        return StoreError(f"{fault}; {self._files.advise(RESTORE)}")
