"""What of a run is there already: finished cells with their tests, and tables that hold them."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from posenet_store.errors import StoreError
from posenet_store.files import canonical_json
from posenet_store.sweep.cell import Cell
from posenet_store.sweep.results import Result, RunFiles, RunRecord, read_results, read_run
from posenet_store.sweep.tables import has_tables


def read_finished(files: RunFiles, cells: Iterable[Cell]) -> dict[str, Result]:
    """Return the results of those cells that are finished, head and scores included, by the cells' ids.

    Warns of each cell that is damaged.
    """
    results = read_results(files, (cell.id for cell in cells))
    return {cell: result for cell, result in results.items() if files.head(cell).is_file() and files.scores(cell).is_file()}


def read_tests(files: RunFiles, cells: Iterable[Cell]) -> dict[str, dict[str, str]]:
    """Return the tests of those cells that are finished, by the cells' ids (see `Result.tests`)."""
    return {cell: result.tests for cell, result in read_finished(files, cells).items()}


def is_older(path: Path, source: Path) -> bool:
    """Return whether a file is missing, or was written before another file changed last."""
    return not path.is_file() or path.stat().st_mtime_ns < source.stat().st_mtime_ns


def is_up_to_date(files: RunFiles, run: RunRecord, results: Sequence[Result]) -> bool:
    """Return whether run.json says the same as `run`, whatever its provenance, and the tables hold `results`."""
    try:
        written = replace(read_run(files), provenance=run.provenance)
    except StoreError:
        return False
    return canonical_json(asdict(written)) == canonical_json(asdict(run)) and has_tables(files, results)
