"""Read and check a store's records: the digests of its files, the commit record of each block, and the manifest."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from posenet_store.errors import StoreError
from posenet_store.files import canonical_json, sha256, sha256_file, sha256_pieces
from posenet_store.specs import StoreSpec
from posenet_store.store.access import MANIFEST, PLAN, Files, name_record, read_store_json
from posenet_store.store.chunking import count_row_bytes
from posenet_store.store.feature_statistics import pool_statistics
from posenet_store.store.fields import (
    are_files,
    exact_object_of,
    find_misfit,
    is_count,
    is_digest,
    is_number,
    is_object,
    is_positive,
    is_text,
    list_of,
    map_of,
    object_of,
)
from posenet_store.store.plan import Plan

RESTORE = "to restore what is damaged"
"""The purpose of what `Files.advise` says."""
ROOM = 64 << 10
"""Bytes that a block's files may need for each row and array beside the values: names, metadata, what codecs add."""
_NUMBERS = object_of(dict.fromkeys(("min", "max", "mean", "mean_square", "zeros"), is_number))
_SPEED = object_of(
    dict.fromkeys(("seconds", "images_per_s", "processors", "peak_memory", "extracted"), is_number)
    | {"stages": map_of(is_number), "bound_by": is_text}
)
_SUMMARY = {
    "fingerprint": is_digest,
    "statistics": map_of(lambda value: object_of({"count": is_count})(value) and (value["count"] == 0 or _NUMBERS(value))),
    "quarantined": list_of(exact_object_of({"row": is_count, "image_id": is_text, "reason": is_text})),
    "sha256": is_digest,
}
RECORD = _SUMMARY | {"block": is_count, "rows": list_of(is_count, 2), "files": are_files}
MANIFEST_FIELDS = _SUMMARY | {
    "plan_sha256": is_digest,
    "store_id": is_digest,
    "commits_sha256": list_of(is_digest),
    "rows": is_count,
    "bytes": is_positive,
    "summary": lambda value: is_object(value) and ("stages" not in value or _SPEED(value)),
}


def describe_file(root: Path, path: Path) -> dict[str, Any]:
    """Return a record's entry for a file: its path below `root`, its size in bytes and its SHA-256."""
    return {"path": path.relative_to(root).as_posix(), "bytes": path.stat().st_size, "sha256": sha256_file(path)}


def describe_pieces(name: str, pieces: Sequence[bytes | memoryview]) -> dict[str, Any]:
    """Return a record's entry for a file that is not written yet."""
    return {"path": name, "bytes": sum(map(len, pieces)), "sha256": sha256_pieces(pieces)}


def find_fault(files: Files, entry: dict[str, Any], deep: bool) -> str | None:
    """Return how a file differs from its entry, None if it does not; its bytes are read only with `deep`.

    A file from a URL is fetched a second time before it counts as damaged.
    """
    fault = _compare(files, entry, deep)
    return _compare(files, entry, deep) if fault and files.forget(entry["path"]) else fault


def _compare(files: Files, entry: dict[str, Any], deep: bool) -> str | None:
    where = f"{files}/{entry['path']}"
    try:
        if (size := files.size(entry["path"])) != entry["bytes"]:
            return f"{where} is missing" if size is None else f"{where} has {size} bytes instead of {entry['bytes']}"
        changed = deep and files.sha256(entry["path"]) != entry["sha256"]
    except OSError as error:
        return f"{where} can't be read ({error.strerror or error})"
    return f"{where} holds other bytes than were written" if changed else None


def add_digest(content: dict[str, Any]) -> dict[str, Any]:
    """Return `content` with its own digest."""
    return content | {"sha256": sha256(canonical_json(content))}


def has_valid_digest(content: dict[str, Any]) -> bool:
    """Return whether `content` matches the digest that `add_digest` gave it."""
    try:
        return add_digest({key: value for key, value in content.items() if key != "sha256"}) == content
    except (ValueError, RecursionError):  # an infinite number, or nested too deeply: nothing that was written here
        return False


def read_manifest(files: Files) -> dict[str, Any]:
    """Read manifest.json; raises StoreError if it is missing or damaged."""
    if files.size(MANIFEST) is None:
        raise StoreError(f"{files} is not sealed: its build has not finished; {files.advise('to resume it')}")
    content = read_store_json(files, MANIFEST)
    if find_misfit(content, MANIFEST_FIELDS) or not has_valid_digest(content):
        raise StoreError(f"{files}/{MANIFEST} was edited or damaged since the store was sealed; {files.advise(RESTORE)}")
    return content


def read_matching_manifest(files: Files, plan: Plan) -> dict[str, Any]:
    """Read manifest.json; raises StoreError also if it does not match the store's plan."""
    manifest, spec = read_manifest(files), plan.spec
    if manifest["fingerprint"] != spec.fingerprint:
        raise StoreError(f"{files}/{MANIFEST} belongs to another store than {PLAN}; the folder was mixed up")
    if manifest["plan_sha256"] != sha256(files.read(PLAN)):
        raise StoreError(f"{files}/{PLAN} was edited or damaged since the store was sealed")
    if len(manifest["commits_sha256"]) != len(plan.bounds) or not _describes(manifest, spec, 0, spec.rows):
        raise StoreError(f"{files}/{MANIFEST} does not fit {PLAN}; {files.advise(RESTORE)}")
    return manifest


def _describes(summary: dict[str, Any], spec: StoreSpec, start: int, stop: int) -> bool:
    """Return whether a manifest or record describes the arrays of a spec, and quarantines rows in [start, stop), each once."""
    rows = [entry["row"] for entry in summary["quarantined"]]
    inside = len(set(rows)) == len(rows) and all(start <= row < stop for row in rows)
    return inside and set(summary["statistics"]) == set(spec.arrays)


def _has_room(entries: Sequence[dict[str, Any]], spec: StoreSpec, rows: int) -> bool:
    """Return whether files can be those of a block of `rows` rows; what is larger would be fetched for nothing."""
    largest = 2 * rows * count_row_bytes(spec) + ROOM * (rows + len(spec.arrays))
    return sum(int(entry["bytes"]) for entry in entries) <= largest


def summarize_records(spec: StoreSpec, records: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Return the part of a manifest that depends on records only: pooled statistics and quarantined rows."""
    records = list(records)
    return {
        "fingerprint": spec.fingerprint,
        "statistics": {name: pool_statistics([record["statistics"][name] for record in records]) for name in spec.arrays},
        "quarantined": [entry for record in records for entry in record["quarantined"]],
    }


def read_record(files: Files, plan: Plan, block: int) -> dict[str, Any]:
    """Read a block's record; raises StoreError if it is missing, damaged, or of another block or store."""
    name, spec, (start, stop) = name_record(block), plan.spec, plan.bounds[block]
    content = read_store_json(files, name)
    if find_misfit(content, RECORD) or not has_valid_digest(content):
        raise StoreError(f"{files}/{name} was edited or damaged since it was written")
    belongs = (content["fingerprint"], content["block"], content["rows"]) == (spec.fingerprint, block, [start, stop])
    if not (belongs and _describes(content, spec, start, stop) and _has_room(content["files"], spec, stop - start)):
        raise StoreError(f"{files}/{name} does not fit {PLAN}; {files.advise(RESTORE)}")
    return content


def read_committed_records(files: Files, plan: Plan, blocks: Iterable[int]) -> dict[int, dict[str, Any]]:
    """Return the records of those of `blocks` that are committed now.

    A block whose record is damaged, or belongs to another store, is not.
    """
    records = {}
    for block in blocks:
        with suppress(StoreError):
            records[block] = read_record(files, plan, block)
    return records
