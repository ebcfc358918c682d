"""StoreWriter: create a store, commit its blocks one by one, resume it and seal it.

Each block is written in the order data, fsync, name, record: it counts once its record in commits/ exists, and the
record has the digests of its files. A kill at any moment therefore loses at most what is not written yet.

Any number of processes may build or repair a store at once, and each may be suspended at any moment and go on later.
Files and records of a valid block are never replaced or removed (`exclusive`); what is replaced was compared with its
digest just before, and a store is sealed once every file is known to have its digest.
"""

import random
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from glob import escape
from math import nan
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posenet_store.errors import BuildError, StoreError
from posenet_store.files import FileIdentity, canonical_json, format_json, sha256, sha256_file, write_json
from posenet_store.store.access import EncodedFiles, StoreFiles
from posenet_store.store.exclusive import StagedFile, identify, put, stage, take_away
from posenet_store.store.feature_statistics import compute_statistics, pool_rows
from posenet_store.store.formats import load_format
from posenet_store.store.plan import Plan, find_folder, read_plan
from posenet_store.store.records import (
    add_digest,
    describe_pieces,
    find_fault,
    read_manifest,
    read_record,
    summarize_records,
)
from posenet_store.store.skeleton import check_no_links, create_store, has_intact_plan, restore_metadata
from posenet_store.temporaries import remove_abandoned
from posenet_store.threads import map_on_threads

ATTEMPTS = 30
"""How often a block is named: with the pauses between, some 20 s."""


@dataclass(frozen=True)
class QuarantinedImage:
    """An image that could not be read: its row holds NaN in every array, and readers skip it."""

    row: int
    image_id: str
    reason: str


@dataclass(frozen=True)
class EncodedBlock:
    """A block ready to be written: its files as pieces, and its record but for what it says of the files."""

    block: int
    files: EncodedFiles
    content: dict[str, Any]

    def describe_files(self) -> list[dict[str, Any]]:
        """Return what the record says of the files, their digests among it."""
        return map_on_threads(lambda name: describe_pieces(name, self.files[name]), self.files)


@dataclass(frozen=True)
class LinkedBlock:
    """A block whose `files` (name -> path) are those of another store, and what the record says of them."""

    block: int
    files: Mapping[str, Path]
    content: dict[str, Any]
    entries: list[dict[str, Any]]

    def describe_files(self) -> list[dict[str, Any]]:
        """Return what the record says of the files."""
        return self.entries


