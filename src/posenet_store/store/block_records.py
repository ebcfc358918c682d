"""The manifest of an open store and the records of its blocks; each file is compared with its digest once."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from posenet_store.errors import StoreError
from posenet_store.files import sha256
from posenet_store.store.access import MANIFEST, Files, name_record
from posenet_store.store.plan import Plan
from posenet_store.store.records import (
    RESTORE,
    find_fault,
    read_committed_records,
    read_matching_manifest,
    read_record,
    summarize_records,
)


class BlockRecords:
    """The manifest of a store and the records of its blocks.

    With `unsealed`, those of a store that is still being built: the blocks committed by now. Raises StoreError if the store
    is not sealed, or damaged.
    """

    def __init__(self, files: Files, plan: Plan, unsealed: bool) -> None:
        self._files, self._plan = files, plan
        self._records: dict[int, dict[str, Any]] = {}
        self._verified: set[str] = set()
        self.sealed = not unsealed or files.size(MANIFEST) is not None
        if self.sealed:
            self.manifest = read_matching_manifest(files, plan.spec)
        else:
            self._records = read_committed_records(files, plan)
            self.manifest = summarize_records(plan.spec, self._records.values())
        for entry in plan.files:
            if fault := find_fault(files, entry, deep=True):
                raise StoreError(fault)

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
                raise StoreError(f"{where} is missing; {RESTORE}") from None
            if digest != self.manifest["commits_sha256"][block]:
                raise StoreError(f"{where} is not the record that the manifest names; {RESTORE}")
            self._records[block] = read_record(self._files, block)
        return self._records[block]

    def check_file(self, block: int, path: str) -> None:
        """Compare a file of a block with its digest, once; raises StoreError that names it if it is damaged."""
        if path in self._verified:
            return
        entry = next((entry for entry in self.read(block)["files"] if entry["path"] == path), None)
        fault = find_fault(self._files, entry, deep=True) if entry else f"{self._files}/{path} is in no record"
        if fault:
            raise StoreError(f"{fault}; block {block} is damaged; {RESTORE}")
        self._verified.add(path)
