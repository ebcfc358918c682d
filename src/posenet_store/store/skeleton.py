"""Create the folder of a store with everything but its blocks, and restore its plan and metadata where they are damaged."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path, PurePath

from posenet_store.errors import StoreError, UsageError
from posenet_store.files import fsync, make_folder, sha256_file, write_json
from posenet_store.store.access import JSON_BYTES, StoreFiles
from posenet_store.store.formats import list_block_files, load_format
from posenet_store.store.plan import Plan, read_plan
from posenet_store.store.records import describe_file, find_fault, read_manifest
from posenet_store.temporaries import name_temporary


def check_no_links(files: StoreFiles, plan: Plan) -> None:
    """Raise StoreError if a folder of the store is a link: what is written there would go elsewhere."""
    names = [path for name in list_block_files(plan.spec, 0) for path in PurePath(name).parents]
    for folder in (files.commits, *(files.root / name for name in names if name.parts)):
        if folder.is_symlink():
            raise StoreError(f"{folder} is a link, and what is written there would go elsewhere; move that folder here first")


def has_intact_plan(files: StoreFiles, plan: Plan) -> bool:
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
    return same and _is_sealed_plan(files) and not any(find_fault(files, entry, deep=True) for entry in stored.files)


def _is_sealed_plan(files: StoreFiles) -> bool:
    """Return False if there is a manifest, and it names another plan: the fingerprint does not cover the provenance."""
    try:
        return bool(read_manifest(files)["plan_sha256"] == sha256_file(files.plan))
    except StoreError:
        return True


def _list_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


@contextmanager
def _make_skeleton(files: StoreFiles, plan: Plan) -> Iterator[StoreFiles]:
    """Make everything that a store needs before its first block, in a temporary folder beside the store's folder."""
    make_folder(files.root.parent)
    skeleton = StoreFiles(name_temporary(files.root))
    try:
        make_folder(skeleton.commits)
        load_format(plan.spec.format).create(skeleton.root, plan.spec, plan.ids)
        entries = tuple(describe_file(skeleton.root, path) for path in _list_files(skeleton.root))
        write_json(skeleton.plan, replace(plan, files=entries).to_dict())
        if (size := skeleton.plan.stat().st_size) > JSON_BYTES:
            raise UsageError(f"{plan.spec.rows:,} images need a plan of {size:,} bytes; at most {JSON_BYTES:,} are read")
        yield skeleton
    finally:
        shutil.rmtree(skeleton.root, ignore_errors=True)


def create_store(files: StoreFiles, plan: Plan) -> None:
    """Rename a complete skeleton to the store's folder, so that no store is ever incomplete."""
    with _make_skeleton(files, plan) as skeleton:
        try:
            skeleton.root.rename(files.root)
        except OSError:
            if not files.plan.is_file():  # otherwise another builder was first, and its store is as good as this one
                raise
    fsync(files.root.parent)


def restore_metadata(files: StoreFiles, plan: Plan) -> None:
    """Replace the store's plan and the format's own files by those of a skeleton; blocks and records stay."""
    with _make_skeleton(files, plan) as skeleton:
        if has_intact_plan(files, plan):  # another builder has restored them
            return
        for path in _list_files(skeleton.root):
            target = files.root / path.relative_to(skeleton.root)
            make_folder(target.parent)
            path.replace(target)
            fsync(target.parent)
