"""The files of a run: run.json, a Result, a head and per-image scores for each finished cell, and the tables of results.

A cell is finished when its record exists; the record is written last. Everything is written atomically, so a rerun
finds complete cells or none.
"""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from posenet_store.errors import StoreError, UsageError
from posenet_store.files import make_folder, read_json, write_atomic, write_json
from posenet_store.heads.metrics import Scores
from posenet_store.store.read_counter import ReadCounter
from posenet_store.sweep.cell import Cell
from posenet_store.sweep.labels import Labels


@dataclass(frozen=True)
class RunFiles:
    """Every path of a run at `root`."""

    root: Path

    @property
    def run(self) -> Path:
        """The RunRecord: the sweep, its cells in order, where they come from."""
        return self.root / "run.json"

    @property
    def csv(self) -> Path:
        """All results, a row a cell."""
        return self.root / "results.csv"

    @property
    def json(self) -> Path:
        """The same rows as JSON."""
        return self.root / "results.json"

    @property
    def page(self) -> Path:
        """The HTML page."""
        return self.root / "report.html"

    @property
    def progress(self) -> Path:
        """The folder in which running passes report their progress; removed at the end."""
        return self.root / "progress"

    def record(self, cell: str) -> Path:
        """The Result of a finished cell."""
        return self.root / "cells" / f"{cell}.json"

    def head(self, cell: str) -> Path:
        """The trained head of a cell."""
        return self.root / "heads" / f"{cell}.safetensors"

    def scores(self, cell: str) -> Path:
        """Per-image scores (`spc/<test>`, `mae/<test>`), the first image's map (`map/<test>`) and the mean maps over all
        images (`mean/<test>`, `error/<test>`, `ranks/<test>`: see `metrics.MapSums`) of each test."""
        return self.root / "scores" / f"{cell}.safetensors"

    def create(self) -> None:
        """Create the folders."""
        for path in (self.record(""), self.head(""), self.scores("")):
            make_folder(path.parent)


@dataclass(frozen=True)
class ScoreSummary:
    """Mean scores over a test's images: None where no image has one; how many images there are, how many without SPC or MAE.

    `images_sha256` covers the content of the images in the order of their scores: only scores of the same images can be paired.
    """

    spc: float | None
    mae: float | None
    images: int
    undefined: int
    nonfinite: int
    images_sha256: str

    @classmethod
    def of(cls, scores: Scores, images_sha256: str) -> "ScoreSummary":
        """Return the means of per-image scores."""
        summary: dict[str, Any] = scores.summary()
        return cls(**summary, images_sha256=images_sha256)


@dataclass(frozen=True, repr=False)
class Result:
    """A finished cell: its labels, its scores by test, how it was fitted (`fit`), the seconds it took, and where.

    `tests` are the fingerprints of the stores that the scores are from, by test.
    """

    cell: Cell
    labels: Labels
    scores: dict[str, ScoreSummary]
    tests: dict[str, str]
    fit: dict[str, Any]
    seconds: float
    provenance: dict[str, Any]

    def __repr__(self) -> str:
        cell, labels = self.cell, self.labels
        scores = [f"{test} SPC {score.spc}, MAE {score.mae}" for test, score in self.scores.items()]
        what = f"{cell.target} from {cell.input} of {labels.network} on {labels.images}, {cell.protocol.name}, seed {cell.seed}"
        return "\n  ".join([f"<Result {self.id}: {what}>", *scores])

    @cached_property
    def id(self) -> str:
        """The cell's id."""
        return self.cell.id

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON values, with the id."""
        return {"id": self.id} | asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any], where: object) -> "Result":
        """Build a Result from `to_dict`'s values; raises StoreError that names `where` if a field is missing or unknown."""
        try:
            result = cls(
                Cell.from_dict(fields["cell"]),
                Labels(**fields["labels"]),
                {test: ScoreSummary(**score) for test, score in fields["scores"].items()},
                dict(fields["tests"]),
                dict(fields["fit"]),
                float(fields["seconds"]),
                dict(fields["provenance"]),
            )
            if result.id != fields["id"]:
                raise ValueError("its cell has another id")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise StoreError(f"{where} is damaged ({error}); remove it and rerun the sweep") from None
        return result


