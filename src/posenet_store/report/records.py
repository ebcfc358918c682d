"""The fields by which people tell cells apart, and the choice of cells by them."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from math import inf
from typing import Any, Protocol, TypeVar

from posenet_store.errors import UsageError, unknown
from posenet_store.heads.protocols import PROTOCOLS
from posenet_store.specs import NO_WEIGHTS, RANDOM, ZEROS
from posenet_store.sweep.cell import Cell
from posenet_store.sweep.labels import Labels
from posenet_store.sweep.results import Result
from posenet_store.sweep.tables import COLUMNS

UNTRAINED = {RANDOM: "untrained", NO_WEIGHTS: "no network"}
"""The kinds of weights that never learnt anything, and what they are called."""

ALL_STAGES = "all"
"""The stage of heads that read all taps."""
TIMM = re.compile(r"timm:([^.]*)\..*")
"""A network of timm: its architecture, and the tag of its weights."""
_OF_CELLS = ("name", "input", "normalise")
SETTINGS = tuple(dict.fromkeys(f.name for kind in PROTOCOLS.values() for f in fields(kind) if f.name not in _OF_CELLS))
"""The settings of protocols, such as `learning_rate`; what a cell says itself is not among them."""

FIELDS = tuple(dict.fromkeys((*COLUMNS[1:], "train_rows", "held_out", "value_range", "normalise", *SETTINGS)))


class Described(Protocol):
    """A result or a head of a sweep: its cell, and the labels of the store that trained it."""

    @property
    def cell(self) -> Cell:
        """The cell."""
        ...

    @property
    def labels(self) -> Labels:
        """The labels."""
        ...


def get_fields(result: Described) -> dict[str, Any]:
    """Return a cell's fields by name; a list is text, a setting that its protocol does not have is None."""
    protocol = result.cell.protocol
    known = vars(protocol) | vars(result.cell) | vars(result.labels) | {"protocol": protocol.name}
    values = {name: known.get(name) for name in FIELDS}
    return {name: _format_list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def _format_list(values: tuple[Any, ...]) -> str:
    """Return a list as text; of names it is as inputs are spelled.

    >>> _format_list((0.0, 1.0)), _format_list(("H", "V")), _format_list(())
    ('[0.0, 1.0]', 'H+V', 'none')
    """
    names = all(isinstance(value, str) for value in values)
    return "+".join(values) or "none" if names else str(list(values))


def name_network(labels: Labels) -> str:
    """Return a network's name for people: its padding, and that it is untrained or none, in brackets.

    >>> name_network(Labels("vgg16-random0-padding-none", "vgg16", "photos", "random", "none", "4417", "aab3"))
    'vgg16-random0 (untrained, no padding)'
    """
    padding = labels.network_padding
    remarks = [UNTRAINED[labels.weights_kind]] if labels.weights_kind in UNTRAINED else []
    remarks += [f"{'no' if padding == 'none' else padding} padding"] if padding != ZEROS else []
    return labels.unpadded_network + (f" ({', '.join(remarks)})" if remarks else "")


def name_architecture(backbone: str) -> str:
    """Return what a network has in common with those of other weights: its name, of timm's without the tag of the weights.

    >>> name_architecture("timm:convnextv2_atto.fcmae"), name_architecture("vgg16")
    ('timm:convnextv2_atto', 'vgg16')
    """
    return TIMM.sub(r"timm:\1", backbone)


def find_stage(result: Result) -> str | None:
    """Return the one tap that a head reads, or ALL_STAGES; None for a head on some of them."""
    taps = result.cell.input.partition(":")[2]
    return None if "+" in taps else taps or ALL_STAGES


def order_stage(stage: str) -> tuple[bool, int, str]:
    """Return what sorts stages: f1 to f12, then all.

    >>> sorted(["all", "f10", "f2"], key=order_stage)
    ['f2', 'f10', 'all']
    """
    return stage == ALL_STAGES, len(stage), stage


def name_networks(results: Iterable[Result]) -> dict[str, str]:
    """Return the networks of results, each once, with their names for people."""
    return {result.labels.network: name_network(result.labels) for result in results}


def format_field(name: str, value: Any, networks: Mapping[str, str]) -> str:
    """Return a field's value for people, a network as `networks` name it; what its protocol does not have is empty.

    >>> format_field("network", "a", {"a": "a (untrained)"}), format_field("kernel", 3, {}), format_field("epochs", None, {})
    ('a (untrained)', '3', '')
    """
    return "" if value is None else networks[value] if name == "network" else str(value)


def describe_cell(result: Result, names: Iterable[str]) -> str:
    """Return a cell for people: its id and the named fields."""
    values = get_fields(result)
    return f"{result.id}: {', '.join(f'{name} {values[name]}' for name in names if values[name] is not None)}"


def list_values(results: Iterable[Result], field: str) -> list[Any]:
    """Return the values of a field, each once, in order, None left out; raises UsageError for a field that does not exist."""
    if field not in FIELDS:
        raise unknown("field", field, FIELDS)
    values = dict.fromkeys(get_fields(result)[field] for result in results)
    return [value for value in values if value is not None]


def list_varying(results: Sequence[Described]) -> list[str]:
    """Return the fields that have more than one value."""
    rows = [get_fields(result) for result in results]
    return [name for name in FIELDS if len({row[name] for row in rows} - {None}) > 1]


def split_condition(text: str, option: str) -> tuple[str, str]:
    """Split FIELD=VALUE; raises UsageError that names the option.

    >>> split_condition("input=aligned:f1+f5", "--where")
    ('input', 'aligned:f1+f5')
    """
    field, equals, value = text.partition("=")
    if not equals:
        raise UsageError(f"{option} {text!r} is not accepted; give FIELD=VALUE with a field of {', '.join(FIELDS)}")
    return field, value


def select_values(results: Sequence[Result], field: str, values: Iterable[str]) -> list[Result]:
    """Return the results whose field has one of the values, given as text; raises UsageError for a value that none has."""
    wanted, known = set(values), [str(value) for value in list_values(results, field)]
    for value in sorted(wanted - set(known)):
        raise unknown(field, value, known)
    return [result for result in results if str(get_fields(result)[field]) in wanted]


def select_results(results: Sequence[Result], conditions: Iterable[str]) -> list[Result]:
    """Return the results that meet every FIELD=VALUE; several values of one field are alternatives.

    Raises UsageError for a field or value that no result has, and if no result meets all.
    """
    pairs = group_by((split_condition(text, "--where") for text in conditions), lambda pair: pair[0])
    wanted = {field: [value for _, value in group] for field, group in pairs.items()}
    accepted = [{result.id for result in select_values(results, field, values)} for field, values in wanted.items()]
    selected = [result for result in results if all(result.id in ids for ids in accepted)]
    if not selected:
        asked = ", ".join(f"{field} {' or '.join(values)}" for field, values in wanted.items())
        raise UsageError(f"no cell has all of {asked}; leave a --where out")
    return selected


Item = TypeVar("Item")
Key = TypeVar("Key")


def group_by(items: Iterable[Item], key: Callable[[Item], Key]) -> dict[Key, list[Item]]:
    """Return items by their key, keys and items in the order of their first appearance.

    >>> group_by(["f1", "g", "f2"], lambda name: name[0])
    {'f': ['f1', 'f2'], 'g': ['g']}
    """
    groups: dict[Key, list[Item]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


CellGrid = dict[tuple[str, str], list[Result]]
"""(target, network) -> cells that differ in their seeds."""


def group_alike(results: Iterable[Result], free: Sequence[str] = ()) -> list[list[Result]]:
    """Return groups of results that agree in every field but target, network, seed and the `free` ones.

    The group with most combinations of these comes first; among equals, the one of the least mean error.
    """
    counted = ("target", "network", *free)
    ignored = {*counted, "seed"}

    def order(group: list[Result]) -> tuple[int, float]:
        combinations = {tuple(str(get_fields(result).get(name)) for name in counted) for result in group}
        errors = [score.mae for result in group for score in result.scores.values()]
        return -len(combinations), sum(inf if error is None else error for error in errors) / max(len(errors), 1)

    groups = group_by(results, lambda result: tuple(v for name, v in get_fields(result).items() if name not in ignored))
    return sorted(groups.values(), key=order)


def group_alike_inputs(results: Iterable[Result], *free: str) -> list[list[Result]]:
    """Return groups of results that agree in all fields but target, network, seed and `free` ones, and in the kind of input.

    Heads on all channels and on three a tap are never in one group.
    """
    kinds = group_by(results, lambda result: result.cell.input.partition(":")[0])
    return [group for kind in kinds.values() for group in group_alike(kind, free)]


def arrange_cells(results: Iterable[Result]) -> CellGrid:
    """Return results by their target and network."""
    return group_by(results, lambda result: (result.cell.target, result.labels.network))