class StoreWriter:
    """A store that is being built; `open` creates or resumes it."""

    def __init__(self, files: StoreFiles, plan: Plan) -> None:
        self.files = files
        self.plan = plan
        self._digests: dict[str, tuple[FileIdentity, str]] = {}
        """Files whose digest this process knows, since it wrote or read them."""
        self._committed: dict[int, FileIdentity] = {}
        """The records of this process."""
        self.trusted: dict[FileIdentity, str] = {}
        """Digests of files of a sealed store that this one may share; they are not read again."""

    @classmethod
    def open(cls, root: Path, plan: Plan, folder: Path | None = None) -> "StoreWriter":
        """Create the store of `plan` below `root`, or resume it; damaged plans and metadata are restored.

        What killed processes left there is removed.

        `folder` is where it lies, if that is known already: a store may have been renamed.

        Raises StoreError if the folder holds something else, or leads elsewhere by a link.
        """
        files = StoreFiles(folder or find_folder(root, plan.spec))
        check_no_links(files, plan)
        remove_abandoned([*files.root.parent.glob(f".{escape(files.root.name)}.*.tmp"), *files.root.rglob(".*.tmp")])
        if not files.root.exists():
            create_store(files, plan)
        elif not has_intact_plan(files, plan):
            restore_metadata(files, plan)
        writer = cls(files, read_plan(files))
        if files.commits.is_dir() and not writer.sealed:
            with TemporaryFile(dir=files.commits):  # it may be a teammate's: an error now costs no hour of a network
                pass
        return writer

    @property
    def sealed(self) -> bool:
        """True if there is an intact manifest that names the plan and all records."""
        try:
            manifest = read_manifest(self.files)
            digests = [sha256_file(self.files.commit(block)) for block in range(len(self.plan.bounds))]
            return bool(manifest["commits_sha256"] == digests and manifest["plan_sha256"] == sha256_file(self.files.plan))
        except (StoreError, OSError):
            return False

    def find_record(self, block: int, deep: bool = False) -> dict[str, Any] | None:
        """Return a block's record if it is readable and the files have the recorded sizes, else None.

        With `deep` they must have the recorded digests, too; files that this process wrote are not read for that.
        """
        try:
            record = read_record(self.files, self.plan, block)
            faulty = any(find_fault(self.files, entry, deep=False) for entry in record["files"])
            return None if faulty or (deep and not all(map(self._has_digest, record["files"]))) else record
        except (StoreError, KeyError, TypeError):
            return None

    def _has_digest(self, entry: Mapping[str, Any]) -> bool:
        """Return whether a file has the recorded digest."""
        name, path = entry["path"], self.files.root / entry["path"]
        try:
            if (identity := identify(path)) and self._digests.get(name, (None,))[0] != identity:
                self._digests[name] = identity, self.trusted.get(identity) or sha256_file(path)
        except OSError:
            return False
        return identity is not None and self._digests[name][1] == entry["sha256"]

    def list_records(self) -> list[dict[str, Any]]:
        """Return the records of all committed blocks."""
        return [record for block in range(len(self.plan.bounds)) if (record := self.find_record(block))]

    def list_missing(self, deep: bool = False) -> list[int]:
        """Return the blocks that are still to be extracted; with `deep` also those that were damaged since."""
        blocks = range(len(self.plan.bounds))
        listed = self.files.list_recorded(blocks)
        records = map_on_threads(partial(self.find_record, deep=deep), listed)
        return sorted(set(blocks) - {block for block, record in zip(listed, records, strict=True) if record})

    def list_written(self) -> list[int]:
        """Return the blocks whose records are those that this process has written."""
        return [block for block, identity in self._committed.items() if identify(self.files.commit(block)) == identity]

    def list_quarantined(self) -> list[QuarantinedImage]:
        """Return the images that could not be read so far."""
        return [QuarantinedImage(**entry) for record in self.list_records() for entry in record["quarantined"]]

    def encode(
        self,
        block: int,
        arrays: Mapping[str, NDArray[Any]],
        quarantined: Sequence[QuarantinedImage],
        computed_on: Mapping[str, Any] | None = None,
        row_statistics: Mapping[str, NDArray[np.float64]] | None = None,
        pool: Executor | None = None,
    ) -> EncodedBlock:
        """Encode a block's arrays for `write`, on the threads of `pool`; sets the rows of quarantined images to NaN, in place.

        `computed_on` is what the record says of a GPU; CPUs are left out, so that all of one kind make the same record.
        `row_statistics`, the FIELDS of each row of each array, are computed here unless a GPU has done so.
        """
        spec, (start, stop) = self.plan.spec, self.plan.bounds[block]
        unreadable = [image.row - start for image in quarantined]
        readable = sorted({*range(stop - start)}.difference(unreadable))
        for array in arrays.values():
            array[unreadable] = nan
        files = load_format(spec.format).encode_block(spec, block, arrays, self.plan.ids[start:stop], pool)
        content = {
            "block": block,
            "rows": [start, stop],
            "fingerprint": spec.fingerprint,
            "statistics": {name: pool_rows(rows[readable], arrays[name][0].size) for name, rows in row_statistics.items()}
            if row_statistics
            else compute_statistics(arrays, readable, pool),
            "quarantined": [vars(image) for image in quarantined],
        } | ({"computed_on": dict(computed_on)} if computed_on else {})
        return EncodedBlock(block, files, content)

    def write(self, encoded: EncodedBlock | LinkedBlock) -> None:
        """Write a block's files durably, then the record that commits it.

        If another process has committed the block by now, its files and record stay, and these are dropped. Two processes
        that write different bytes at the same moment try again until the files are those of one of them. Raises BuildError
        if the block does not read back.
        """
        block, record = encoded.block, self.files.commit(encoded.block)
        if self.find_record(block, deep=True):
            return
        with self._stage(encoded) as (data, commit):
            for pause in range(ATTEMPTS):
                judged = identify(record)
                if self.find_record(block, deep=True):
                    return
                time.sleep(random.random() * pause / 10)  # noqa: S311 - so that two writers get out of step
                if judged:
                    take_away(record, judged)
                map_on_threads(partial(self._name, block), data)
                if put(commit.temporary, record):
                    self._committed[block] = commit.identity
        if self.find_record(block, deep=True) is None:
            raise BuildError(
                f"block {block} of {self.files.root} does not read back as it was written, {ATTEMPTS} times: check the disk, "
                "then rerun the command"
            )

    @contextmanager
    def _stage(self, encoded: EncodedBlock | LinkedBlock) -> Iterator[tuple[list[StagedFile], StagedFile]]:
        """Write a block's files and its record beside their paths, synced; the files are hashed at the same time."""
        contents = {self.files.root / name: pieces for name, pieces in encoded.files.items()}
        with ThreadPoolExecutor(1) as hashing:
            describing = hashing.submit(encoded.describe_files)
            with stage(contents) as data:
                entries = describing.result()
                for file, entry in zip(data, entries, strict=True):
                    self._digests[entry["path"]] = file.identity, entry["sha256"]
                record = format_json(add_digest(encoded.content | {"files": entries}))
                with stage({self.files.commit(encoded.block): [record]}) as (commit,):
                    yield data, commit

    def _name(self, block: int, file: StagedFile) -> None:
        """Give a data file its name; a file that has the name already goes, unless a valid record names it."""
        while identify(file.path) != file.identity and not put(file.temporary, file.path):
            judged = identify(file.path)
            if self.find_record(block, deep=True):
                return
            if judged:
                take_away(file.path, judged)

    def commit(self, block: int, arrays: Mapping[str, NDArray[Any]], quarantined: Sequence[QuarantinedImage]) -> None:
        """Encode a block and write it."""
        self.write(self.encode(block, arrays, quarantined))

    def discard(self, block: int) -> None:
        """Remove the record of a block that this process has committed, unless another is there by now."""
        if block in self.list_written():
            take_away(self.files.commit(block), self._committed[block])

    def seal(self, summary: Mapping[str, Any]) -> None:
        """Write manifest.json, which makes the store readable, unless there is one that names all records.

        Raises BuildError while blocks are missing or damaged, StoreError if the plan is.
        """
        self._check_complete()
        while not self.sealed:  # a block may be repaired while its manifest is written
            load_format(self.plan.spec.format).finish(self.files.root, self.plan.spec)
            self._check_complete()
            with suppress(FileNotFoundError):  # a record has just been taken away
                write_json(self.files.manifest, add_digest(self._list_content() | {"summary": dict(summary)}))

    def _check_complete(self) -> None:
        """Raise BuildError while blocks are missing or damaged, StoreError if the plan is."""
        read_plan(self.files)
        if missing := self.list_missing(deep=True):
            raise BuildError(f"{self.files.root} can't be sealed: {len(missing)} blocks are missing, the first is {missing[0]}")

    def _list_content(self) -> dict[str, Any]:
        """Return what the manifest says of the records as they are now; raises FileNotFoundError if one is missing."""
        spec, blocks = self.plan.spec, range(len(self.plan.bounds))
        digests = [sha256_file(self.files.commit(block)) for block in blocks]
        records = [read_record(self.files, self.plan, block) for block in blocks]
        return summarize_records(spec, records) | {
            "plan_sha256": sha256_file(self.files.plan),
            "store_id": sha256(canonical_json(digests)),
            "commits_sha256": digests,
            "rows": spec.rows,
            "bytes": sum(entry["bytes"] for record in records for entry in record["files"]),
        }
