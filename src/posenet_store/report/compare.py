"""Heads compared pair by pair on the same images: how large is a difference, and would other images show it?"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posenet_store.errors import UsageError
from posenet_store.report.pairs import Partner, partner_fields
from posenet_store.report.records import FIELDS, format_field, group_by, name_networks
from posenet_store.report.significance import estimate_mean
from posenet_store.report.text_table import Entry, Listing, format_number
from posenet_store.sweep.results import Result
from posenet_store.sweep.tables import COLUMNS

SAME = 1e-6
"""Scores of one head trained twice, alone and among others, agree to this."""


@dataclass(frozen=True)
class Difference:
    """Second minus first over `images` images: the mean, its 95 % bounds, and how many images are better by more than SAME.

    `left_out` images have no number on one of the sides. `p` is that of no difference. A mean over no image is None, so are
    bounds and p over fewer than two.
    """

    mean: float | None
    low: float | None
    high: float | None
    better: int
    images: int
    left_out: int
    p: float | None = None

    def parts(self) -> tuple[str, str, str]:
        """Return mean and bounds as text.

        >>> Difference(0.0123, 0.003, 0.0212, 3, 4, 0).parts()
        ('+.012', '[.003,', '.021]')
        """
        signed = format_signed(self.mean)
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


def format_signed(number: float | None) -> str:
    """Return a difference with its sign, zero without one.

    >>> format_signed(0.0123), format_signed(-0.5), format_signed(0.0001)
    ('+.012', '-.500', '.000')
    """
    text = _format(number)
    return f"+{text}" if number is not None and number > 0 and text != ".000" else text


@dataclass(frozen=True)
class Comparison:
    """Pairs that differ in their seeds only, on one test column."""

    first: tuple[Result, ...]
    second: tuple[Result, ...]
    test: str
    spc: Difference
    mae: Difference

    def fields(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the fields of both sides; pooled seeds are None."""
        first, second = (_merge_seeds(side) for side in (self.first, self.second))
        return first, second


def _merge_seeds(results: Sequence[Result]) -> dict[str, Any]:
    """Return the fields of results that differ in their seeds."""
    fields = partner_fields(results[0])
    return fields if len({result.cell.seed for result in results}) == 1 else fields | {"seed": None}


def find_difference(first: NDArray[np.float64], second: NDArray[np.float64], more_is_better: bool) -> Difference:
    """Compare two scores of the same images, both float64 [n], or [n, pairs] of pairs that differ in their seeds.

    The bounds are those of `estimate_mean`, over images and pairs. An image without a number in one of them is left out.

    >>> find_difference(np.array([0.25, 0.5, np.nan]), np.array([0.5, 0.75, 0.5]), more_is_better=True)
    Difference(mean=0.25, low=0.25, high=0.25, better=2, images=2, left_out=1, p=0.0)
    """
    change = second - first if first.ndim == 2 else (second - first)[:, None]
    both = np.isfinite(change).all(axis=1)
    change = change[both]
    count, of_image = len(change), change.mean(axis=1)
    estimate = estimate_mean(change)
    low, high = estimate.find_bounds() if estimate else (None, None)
    better = int(((of_image if more_is_better else -of_image) > SAME).sum())
    p = estimate.find_p() if estimate else None
    return Difference(float(change.mean()) if count else None, low, high, better, count, int((~both).sum()), p)


def compare_pairs(
    pairs: Iterable[tuple[Partner, Partner]], columns: Mapping[str, str]
) -> tuple[list[Comparison], dict[str, int]]:
    """Compare pairs on the `columns`, shown name -> test, those that differ in their seeds as one.

    Also return how many pairs could not be compared, by the reason. Images are matched by their content. Raises UsageError
    if no pair can be compared.
    """
    comparisons, refused = [], Counter[str]()
    for group in group_by(pairs, _list_but_seeds).values():
        for shown, test in columns.items():
            reasons = [_find_mismatch(first, second, test) for first, second in group]
            refused.update(f"{shown}: {reason}" for reason in reasons if reason)
            same = [pair for pair, reason in zip(group, reasons, strict=True) if not reason]
            if same:
                comparisons.append(_compare_seeds(same, shown, test))
    if not comparisons:
        raise UsageError(f"no pair has a test column with the same images: {'; '.join(refused)}")
    return comparisons, dict(refused)


