"""Heads compared pair by pair on the same images: how large is a difference, and would other images show it?"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posenet_store.errors import UsageError
from posenet_store.report.pairs import Partner, partner_fields
from posenet_store.report.records import FIELDS, format_field, name_networks
from posenet_store.report.significance import find_interval
from posenet_store.report.text_table import Entry, Listing, format_number
from posenet_store.sweep.cell import HELD_OUT
from posenet_store.sweep.results import COLUMNS, Result

SAME = 1e-6
"""Scores of one head trained twice, alone and among others, agree to this."""


@dataclass(frozen=True)
class Difference:
    """Second minus first over `images` images: the mean, its 95 % bounds, and how many images are better by more than SAME.

    `left_out` images have no number on one of the sides. A mean over no image is None, so are bounds over fewer than two.
    """

    mean: float | None
    low: float | None
    high: float | None
    better: int
    images: int
    left_out: int

    def parts(self) -> tuple[str, str, str]:
        """Return mean and bounds as text.

        >>> Difference(0.0123, 0.003, 0.0212, 3, 4, 0).parts()
        ('+.012', '[.003,', '.021]')
        """
        mean = _format(self.mean)
        signed = f"+{mean}" if self.mean is not None and self.mean > 0 and mean != ".000" else mean
        if self.low is None or self.high is None:
            return signed, "", ""
        return signed, f"[{_format(self.low)},", f"{_format(self.high)}]"

    def better_parts(self) -> Entry:
        """Return how many images are better as text."""
        return (str(self.better), "of", str(self.images)) if self.images else ""

    def to_dict(self, score: str, left_out: str) -> dict[str, float | int | None]:
        """Return everything as flat names that begin with the score's; `left_out` is what images without it are called."""
        bounds = {score: self.mean, f"{score}_low": self.low, f"{score}_high": self.high}
        return bounds | {f"{score}_better": self.better, f"{score}_images": self.images, left_out: self.left_out}


def _format(number: float | None) -> str:
    """Return three decimals, without a sign where they round to zero."""
    return format_number(number).replace("-.000", ".000")


