"""Compare a store with its records and name the damaged files."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np

from posenet_store.errors import StoreError
from posenet_store.files import sha256
from posenet_store.store.access import Files, name_record
from posenet_store.store.access_remote import open_files
from posenet_store.store.formats import Arrays, load_format
from posenet_store.store.plan import Plan, read_plan
from posenet_store.store.records import find_fault, read_manifest, read_matching_manifest, read_record


@dataclass(frozen=True)
class Damage:
    """A damaged part of a store; `block` is None if it does not belong to a block."""

    block: int | None
    what: str


def _check_store(files: Files, plan: Plan) -> Iterator[Damage]:
    """Check what belongs to no block: the format's own files, the plan and the manifest."""
    for entry in plan.files:
        if fault := find_fault(files, entry, deep=True):
            yield Damage(None, fault)
    try:
        read_matching_manifest(files, plan)
    except StoreError as error:
        yield Damage(None, str(error))
    digests: list[str] = []
    with suppress(StoreError):
        digests = read_manifest(files)["commits_sha256"]
    for block, digest in zip(range(len(plan.bounds)), digests, strict=False):
        name = name_record(block)
        if files.size(name) is not None and sha256(files.read(name)) != digest:
            yield Damage(block, f"{files}/{name} is not the record that the manifest names")


def _check_block(files: Files, plan: Plan, block: int, arrays: Callable[[], Arrays] | None) -> Iterator[Damage]:
    """Check a block: quickly for None, else deeply with the store's arrays, which `arrays` opens."""
    try:
        entries = read_record(files, plan, block)["files"]
        faults = [fault for entry in entries if (fault := find_fault(files, entry, arrays is not None))]
    except (StoreError, KeyError, TypeError) as error:
        yield Damage(block, f"{files}/{name_record(block)}: {error}")
        return
    yield from (Damage(block, fault) for fault in faults)
    if arrays is not None and not faults:
        start, stop = plan.bounds[block]
        for name in plan.spec.arrays:
            try:
                arrays().read(name, start, np.empty((stop - start, *plan.spec.arrays[name]), plan.spec.dtype))
            except (StoreError, ValueError, RuntimeError, OSError, KeyError, MemoryError) as error:
                yield Damage(block, f"{files}: rows {start}-{stop} of {name} can't be decoded: {error}")


def find_damage(store: str | Path, deep: bool = False, advance: Callable[[int], None] = lambda rows: None) -> Iterator[Damage]:
    """Yield the damage of a store (a path or URL), block by block; raises StoreError if its plan can't be read.

    By default records, names and sizes of files are checked. With `deep` every byte is hashed and every chunk decoded, too.
    `advance(n)` is called after n more rows are checked.
    """
    files = open_files(store)
    plan = read_plan(files)
    yield from _check_store(files, plan)
    arrays = cache(partial(load_format(plan.spec.format).open_arrays, files, plan.spec)) if deep else None
    for block, (start, stop) in enumerate(plan.bounds):
        yield from _check_block(files, plan, block, arrays)
        advance(stop - start)