@dataclass(frozen=True)
class PassResult:
    """A finished pass: the ids of its cells, what was read, when it began (seconds since 1970) and how long it took."""

    cells: tuple[str, ...]
    read: ReadCounter
    began: float
    seconds: float


@dataclass(frozen=True)
class RunRecord:
    """A run's sweep: its settings, the ids of its cells in order, its stores, and notes on their choice."""

    sweep: dict[str, Any]
    cells: tuple[str, ...]
    stores: tuple[str, ...]
    notes: tuple[str, ...]
    provenance: dict[str, Any]

    @property
    def title(self) -> str:
        """The sweep's title."""
        return str(self.sweep["title"])

    @classmethod
    def from_dict(cls, fields: dict[str, Any], where: object) -> "RunRecord":
        """Build a RunRecord from its JSON values; raises StoreError that names `where` if a field is missing or unknown."""
        try:
            lists = {name: tuple(fields[name]) for name in ("cells", "stores", "notes")}
            return cls(**(fields | lists))
        except (KeyError, TypeError) as error:
            raise StoreError(f"{where} is damaged ({error}); remove it and rerun the sweep") from None


def write_result(files: RunFiles, result: Result) -> None:
    """Write the record that makes a cell finished; its head and scores must be there already."""
    write_json(files.record(result.id), result.to_dict())


def write_run(files: RunFiles, run: RunRecord) -> None:
    """Create the run's folders and write run.json."""
    files.create()
    write_json(files.run, asdict(run))


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
    """Build the error for a damaged file of scores."""
    return StoreError(f"{path} is damaged ({why}); remove it and rerun the sweep")


def load_run(root: Path) -> tuple[RunRecord, list[Result]]:
    """Load run.json and the results of its finished cells in order; raises UsageError if `root` is no run."""
    files = RunFiles(root)
    if not files.run.is_file():
        raise UsageError(f"{root} is not a run: it has no run.json; `sweep` creates one")
    run = RunRecord.from_dict(read_json(files.run), files.run)
    results = [read_result(files, cell) for cell in run.cells if files.record(cell).is_file()]
    if not results:
        raise UsageError(f"{root} has no finished cell yet; rerun its sweep")
    return run, results


def read_result(files: RunFiles, cell: str) -> Result:
    """Read the record of a finished cell; raises StoreError if it is missing, damaged or another cell's."""
    path = files.record(cell)
    result = Result.from_dict(read_json(path), path)
    if result.id != cell:
        raise StoreError(f"{path} is the record of another cell, {result.id}; remove it and rerun the sweep")
    return result


COLUMNS = ("id", "network", "images", "input", "target", "kernel", "padding", "protocol", "seed")


def make_row(result: Result) -> dict[str, Any]:
    """Return a result as a flat row: its cell, then spc, mae, counts and the images of each test, then how it was fitted."""
    known = vars(result.cell) | vars(result.labels) | {"id": result.id, "protocol": result.cell.protocol.name}
    row = {name: known[name] for name in COLUMNS}
    for test, score in result.scores.items():
        row |= {f"{test}:{name}": value for name, value in vars(score).items()}
    return row | result.fit | {"seconds": result.seconds}


def format_csv(rows: Sequence[dict[str, Any]]) -> str:
    """Return rows as CSV text over the union of their columns; an undefined number is an empty field."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def write_tables(root: Path) -> None:
    """Write results.csv and results.json from the finished cells."""
    files = RunFiles(root)
    rows = [make_row(result) for result in load_run(root)[1]]
    write_atomic(files.csv, format_csv(rows).encode())
    write_atomic(files.json, json.dumps(rows, indent=1, allow_nan=False).encode() + b"\n")