@dataclass(frozen=True)
class Comparison:
    """A pair on one test column."""

    first: Result
    second: Result
    test: str
    spc: Difference
    mae: Difference

    def fields(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the fields of both sides."""
        return partner_fields(self.first), partner_fields(self.second)


def find_difference(first: NDArray[np.float64], second: NDArray[np.float64], more_is_better: bool) -> Difference:
    """Compare two scores of the same images, both float64 [n]; the bounds are those of a percentile bootstrap over images.

    >>> find_difference(np.array([0.25, 0.5, np.nan]), np.array([0.5, 0.75, 0.5]), more_is_better=True)
    Difference(mean=0.25, low=0.25, high=0.25, better=2, images=2, left_out=1)
    """
    both = np.isfinite(first) & np.isfinite(second)
    change = second[both] - first[both]
    count = len(change)
    low, high = find_interval(change) or (None, None)
    better = int(((change if more_is_better else -change) > SAME).sum())
    return Difference(float(change.mean()) if count else None, low, high, better, count, int((~both).sum()))


def compare_pairs(
    pairs: Iterable[tuple[Partner, Partner]], columns: Mapping[str, str]
) -> tuple[list[Comparison], dict[str, int]]:
    """Compare pairs on the `columns`, shown name -> test; also return how many could not be, by the reason.

    Images are matched by their order, all that a run keeps of them. Raises UsageError if no pair can be compared.
    """
    comparisons, refused = [], Counter[str]()
    for first, second in pairs:
        for shown, test in columns.items():
            if reason := _find_mismatch(first, second, test):
                refused[f"{shown}: {reason}"] += 1
                continue
            spc = find_difference(first.scores[f"spc/{test}"], second.scores[f"spc/{test}"], more_is_better=True)
            mae = find_difference(first.scores[f"mae/{test}"], second.scores[f"mae/{test}"], more_is_better=False)
            comparisons.append(Comparison(first.result, second.result, shown, spc, mae))
    if not comparisons:
        raise UsageError(f"no pair has a test column with the same images: {'; '.join(refused)}")
    return comparisons, dict(refused)


def _find_mismatch(first: Partner, second: Partner, test: str) -> str | None:
    """Return why the images of a test column are not the same on both sides, None if they are."""
    results = (first.result, second.result)
    if any(test not in result.scores for result in results):
        return "not on both sides"
    if test == HELD_OUT:
        sets = [f"{result.labels.images} from row {result.cell.held_out}" for result in results]
        if sets[0] != sets[1]:
            return f"held-out images differ ({sets[0]}, {sets[1]})"
    counts = [len(cell.scores[f"spc/{test}"]) for cell in (first, second)]
    return None if counts[0] == counts[1] else f"{counts[0]} images on one side, {counts[1]} on the other"


def describe_sides(comparisons: Sequence[Comparison]) -> tuple[str, str]:
    """Return what each side has throughout and the other side has otherwise, such as "kernel 3" and "kernel 5"."""
    sides = list(zip(*(comparison.fields() for comparison in comparisons), strict=True))
    texts: tuple[list[str], list[str]] = ([], [])
    for name in FIELDS:
        first, second = ({values[name] for values in side} for side in sides)
        if len(first) == len(second) == 1 and first != second and None not in first | second:
            for text, value in zip(texts, (first, second), strict=True):
                text.append(f"{name} {value.pop()}")
    return ", ".join(texts[0]), ", ".join(texts[1])


def list_comparisons(comparisons: Sequence[Comparison]) -> Listing:
    """Return the comparisons for printing; a field, and the count of undefined images, is a column only where it varies."""
    networks = name_networks(result for comparison in comparisons for result in (comparison.first, comparison.second))
    fields = [comparison.fields() for comparison in comparisons]

    def join_sides(name: str, sides: tuple[dict[str, Any], dict[str, Any]]) -> str:
        values = dict.fromkeys(format_field(name, side[name], networks) for side in sides if side[name] is not None)
        return " → ".join(values)

    texts = {name: [join_sides(name, sides) for sides in fields] for name in FIELDS}
    names = [name for name, column in texts.items() if len({*column} - {""}) > 1]
    undefined = any(comparison.spc.left_out for comparison in comparisons)
    head = [*names, "test", "SPC difference", "better", *(["undef."] if undefined else []), "MAE difference", "better"]
    rows: list[list[Entry]] = []
    for index, comparison in enumerate(comparisons):
        spc, mae = comparison.spc, comparison.mae
        left_out = [(str(spc.left_out),)] if undefined else []
        scores: list[Entry] = [spc.parts(), spc.better_parts(), *left_out, mae.parts(), mae.better_parts()]
        rows.append([*(texts[name][index] for name in names), comparison.test, *scores])
    return Listing(head, rows, _list_records(comparisons))


def _list_records(comparisons: Sequence[Comparison]) -> list[dict[str, Any]]:
    """Return one flat record a comparison; a field in which partners differ is two, one a side."""
    fields = [comparison.fields() for comparison in comparisons]
    split = {name for name in FIELDS if any(first[name] != second[name] for first, second in fields)}
    varied = {name for name in FIELDS if len({first[name] for first, _ in fields}) > 1}
    records = []
    for comparison, (first, second) in zip(comparisons, fields, strict=True):
        record: dict[str, Any] = {"first": comparison.first.id, "second": comparison.second.id}
        for name in FIELDS:
            if name in split:
                record |= {f"first_{name}": first[name], f"second_{name}": second[name]}
            elif name in COLUMNS or name in varied:
                record[name] = first[name]
        record["test"] = comparison.test
        records.append(record | comparison.spc.to_dict("spc", "undefined") | comparison.mae.to_dict("mae", "nonfinite"))
    return records
