"""The files of a run: run.json, and a record (Result), a head and per-image scores for each finished cell.

A cell is finished when its record exists, which is written last. It has the digests of the head, of the scores and of
itself; a cell that does not match them is damaged: it is named in a warning, never shown, and done again by `sweep`.
"""

import warnings
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from posenet_store.errors import DamageWarning, StoreError, UsageError
from posenet_store.files import make_folder, read_json, write_atomic, write_json
from posenet_store.heads.metrics import Scores
from posenet_store.store.access import StoreFiles
from posenet_store.store.fields import find_misfit, is_count, is_digest, is_path, list_of, object_of
from posenet_store.store.read_counter import ReadCounter
from posenet_store.store.records import add_digest, describe_file, find_fault, has_valid_digest
from posenet_store.sweep.cell import Cell
from posenet_store.sweep.labels import Labels
from posenet_store.threads import cached_property, map_on_threads

RESTORE = "rerun the sweep to restore it"
FILE_ENTRIES = list_of(object_of({"path": is_path, "bytes": is_count, "sha256": is_digest}))
READERS = 8
"""Threads that read cells: each waits for the disk three times a cell."""


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

    @property
    def parts(self) -> Path:
        """The folder of what the workers of a shared pass hand on: sums that are not kept, and scores; removed at the end."""
        return self.root / "parts"

    def record(self, cell: str) -> Path:
        """The Result of a finished cell."""
        return self.root / "cells" / f"{cell}.json"

    def head(self, cell: str) -> Path:
        """The trained head of a cell."""
        return self.root / "heads" / f"{cell}.safetensors"

    def scores(self, cell: str) -> Path:
        """Per-image scores (`spc/<test>`, `mae/<test>`, `explained/<test>`), the first image's map (`map/<test>`) and the mean
        maps over all images (`mean/<test>`, `error/<test>`, `ranks/<test>`: see `metrics.MapSums`) of each test."""
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
            raise StoreError(f"{where} is damaged ({error}); {RESTORE}") from None
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
            raise StoreError(f"{where} is damaged ({error}); {RESTORE}") from None


def read_signed(path: Path) -> dict[str, Any]:
    """Read a JSON file without its own digest; raises StoreError if it is missing, can't be read or does not match that."""
    try:
        content = read_json(path)
        intact = has_valid_digest(content)
    except OSError as error:
        raise StoreError(f"{path} can't be read ({error.strerror or error}); {RESTORE}") from None
    except ValueError:  # it holds NaN, which is not written
        intact = False
    if not intact:
        raise StoreError(f"{path} was edited or damaged since it was written; {RESTORE}")
    return {name: value for name, value in content.items() if name != "sha256"}


def write_result(files: RunFiles, result: Result) -> None:
    """Write the record that makes a cell finished; its head and scores must be there already."""
    entries = [describe_file(files.root, path) for path in (files.head(result.id), files.scores(result.id))]
    write_json(files.record(result.id), add_digest(result.to_dict() | {"files": entries}))


def read_result(files: RunFiles, cell: str) -> Result:
    """Read the record of a finished cell, and compare its head and its scores with it.

    Raises StoreError if the record is missing, damaged or another cell's, or if the head or the scores are not those of
    the record. Head and scores may be missing.
    """
    path = files.record(cell)
    content = read_signed(path)
    result = Result.from_dict(content, path)
    if result.id != cell:
        raise StoreError(f"{path} is the record of another cell, {result.id}; {RESTORE}")
    if misfit := find_misfit(content, {"files": FILE_ENTRIES}):
        raise StoreError(f"{path} {misfit}; {RESTORE}")
    for entry in content["files"]:
        if (files.root / entry["path"]).exists() and (fault := find_fault(StoreFiles(files.root), entry, deep=True)):
            raise StoreError(f"{fault}; {RESTORE}")
    return result


def read_results(files: RunFiles, cells: Iterable[str]) -> dict[str, Result]:
    """Return the records of those cells that are finished, by their ids in order; warns of each that is damaged."""
    recorded = {path.stem for path in files.record("").parent.glob("*.json")}

    def read(cell: str) -> Result | StoreError:
        try:
            return read_result(files, cell)
        except StoreError as error:
            return error

    results: dict[str, Result] = {}
    ids = [cell for cell in cells if cell in recorded] if recorded else []
    for cell, result in zip(ids, map_on_threads(read, ids, READERS), strict=True):
        if isinstance(result, StoreError):
            warnings.warn(str(result), DamageWarning, stacklevel=2)
        else:
            results[cell] = result
    return results


def write_run(files: RunFiles, run: RunRecord) -> None:
    """Create the run's folders and write run.json."""
    files.create()
    write_json(files.run, add_digest(asdict(run)))


def read_run(files: RunFiles) -> RunRecord:
    """Read run.json; raises StoreError if it is missing or damaged."""
    return RunRecord.from_dict(read_signed(files.run), files.run)


def write_scores(path: Path, arrays: dict[str, NDArray[Any]]) -> None:
    """Write named arrays as safetensors, atomically."""
    write_atomic(path, save({name: np.ascontiguousarray(array) for name, array in arrays.items()}))


def read_scores(path: Path) -> dict[str, NDArray[Any]]:
    """Read what `write_scores` wrote; raises StoreError for a damaged file."""
    try:
        return dict(load_file(path))
    except SafetensorError as error:
        raise StoreError(f"{path} is damaged ({error}); {RESTORE}") from None


class LoadedRun(NamedTuple):
    """A run's record and its finished cells in order."""

    record: RunRecord
    results: list[Result]


def load_run(root: Path) -> LoadedRun:
    """Load run.json and the results of the finished cells in order; warns of each that is damaged.

    Raises UsageError if `root` is no run or has no finished cell, StoreError if run.json is damaged.
    """
    files = RunFiles(root)
    if not files.run.is_file():
        if files.record("").parent.is_dir():
            raise StoreError(f"{files.run} is missing; {RESTORE}")
        raise UsageError(f"{root} is not a run: it has no run.json; `sweep` creates one")
    run = read_run(files)
    results = list(read_results(files, run.cells).values())
    if not results:
        raise UsageError(f"{root} has no finished cell yet; rerun its sweep")
    return LoadedRun(run, results)