def _list_but_seeds(pair: tuple[Partner, Partner]) -> tuple[tuple[Any, ...], ...]:
    """Return the fields of both partners, their seeds apart."""
    fields = (partner_fields(partner.result) | {"seed": None} for partner in pair)
    return tuple(tuple(values.values()) for values in fields)


def _compare_seeds(pairs: Sequence[tuple[Partner, Partner]], shown: str, test: str) -> Comparison:
    """Compare pairs that differ in their seeds on the same images."""
    first, second = zip(*pairs, strict=True)

    def compare(score: str, more_is_better: bool) -> Difference:
        tables = [np.stack([partner.scores[f"{score}/{test}"] for partner in side], axis=1) for side in (first, second)]
        return find_difference(tables[0], tables[1], more_is_better)

    results = [tuple(partner.result for partner in side) for side in (first, second)]
    return Comparison(results[0], results[1], shown, compare("spc", True), compare("mae", False))


def _find_mismatch(first: Partner, second: Partner, test: str) -> str | None:
    """Return why the images of a test column are not the same on both sides, None if they are."""
    if any(test not in partner.result.scores for partner in (first, second)):
        return "not on both sides"
    scores = [partner.result.scores[test] for partner in (first, second)]
    if scores[0].images_sha256 == scores[1].images_sha256:
        return None
    return f"other images ({scores[0].images} on one side, {scores[1].images} on the other, which differ in content or order)"


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
    networks = name_networks(result for comparison in comparisons for result in (*comparison.first, *comparison.second))
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


def _join_ids(results: Iterable[Result]) -> str:
    """Return the ids of results, each once."""
    return " ".join(dict.fromkeys(result.id for result in results))


def _list_records(comparisons: Sequence[Comparison]) -> list[dict[str, Any]]:
    """Return one flat record a comparison; a field in which partners differ is two, one a side."""
    fields = [comparison.fields() for comparison in comparisons]
    split = {name for name in FIELDS if any(first[name] != second[name] for first, second in fields)}
    varied = {name for name in FIELDS if len({first[name] for first, _ in fields}) > 1}
    records = []
    for comparison, (first, second) in zip(comparisons, fields, strict=True):
        record: dict[str, Any] = {"first": _join_ids(comparison.first), "second": _join_ids(comparison.second)}
        for name in FIELDS:
            if name in split:
                record |= {f"first_{name}": first[name], f"second_{name}": second[name]}
            elif name in COLUMNS or name in varied:
                record[name] = first[name]
        record["test"] = comparison.test
        records.append(record | comparison.spc.to_dict("spc", "undefined") | comparison.mae.to_dict("mae", "nonfinite"))
    return records


def summarise_comparisons(comparisons: Sequence[Comparison]) -> list[str]:
    """Return a line a test column: the mean difference, and in how many comparisons SPC is higher or lower."""
    lines = []
    for test, group in group_by(comparisons, lambda comparison: comparison.test).items():
        spc, mae = ([score.mean for score in scores if score.mean is not None] for scores in _split_scores(group))
        means = ", ".join(f"{name} {format_signed(fmean(of) if of else None)}" for name, of in (("SPC", spc), ("MAE", mae)))
        known = [(c.spc.low, c.spc.high) for c in group if c.spc.low is not None and c.spc.high is not None]
        higher, lower = sum(low > 0 for low, _ in known), sum(high < 0 for _, high in known)
        verdict = f"SPC is higher in {higher}, lower in {lower}, undecided in {len(known) - higher - lower}"
        line = f"{test}, mean of {len(group)}: {means}"
        lines.append(f"{line}; {verdict} (95 % intervals, not corrected for their number)" if known else line)
    return lines


def _split_scores(comparisons: Sequence[Comparison]) -> tuple[list[Difference], list[Difference]]:
    return [comparison.spc for comparison in comparisons], [comparison.mae for comparison in comparisons]
