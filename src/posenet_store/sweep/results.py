"""A run's folder: one record, one head and one file of per-image scores a cell, and the table made of them.

A cell is finished when its record exists; the record is written last. Everything is written atomically, so a rerun
finds whole cells or none.
"""

import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from posenet_store.errors import StoreError, UsageError
from posenet_store.files import read_json, write_atomic, write_json
from posenet_store.store.reader import ReadCounter
from posenet_store.sweep.cell import Cell


@dataclass(frozen=True)
class PassResult:
    """A pass that was run: the ids of its cells, what was read, when it began (seconds since 1970) and how long it took."""

    cells: tuple[str, ...]
    read: ReadCounter
    began: float
    seconds: float


@dataclass(frozen=True)
class RunFiles:
    """Every path of a run at `root`."""

    root: Path

    @property
    def run(self) -> Path:
        """What was asked: the sweep, its cells in order, where from."""
        return self.root / "run.json"

    @property
    def csv(self) -> Path:
        return self.root / "results.csv"

    @property
    def json(self) -> Path:
        return self.root / "results.json"

    @property
    def page(self) -> Path:
        return self.root / "report.html"

    @property
    def progress(self) -> Path:
        """The folder of what running passes tell of themselves, removed at the end."""
        return self.root / "progress"

    def record(self, cell: str) -> Path:
        """The numbers of a finished cell."""
        return self.root / "cells" / f"{cell}.json"

    def head(self, cell: str) -> Path:
        """The trained head of a cell."""
        return self.root / "heads" / f"{cell}.safetensors"

    def scores(self, cell: str) -> Path:
        """Per-image scores (`spc/<test>`, `mae/<test>`), the first image's map (`map/<test>`) and the mean maps over all
        images (`mean/<test>`, `error/<test>`, `ranks/<test>`: see `metrics.MapSums`) of each test."""
        return self.root / "scores" / f"{cell}.safetensors"

    def create(self) -> None:
        """Make the folders."""
        for path in (self.record(""), self.head(""), self.scores("")):
            path.parent.mkdir(parents=True, exist_ok=True)

    def finished(self, cells: Iterable[Cell]) -> list[str]:
        """Return the ids of those cells that are finished, head and scores included."""
        there = {path.stem for path in self.record("").parent.glob("*.json")}
        ids = [i for cell in cells if (i := cell.id) in there] if there else []
        return [i for i in ids if self.record(i).is_file() and self.head(i).is_file() and self.scores(i).is_file()]


def write_scores(path: Path, arrays: dict[str, NDArray[Any]]) -> None:
    """Write named arrays as safetensors, atomically."""
    write_atomic(path, save({name: np.ascontiguousarray(array) for name, array in arrays.items()}))


def read_scores(path: Path) -> dict[str, NDArray[Any]]:
    """Read what `write_scores` wrote; raises StoreError for a damaged file."""
    try:
        return dict(load_file(path))
    except SafetensorError as error:
        raise damaged_scores(path, error) from None


def damaged_scores(path: Path, why: object) -> StoreError:
    """Build the error for a file of scores that is not whole."""
    return StoreError(f"{path} is damaged ({why}); remove it and type the run's sweep command again")


def load_run(root: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return run.json and the records of its finished cells in order; raises UsageError if `root` is no run."""
    files = RunFiles(root)
    if not files.run.is_file():
        raise UsageError(f"{root} is not a run: it has no run.json; `sweep` makes one")
    run = read_json(files.run)
    records = [read_json(files.record(cell)) for cell in run["cells"] if files.record(cell).is_file()]
    if not records:
        raise UsageError(f"{root} has no finished cell yet; type its sweep command again")
    if any(record.get("id") not in run["cells"] for record in records):
        raise StoreError(f"{root}/cells holds a record under a wrong name; remove it and rerun the sweep")
    return run, records


COLUMNS = ("id", "network", "images", "input", "target", "kernel", "padding", "protocol", "seed")


def row(record: dict[str, Any]) -> dict[str, Any]:
    """Return one cell as a flat row: what it is, then spc, mae and counts of each test, then how it was fitted."""
    cell = record["cell"]
    what = {key: record["labels"].get(key, cell.get(key)) for key in COLUMNS[1:]}
    flat: dict[str, Any] = {"id": record["id"]} | what | {"protocol": cell["protocol"]["name"]}
    for test, summary in record["scores"].items():
        flat |= {f"{test}:{key}": value for key, value in summary.items()}
    flat |= record["fit"]
    return flat | {"seconds": record["seconds"]}


def rows_as_csv(rows: Sequence[dict[str, Any]]) -> str:
    """Return rows as CSV text over the union of their columns; an undefined number is an empty field."""
    names = list(dict.fromkeys(name for one in rows for name in one))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def write_tables(root: Path) -> None:
    """Write results.csv and results.json from the finished cells."""
    files = RunFiles(root)
    _, records = load_run(root)
    rows = [row(record) for record in records]
    write_atomic(files.csv, rows_as_csv(rows).encode())
    write_atomic(files.json, json.dumps(rows, indent=1, allow_nan=False).encode() + b"\n")


def write_run(files: RunFiles, content: dict[str, Any]) -> None:
    """Write run.json."""
    files.create()
    write_json(files.run, content)
