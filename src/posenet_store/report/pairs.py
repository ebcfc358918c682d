"""The two sides of a comparison, read from runs, and which cells of theirs are partners."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy import float64
from numpy.typing import NDArray

from posenet_store.errors import UsageError
from posenet_store.report.records import FIELDS, Record, assigned, described, fields_of, holding, varying, where
from posenet_store.sweep.results import RunFiles, damaged_scores, load_run, read_scores

Scores = dict[str, NDArray[float64]]
"""Per-image scores by name: `spc/<test>` and `mae/<test>`."""


@dataclass(frozen=True)
class Partner:
    """A finished cell and its per-image scores."""

    record: Record
    scores: Scores


@dataclass(frozen=True)
class Side:
    """One side: its name for people, its cells, its run and the ids of the cells that the run lacks."""

    name: str
    cells: tuple[Partner, ...]
    run: Path
    lacking: tuple[str, ...] = ()

    @property
    def records(self) -> list[Record]:
        """The cells' records."""
        return [cell.record for cell in self.cells]


@dataclass(frozen=True)
class Pairing:
    """Cells that are partners, and those of either side that have none."""

    pairs: tuple[tuple[Partner, Partner], ...]
    alone: tuple[tuple[Partner, ...], tuple[Partner, ...]]


def read_sides(runs: Sequence[Path], between: str | None, conditions: Sequence[str]) -> tuple[Side, Side]:
    """Read two runs, or one run's cells that hold the one and the other value of `between`, "FIELD=A,B".

    Raises UsageError for anything else and for a condition (FIELD=VALUE) that no cell meets, StoreError for damaged scores.
    """
    if len(runs) == 2 and between is None:
        first, second = ((str(run), run, where(load_run(run)[1], conditions)) for run in runs)
    elif len(runs) == 1 and between is not None:
        field, text = assigned(between, "--between")
        values = text.split(",")
        if len(set(values)) != 2 or len(values) != 2:
            raise UsageError(f"--between {between!r} is not accepted; give two values, such as protocol=report-2020,ridge")
        records = where(load_run(runs[0])[1], conditions)
        first, second = ((f"{field} {value}", runs[0], holding(records, field, [value])) for value in values)
    else:
        raise UsageError(
            f"compare takes two runs, or one run and --between FIELD=A,B, such as protocol=report-2020,ridge; "
            f"there are {len(runs)} and {'no --between' if between is None else '--between ' + between}"
        )
    return _read(*first), _read(*second)


def _read(name: str, run: Path, records: Iterable[Record]) -> Side:
    files = RunFiles(run)
    cells = tuple(Partner(record, _scores(files, record)) for record in records if files.scores(record["id"]).is_file())
    lacking = [i for i in load_run(run)[0]["cells"] if not (files.record(i).is_file() and files.scores(i).is_file())]
    return Side(name, cells, run, tuple(lacking))


def _scores(files: RunFiles, record: Record) -> Scores:
    path = files.scores(record["id"])
    arrays = read_scores(path)
    try:
        return {name: arrays[name] for test in record["scores"] for name in (f"spc/{test}", f"mae/{test}")}
    except KeyError as error:
        raise damaged_scores(path, error) from None


def partner_fields(record: Record) -> dict[str, Any]:
    """Return the fields that decide who is whose partner: ridge draws nothing, so its seed is none."""
    values = fields_of(record)
    return values | {"seed": None} if values["protocol"] == "ridge" else values


def _agreed(sides: Sequence[Sequence[dict[str, Any]]]) -> list[str]:
    """All fields but those the sides differ in: one of them has a single value there, and the other has not that one."""
    agreed = []
    for name in FIELDS:
        one, other = ({values[name] for values in side} for side in sides)
        if one & other or min(len(one), len(other)) > 1:
            agreed.append(name)
    return agreed


def paired(first: Side, second: Side) -> Pairing:
    """Pair cells that agree in every field which both sides vary or have a value in common in; a cell can have several.

    Raises UsageError if no cell has a partner.
    """
    fields = [[partner_fields(cell.record) for cell in side.cells] for side in (first, second)]
    agreed = _agreed(fields)
    keys = [[tuple(values[name] for name in agreed) for values in side] for side in fields]
    ours, theirs = (list(zip(*side, strict=True)) for side in zip(keys, (first.cells, second.cells), strict=True))
    partners: dict[tuple[Any, ...], list[Partner]] = {}
    for key, cell in theirs:
        partners.setdefault(key, []).append(cell)
    pairs = tuple((cell, other) for key, cell in ours for other in partners.get(key, ()))
    if not pairs:
        raise UsageError(_no_partner(agreed, fields))
    common = set(keys[0]) & set(keys[1])
    alone = [tuple(cell for key, cell in side if key not in common) for side in (ours, theirs)]
    return Pairing(pairs, (alone[0], alone[1]))


def _no_partner(agreed: Sequence[str], sides: Sequence[Sequence[dict[str, Any]]]) -> str:
    """Name the fields in which both sides vary without a common value."""
    for name in agreed:
        one, other = ({str(values[name]) for values in side} for side in sides)
        if not one & other:
            texts = [", ".join(sorted(values)) for values in (one, other)]
            return f"no cell has a partner: {name} is {texts[0]} on one side, {texts[1]} on the other; choose one by --where"
    return f"no cell has a partner that agrees in {', '.join(agreed)}"


def left_out(sides: Sequence[Side], pairing: Pairing) -> list[str]:
    """Return in lines which cells are in no pair: those not finished, and those without a partner."""
    lines = []
    for run, lacking in {side.run: side.lacking for side in sides}.items():
        if lacking:
            lines.append(f"{run}: {len(lacking)} cells are not finished: {', '.join(lacking)}")
    for side, alone in zip(sides, pairing.alone, strict=True):
        if alone:
            lines.append(f"{side.name}: {len(alone)} of {len(side.cells)} cells have no partner:")
            lines += [f"  {described(cell.record, varying(side.records))}" for cell in alone]
    return lines
