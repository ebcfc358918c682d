"""Checking a store against its records, and naming what is damaged."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np

from posenet_store.errors import StoreError
from posenet_store.files import sha256
from posenet_store.store.access import PLAN, Files, name_record
from posenet_store.store.access_remote import open_files
from posenet_store.store.formats import Arrays, load_format
from posenet_store.store.plan import Plan, read_plan
from posenet_store.store.records import find_fault, read_manifest, read_record


@dataclass(frozen=True)
class Damage:
    """One thing that is wrong; `block` is None if it concerns the whole store."""

    block: int | None
    what: str


def _of_the_whole(files: Files, plan: Plan) -> Iterator[Damage]:
    for entry in plan.files:
        if fault := find_fault(files, entry, deep=True):
            yield Damage(None, fault)
    try:
        manifest = read_manifest(files)
    except StoreError as error:
        yield Damage(None, str(error))
        return
    if manifest["plan_sha256"] != sha256(files.read(PLAN)):
        yield Damage(None, f"{files}/{PLAN} was edited or damaged since the store was sealed")
    for block, digest in enumerate(manifest["commits_sha256"]):
        name = name_record(block)
        if files.size(name) is not None and sha256(files.read(name)) != digest:
            yield Damage(block, f"{files}/{name} is not the record that the manifest names")


def _of_a_block(files: Files, plan: Plan, block: int, arrays: Callable[[], Arrays] | None) -> Iterator[Damage]:
    """`arrays` opens the store's arrays for a deep look; None is a quick one."""
    try:
        faults = [find_fault(files, entry, arrays is not None) for entry in read_record(files, block)["files"]]
    except (StoreError, KeyError, TypeError) as error:
        yield Damage(block, f"{files}/{name_record(block)}: {error}")
        return
    found = [fault for fault in faults if fault]
    yield from (Damage(block, fault) for fault in found)
    if arrays is not None and not found:
        start, stop = plan.bounds[block]
        for name in plan.spec.arrays:
            try:
                arrays().read(name, start, np.empty((stop - start, *plan.spec.arrays[name]), plan.spec.dtype))
            except (StoreError, ValueError, RuntimeError, OSError, KeyError) as error:
                yield Damage(block, f"{files}: rows {start}-{stop} of {name} can't be decoded: {error}")


def find_damage(store: str | Path, deep: bool = False) -> Iterator[Damage]:
    """Yield everything that is wrong with a store (a path or URL), block by block; raises StoreError without a readable plan.

    Quick: records, names and sizes of all files. `deep`: every byte is hashed and every chunk decoded too.
    """
    files = open_files(store)
    plan = read_plan(files)
    yield from _of_the_whole(files, plan)
    opened = cache(partial(load_format(plan.spec.format).open_arrays, files, plan.spec)) if deep else None
    for block in range(len(plan.bounds)):
        yield from _of_a_block(files, plan, block, opened)
