"""The two sides of a comparison, read from runs, and which cells of theirs are partners."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy import float64
from numpy.typing import NDArray

from posenet_store.errors import UsageError
from posenet_store.report.load import LoadedRuns, load_runs
from posenet_store.report.records import (
    FIELDS,
    describe_cell,
    get_fields,
    list_varying,
    select_results,
    select_values,
    split_condition,
)
from posenet_store.report.scores import ScoreArchive
from posenet_store.sweep.results import Result, RunFiles

Scores = dict[str, NDArray[float64]]
"""Per-image scores by name: `spc/<test>` and `mae/<test>`."""


@dataclass(frozen=True)
class Partner:
    """A finished cell and its per-image scores."""

    result: Result
    scores: Scores


@dataclass(frozen=True)
class Side:
    """One side: its name for people, its cells, its run and the ids of the cells that the run lacks."""

    name: str
    cells: tuple[Partner, ...]
    run: Path
    lacking: tuple[str, ...] = ()

    @property
    def results(self) -> list[Result]:
        """The cells' results."""
        return [cell.result for cell in self.cells]


@dataclass(frozen=True)
class Pairing:
    """Cells that are partners, and those of either side that have none."""

    pairs: tuple[tuple[Partner, Partner], ...]
    alone: tuple[tuple[Partner, ...], tuple[Partner, ...]]


def read_sides(runs: Sequence[Path], between: str | None, conditions: Sequence[str]) -> tuple[Side, Side]:
    """Read two runs, or one run's cells that have the one and the other value of `between`, "FIELD=A,B".

    Raises UsageError for anything else and for a condition (FIELD=VALUE) that no cell meets, StoreError for damaged scores.
    """
    if len(runs) == 2 and between is None:
        loaded = load_runs(runs)
        first, second = ((str(run), run, select_results(loaded.results_of[run], conditions)) for run in runs)
    elif len(runs) == 1 and between is not None:
        field, text = split_condition(between, "--between")
        values = text.split(",")
        if len(set(values)) != 2 or len(values) != 2:
            raise UsageError(f"--between {between!r} is not accepted; give two values, such as protocol=report-2020,ridge")
        loaded = load_runs(runs)
        results = select_results(loaded.results_of[runs[0]], conditions)
        first, second = ((f"{field} {value}", runs[0], select_values(results, field, [value])) for value in values)
    else:
        raise UsageError(
            f"compare takes two runs, or one run and --between FIELD=A,B, such as protocol=report-2020,ridge; "
            f"there are {len(runs)} and {'no --between' if between is None else '--between ' + between}"
        )
    return _read_side(loaded, *first), _read_side(loaded, *second)


def _read_side(loaded: LoadedRuns, name: str, run: Path, results: Iterable[Result]) -> Side:
    files, archive = RunFiles(run), loaded.open_archive(run)
    cells = tuple(Partner(result, _read_scores(archive, result)) for result in results if files.scores(result.id).is_file())
    lacking = [i for i in loaded.records[run].cells if not (files.record(i).is_file() and files.scores(i).is_file())]
    return Side(name, cells, run, tuple(lacking))


def _read_scores(archive: ScoreArchive, result: Result) -> Scores:
    """Return the per-image scores of a cell."""
    scores = {name: archive.array(result.id, name) for test in result.scores for name in (f"spc/{test}", f"mae/{test}")}
    return {name: array for name, array in scores.items() if array is not None}


def partner_fields(result: Result) -> dict[str, Any]:
    """Return the fields that decide which cells are partners: ridge draws nothing, so its seed is none."""
    values = get_fields(result)
    return values | {"seed": None} if values["protocol"] == "ridge" else values


def _list_common(sides: Sequence[Sequence[dict[str, Any]]]) -> list[str]:
    """Return all fields but those the sides differ in: one of them has a single value there, and the other lacks that one."""
    common = []
    for name in FIELDS:
        first, second = ({values[name] for values in side} for side in sides)
        if first & second or min(len(first), len(second)) > 1:
            common.append(name)
    return common


def pair_cells(first: Side, second: Side) -> Pairing:
    """Pair cells that agree in every field which both sides vary or have a value in common in; a cell can have several.

    Raises UsageError if no cell has a partner.
    """
    fields = [[partner_fields(result) for result in side.results] for side in (first, second)]
    common = _list_common(fields)
    keyed = [
        [(tuple(values[name] for name in common), cell) for values, cell in zip(rows, side.cells, strict=True)]
        for rows, side in zip(fields, (first, second), strict=True)
    ]
    partners: dict[tuple[Any, ...], list[Partner]] = {}
    for key, cell in keyed[1]:
        partners.setdefault(key, []).append(cell)
    pairs = tuple((cell, partner) for key, cell in keyed[0] for partner in partners.get(key, ()))
    if not pairs:
        raise UsageError(_describe_mismatch(common, fields))
    shared = {key for key, _ in keyed[0]} & set(partners)
    alone = [tuple(cell for key, cell in side if key not in shared) for side in keyed]
    return Pairing(pairs, (alone[0], alone[1]))


def _describe_mismatch(common: Sequence[str], sides: Sequence[Sequence[dict[str, Any]]]) -> str:
    """Name the fields in which both sides vary without a common value."""
    for name in common:
        first, second = ({str(values[name]) for values in side} for side in sides)
        if not first & second:
            texts = [", ".join(sorted(values)) for values in (first, second)]
            return f"no cell has a partner: {name} is {texts[0]} on one side, {texts[1]} on the other; choose one by --where"
    return f"no cell has a partner that agrees in {', '.join(common)}"


def list_unpaired(sides: Sequence[Side], pairing: Pairing) -> list[str]:
    """Return in lines which cells are in no pair: those not finished, and those without a partner."""
    lines = []
    for run, lacking in {side.run: side.lacking for side in sides}.items():
        if lacking:
            lines.append(f"{run}: {len(lacking)} cells are not finished: {', '.join(lacking)}")
    for side, alone in zip(sides, pairing.alone, strict=True):
        if alone:
            lines.append(f"{side.name}: {len(alone)} of {len(side.cells)} cells have no partner:")
            lines += [f"  {describe_cell(cell.result, list_varying(side.results))}" for cell in alone]
    return lines
