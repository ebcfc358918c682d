"""Give crafted files of a store the digests that they would have, as whoever edits a store on purpose does."""

import json
from pathlib import Path
from typing import Any

from posenet_store.files import canonical_json, parse_json, sha256, sha256_file
from posenet_store.specs import FORMAT_VERSION
from posenet_store.store.records import add_digest


def edit_json(path: Path, **fields: Any) -> None:
    """Replace fields of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def sign_content(content: dict[str, Any]) -> dict[str, Any]:
    """Return a record or manifest with its digest, or a plan with its fingerprint."""
    if "spec" not in content:
        return add_digest({key: value for key, value in content.items() if key != "sha256"})
    fields = content["spec"] | {"version": FORMAT_VERSION}
    fields = {key: value for key, value in fields.items() if key not in ("weights", "weights_kind", "images")}
    return content | {"fingerprint": sha256(canonical_json(fields))}


def sign_store(store: Path) -> None:
    """Sign the plan, the records and the manifest of a store for the files that are there now."""
    plan = parse_json((store / "plan.json").read_bytes(), store)
    plan = sign_content(plan | {"files": _describe(store, plan["files"])})
    (store / "plan.json").write_text(json.dumps(plan))
    for path in sorted(store.glob("commits/b*.json")):
        record = parse_json(path.read_bytes(), path)
        record |= {"files": _describe(store, record["files"]), "fingerprint": plan["fingerprint"]}
        path.write_text(json.dumps(sign_content(record)))
    if (path := store / "manifest.json").is_file():
        digests = [sha256_file(record) for record in sorted(store.glob("commits/b*.json"))]
        named = {"commits_sha256": digests, "plan_sha256": sha256_file(store / "plan.json"), "fingerprint": plan["fingerprint"]}
        path.write_text(json.dumps(sign_content(parse_json(path.read_bytes(), path) | named)))


def _describe(store: Path, entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return entries with the sizes and digests of their files, those of files that are not in the store as they are."""
    inside = {path.relative_to(store).as_posix(): path for path in store.rglob("*") if path.is_file()}
    return [
        entry | {"bytes": inside[entry["path"]].stat().st_size, "sha256": sha256_file(inside[entry["path"]])}
        if entry["path"] in inside
        else entry
        for entry in entries
    ]
