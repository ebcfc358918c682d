"""What of a run is there already: finished cells with their tests, and tables that are newer than they."""

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from posenet_store.errors import StoreError
from posenet_store.files import read_json
from posenet_store.sweep.cell import Cell
from posenet_store.sweep.results import RunFiles, RunRecord


def read_tests(files: RunFiles, cells: Iterable[Cell]) -> dict[str, dict[str, str]]:
    """Return the tests of those cells that are finished, head and scores included, by the cells' ids (see `Result.tests`).

    Raises StoreError for a damaged record.
    """
    recorded = {path.stem for path in files.record("").parent.glob("*.json")}
    ids = [cell.id for cell in cells if cell.id in recorded] if recorded else []
    return {i: _read_tests(files.record(i)) for i in ids if files.head(i).is_file() and files.scores(i).is_file()}


def _read_tests(path: Path) -> dict[str, str]:
    try:
        return dict(read_json(path)["tests"])
    except (StoreError, KeyError, TypeError, ValueError) as error:
        raise StoreError(f"{path} is damaged ({error}); remove it and rerun the sweep") from None


def is_older(path: Path, source: Path) -> bool:
    """Return whether a file is missing, or was written before another file, or folder of files, changed last."""
    return not path.is_file() or path.stat().st_mtime_ns < source.stat().st_mtime_ns


def is_up_to_date(files: RunFiles, run: RunRecord) -> bool:
    """Return whether run.json says the same as `run`, whatever its provenance, and the tables have every finished cell."""
    if not files.run.is_file() or any(is_older(path, files.record("").parent) for path in (files.csv, files.json)):
        return False
    written = read_json(files.run) | {"provenance": run.provenance}
    return bool(written == json.loads(json.dumps(asdict(run))))
