"""Heads grouped by any of their fields and put in order: which network, input or kernel reads position best?"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import mean, variance
from typing import Any

from posenet_store.errors import unknown
from posenet_store.report.records import FIELDS, format_field, get_fields, group_by, list_values, list_varying, name_networks
from posenet_store.report.scores import MeanScore, defined_scores
from posenet_store.report.text_table import Entry, Listing
from posenet_store.sweep.results import Result

BEST_FIRST = "-spc"
RANKED = {"spc": "spc", "mae": "mae", "spc_spread": "spc_spread", "mae_spread": "mae_spread", "scored": "images"} | {
    "undefined": "undefined"
}
"""What a record has of a MeanScore, by its name there; an interval or a p belongs to heads that predict one target.

`images` is a field of heads, the name of their image set: how many images were scored has a name of its own.
"""


@dataclass(frozen=True)
class Group:
    """One row: the fields grouped by, how many heads share them, and a MeanScore a test column.

    A MeanScore here counts images and undefined ones over all heads; it is absent where no head was tested.
    """

    fields: dict[str, Any]
    heads: int
    values: dict[str, MeanScore]


def choose_fields(results: Sequence[Result], texts: Iterable[str]) -> list[str]:
    """Return the fields given as "network,input" or one by one; without any, those that vary, seeds apart.

    Raises UsageError for a field that does not exist.
    """
    names = list(dict.fromkeys(name.strip() for text in texts for name in text.split(",")))
    for name in names:
        list_values(results, name)
    return names or [name for name in list_varying(results) if name != "seed"] or ["network"]


def group_heads(results: Iterable[Result], by: Sequence[str], columns: Mapping[str, str]) -> list[Group]:
    """Return one group a combination of the fields `by`, in the results' order; `columns` are shown name -> test."""
    rows = []
    for key, heads in group_by(results, lambda result: _list_fields(result, by)).items():
        tested = {shown: [head for head in heads if test in head.scores] for shown, test in columns.items()}
        scores = {shown: _pool_heads(group, columns[shown]) for shown, group in tested.items() if group}
        rows.append(Group(dict(zip(by, key, strict=True)), len(heads), scores))
    return rows


def _list_fields(result: Result, names: Iterable[str]) -> tuple[Any, ...]:
    values = get_fields(result)
    return tuple(values[name] for name in names)


def _pool_heads(heads: Sequence[Result], test: str) -> MeanScore:
    summaries = [head.scores[test] for head in heads]
    spc, mae = defined_scores(summaries)
    return MeanScore(
        spc=mean(spc) if spc else None,
        mae=mean(mae) if mae else None,
        spc_spread=_find_spread(heads, test, "spc"),
        mae_spread=_find_spread(heads, test, "mae"),
        images=sum(summary.images for summary in summaries),
        undefined=sum(summary.undefined for summary in summaries),
    )


def _find_spread(heads: Iterable[Result], test: str, score: str) -> float | None:
    """Return the pooled deviation of heads that differ in their seed only: different targets must not count as spread."""
    defined = [head for head in heads if getattr(head.scores[test], score) is not None]
    groups = group_by(defined, lambda head: _list_fields(head, (name for name in FIELDS if name != "seed")))
    repeated = [[getattr(head.scores[test], score) for head in group] for group in groups.values() if len(group) > 1]
    freedom = sum(len(numbers) - 1 for numbers in repeated)
    return sqrt(sum(variance(numbers) * (len(numbers) - 1) for numbers in repeated) / freedom) if repeated else None


def sort_groups(groups: Sequence[Group], order: str, column: str) -> list[Group]:
    """Return the groups by "spc" or "mae" of a test column or by a field, with "-" in front the largest first.

    Groups without that number come last. Raises UsageError for what they can't be ordered by.
    """
    name = order.removeprefix("-")
    accepted = ["spc", "mae", *groups[0].fields]
    if name not in accepted:
        raise unknown("order", order, [sign + field for field in accepted for sign in ("", "-")])

    def number(group: Group) -> Any:
        if name in group.fields:
            return group.fields[name]
        return getattr(group.values[column], name) if column in group.values else None

    known = [group for group in groups if number(group) is not None]
    return sorted(known, key=number, reverse=order != name) + [group for group in groups if number(group) is None]


def rank_heads(
    results: Sequence[Result], by: Iterable[str], columns: Mapping[str, str], order: str = BEST_FIRST, top: int | None = None
) -> Listing:
    """Return the first `top` groups of the results for printing, in the `order` of the first of the `columns`."""
    fields = choose_fields(results, by)
    groups = sort_groups(group_heads(results, fields, columns), order, next(iter(columns)))[:top]
    return _list_groups(groups, fields, list(columns), name_networks(results))


def _list_groups(groups: Sequence[Group], by: Sequence[str], columns: Sequence[str], networks: Mapping[str, str]) -> Listing:
    """Undefined images are a column only where a test has some."""
    counted = {name for name in columns if any(name in group.values and group.values[name].undefined for group in groups)}
    head = [*by, "heads"]
    for name in columns:
        head += [f"{name} SPC / MAE", *(["undef."] if name in counted else [])]
    rows: list[list[Entry]] = []
    for group in groups:
        fields = ((value, format_field(name, value, networks)) for name, value in group.fields.items())
        entries: list[Entry] = [(text,) if isinstance(value, int | float) else text for value, text in fields]
        entries.append((str(group.heads),))
        for name in columns:
            value = group.values.get(name)
            entries.append(value.parts() if value else "")
            if name in counted:
                entries.append((str(value.undefined), "of", str(value.images)) if value else "")
        rows.append(entries)
    return Listing(head, rows, _list_records(groups))


def _list_records(groups: Iterable[Group]) -> list[dict[str, Any]]:
    """Return one flat record a group and test column."""
    return [
        group.fields | {"heads": group.heads, "test": test} | {key: getattr(value, name) for key, name in RANKED.items()}
        for group in groups
        for test, value in group.values.items()
    ]
