"""Heads compared pair by pair on the same images: how large is a difference, and would other images show it?"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posenet_store.errors import UsageError
from posenet_store.report.pairs import Partner, partner_fields
from posenet_store.report.records import FIELDS, Record
from posenet_store.report.significance import interval
from posenet_store.report.table import shown_field
from posenet_store.report.text_table import Listing, StoreInfo, short
from posenet_store.sweep.cell import HELD_OUT
from posenet_store.sweep.results import COLUMNS

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
        mean = _plain(self.mean)
        signed = f"+{mean}" if self.mean is not None and self.mean > 0 and mean != ".000" else mean
        if self.low is None or self.high is None:
            return signed, "", ""
        return signed, f"[{_plain(self.low)},", f"{_plain(self.high)}]"


def _plain(number: float | None) -> str:
    """Three decimals; what rounds to nothing has no sign."""
    return short(number).replace("-.000", ".000")


@dataclass(frozen=True)
class Comparison:
    """A pair on one test column."""

    first: Record
    second: Record
    test: str
    spc: Difference
    mae: Difference


def difference(first: NDArray[np.float64], second: NDArray[np.float64], more_is_better: bool) -> Difference:
    """Compare two scores of the same images, both float64 [n]; the bounds are those of a percentile bootstrap over images.

    >>> difference(np.array([0.25, 0.5, np.nan]), np.array([0.5, 0.75, 0.5]), more_is_better=True)
    Difference(mean=0.25, low=0.25, high=0.25, better=2, images=2, left_out=1)
    """
    both = np.isfinite(first) & np.isfinite(second)
    change = second[both] - first[both]
    count = len(change)
    low, high = interval(change) or (None, None)
    better = int(((change if more_is_better else -change) > SAME).sum())
    return Difference(float(change.mean()) if count else None, low, high, better, count, int((~both).sum()))


def compared(pairs: Iterable[tuple[Partner, Partner]], columns: Mapping[str, str]) -> tuple[list[Comparison], dict[str, int]]:
    """Compare pairs on the `columns`, shown name -> test; also return how many could not be, by the reason.

    Images are matched by their order, all that a run keeps of them. Raises UsageError if no pair can be compared.
    """
    found, refused = [], Counter[str]()
    for first, second in pairs:
        for shown, test in columns.items():
            if reason := _mismatch(first, second, test):
                refused[f"{shown}: {reason}"] += 1
            else:
                spc, mae = (
                    difference(first.scores[name], second.scores[name], better)
                    for name, better in ((f"spc/{test}", True), (f"mae/{test}", False))
                )
                found.append(Comparison(first.record, second.record, shown, spc, mae))
    if not found:
        raise UsageError(f"no pair has a test column with the same images: {'; '.join(refused)}")
    return found, dict(refused)


def _mismatch(first: Partner, second: Partner, test: str) -> str | None:
    """Why the images of a test column are not the same on both sides, if they are not."""
    records = (first.record, second.record)
    if any(test not in record["scores"] for record in records):
        return "not on both sides"
    if test == HELD_OUT:
        sets = [f"{record['labels']['images']} from row {record['cell']['held_out']}" for record in records]
        if sets[0] != sets[1]:
            return f"held-out images differ ({sets[0]}, {sets[1]})"
    counts = [len(cell.scores[f"spc/{test}"]) for cell in (first, second)]
    return None if counts[0] == counts[1] else f"{counts[0]} images on one side, {counts[1]} on the other"


def contrast(comparisons: Sequence[Comparison]) -> tuple[str, str]:
    """Return what each side has throughout and the other side has otherwise, such as "kernel 3" and "kernel 5"."""
    pairs = ([one.first for one in comparisons], [one.second for one in comparisons])
    sides = [[partner_fields(record) for record in side] for side in pairs]
    texts: tuple[list[str], list[str]] = ([], [])
    for name in FIELDS:
        one, other = ({values[name] for values in side} for side in sides)
        if len(one) == len(other) == 1 and one != other and None not in one | other:
            for text, value in zip(texts, (one, other), strict=True):
                text.append(f"{name} {value.pop()}")
    return ", ".join(texts[0]), ", ".join(texts[1])


def _both(name: str, comparison: Comparison) -> str:
    """A field of both sides in one text; what one side does not have is the other's."""
    sides = (partner_fields(record)[name] for record in (comparison.first, comparison.second))
    values = dict.fromkeys(shown_field(name, value) for value in sides if value is not None)
    return " → ".join(values)


def as_listing(comparisons: Sequence[Comparison]) -> Listing:
    """Return the comparisons for printing; a field, and the count of undefined images, is a column only where it varies."""
    shown = {name: [_both(name, one) for one in comparisons] for name in FIELDS}
    names = [name for name, texts in shown.items() if len({*texts} - {""}) > 1]
    undefined = any(one.spc.left_out for one in comparisons)
    head = [*names, "test", "SPC difference", "better", *(["undef."] if undefined else []), "MAE difference", "better"]
    rows: list[list[StoreInfo]] = []
    for place, one in enumerate(comparisons):
        left_out = [(str(one.spc.left_out),)] if undefined else []
        fields = [shown[name][place] for name in names]
        rows.append([*fields, one.test, one.spc.parts(), _better(one.spc), *left_out, one.mae.parts(), _better(one.mae)])
    return Listing(head, rows, _records(comparisons))


def _better(found: Difference) -> StoreInfo:
    return (str(found.better), "of", str(found.images)) if found.images else ""


def _records(comparisons: Sequence[Comparison]) -> list[dict[str, Any]]:
    """One flat record a comparison; a field in which partners differ is two, one a side."""
    fields = [(partner_fields(one.first), partner_fields(one.second)) for one in comparisons]
    split = {name for name in FIELDS if any(first[name] != second[name] for first, second in fields)}
    varied = {name for name in FIELDS if len({first[name] for first, _ in fields}) > 1}
    records = []
    for one, (first, second) in zip(comparisons, fields, strict=True):
        record: dict[str, Any] = {"first": one.first["id"], "second": one.second["id"]}
        for name in FIELDS:
            if name in split:
                record |= {f"first_{name}": first[name], f"second_{name}": second[name]}
            elif name in COLUMNS or name in varied:
                record[name] = first[name]
        record["test"] = one.test
        for score, found, left_out in (("spc", one.spc, "undefined"), ("mae", one.mae, "nonfinite")):
            record |= {score: found.mean, f"{score}_low": found.low, f"{score}_high": found.high}
            record |= {f"{score}_better": found.better, f"{score}_images": found.images, left_out: found.left_out}
        records.append(record)
    return records
