"""Heads grouped by any of their fields and put in order: which network, input or kernel reads position best?"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import mean, variance
from typing import Any

from posenet_store.errors import unknown
from posenet_store.report.records import FIELDS, Record, fields_of, values_of, varying
from posenet_store.report.scores import MeanScore
from posenet_store.report.table import shown_field
from posenet_store.report.text_table import Listing, StoreInfo

BEST_FIRST = "-spc"
RANKED = ("spc", "mae", "spc_spread", "mae_spread", "images", "undefined")
"""What a group has of a Value: an interval or a p is of heads that paint one target."""


@dataclass(frozen=True)
class Group:
    """One row: the fields grouped by, how many heads share them, and a Value a test column.

    A Value here counts images and undefined ones over all heads; it is absent where no head was tested.
    """

    fields: dict[str, Any]
    heads: int
    values: dict[str, MeanScore]


def chosen_fields(records: Sequence[Record], typed: Iterable[str]) -> list[str]:
    """Return the fields typed as "network,input" or one by one; without any, those that vary, seeds apart.

    Raises UsageError for a field that does not exist.
    """
    names = list(dict.fromkeys(name.strip() for text in typed for name in text.split(",")))
    for name in names:
        values_of(records, name)
    return names or [name for name in varying(records) if name != "seed"] or ["network"]


def grouped(records: Iterable[Record], by: Sequence[str], columns: Mapping[str, str]) -> list[Group]:
    """Return one group a combination of the fields `by`, in the records' order; `columns` are shown name -> test."""
    together: dict[tuple[Any, ...], list[Record]] = {}
    for record in records:
        values = fields_of(record)
        together.setdefault(tuple(values[name] for name in by), []).append(record)
    groups = []
    for key, heads in together.items():
        tested = {shown: [head for head in heads if test in head["scores"]] for shown, test in columns.items()}
        values = {shown: _pooled(found, columns[shown]) for shown, found in tested.items() if found}
        groups.append(Group(dict(zip(by, key, strict=True)), len(heads), values))
    return groups


def _pooled(heads: Sequence[Record], test: str) -> MeanScore:
    summaries = [head["scores"][test] for head in heads]
    spc, mae = ([s[key] for s in summaries if s[key] is not None] for key in ("spc", "mae"))
    return MeanScore(
        mean(spc) if spc else None,
        mean(mae) if mae else None,
        _spread(heads, test, "spc"),
        _spread(heads, test, "mae"),
        sum(s["images"] for s in summaries),
        sum(s["undefined"] for s in summaries),
    )


def _spread(heads: Iterable[Record], test: str, key: str) -> float | None:
    """The deviation of heads that differ in their seed only, pooled: a group of many targets must not spread by them."""
    alike: dict[tuple[Any, ...], list[float]] = {}
    for head in heads:
        values, number = fields_of(head), head["scores"][test][key]
        if number is not None:
            alike.setdefault(tuple(values[name] for name in FIELDS if name != "seed"), []).append(number)
    several = [numbers for numbers in alike.values() if len(numbers) > 1]
    freedom = sum(len(numbers) - 1 for numbers in several)
    return sqrt(sum(variance(numbers) * (len(numbers) - 1) for numbers in several) / freedom) if several else None


def ranked(groups: Sequence[Group], sort: str, column: str) -> list[Group]:
    """Return the groups by "spc" or "mae" of a test column or by a field, with "-" in front the largest first.

    Groups without that number come last. Raises UsageError for what they can't be ordered by.
    """
    name = sort.removeprefix("-")
    accepted = ["spc", "mae", *groups[0].fields]
    if name not in accepted:
        raise unknown("order", sort, [sign + one for one in accepted for sign in ("", "-")])

    def number(group: Group) -> Any:
        if name in group.fields:
            return group.fields[name]
        return getattr(group.values[column], name) if column in group.values else None

    known = [group for group in groups if number(group) is not None]
    return sorted(known, key=number, reverse=sort != name) + [group for group in groups if number(group) is None]


def ranking(
    records: Sequence[Record], typed: Iterable[str], columns: Mapping[str, str], sort: str = BEST_FIRST, top: int | None = None
) -> Listing:
    """Return the first `top` groups of the records for printing, ordered by `sort` in the first of the `columns`."""
    by = chosen_fields(records, typed)
    return _listing(ranked(grouped(records, by, columns), sort, next(iter(columns)))[:top], by, list(columns))


def _listing(groups: Sequence[Group], by: Sequence[str], columns: Sequence[str]) -> Listing:
    """Undefined images are a column only where a test has some."""
    counted = {name for name in columns if any(name in group.values and group.values[name].undefined for group in groups)}
    head = [*by, "heads"]
    for name in columns:
        head += [f"{name} SPC / MAE", *(["undef."] if name in counted else [])]
    rows: list[list[StoreInfo]] = []
    for group in groups:
        fields = ((value, shown_field(name, value)) for name, value in group.fields.items())
        entries: list[StoreInfo] = [(text,) if isinstance(value, int | float) else text for value, text in fields]
        entries.append((str(group.heads),))
        for name in columns:
            value = group.values.get(name)
            entries.append(value.parts() if value else "")
            if name in counted:
                entries.append((str(value.undefined), "of", str(value.images)) if value else "")
        rows.append(entries)
    return Listing(head, rows, _records(groups))


def _records(groups: Iterable[Group]) -> list[dict[str, Any]]:
    """One flat record a group and test column."""
    return [
        group.fields | {"heads": group.heads, "test": name} | {key: getattr(value, key) for key in RANKED}
        for group in groups
        for name, value in group.values.items()
    ]
