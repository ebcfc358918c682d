"""The fields by which people tell cells apart, and the choice of cells by them."""

from collections.abc import Iterable, Sequence
from dataclasses import fields
from math import inf
from typing import Any

from posenet_store.errors import UsageError, unknown
from posenet_store.heads.protocols import PROTOCOLS
from posenet_store.sweep.results import COLUMNS

Record = dict[str, Any]
"""What a run keeps about a finished cell."""

_OF_CELLS = ("name", "input", "normalise")
SETTINGS = tuple(dict.fromkeys(f.name for kind in PROTOCOLS.values() for f in fields(kind) if f.name not in _OF_CELLS))
"""What protocols can be told, such as `learning_rate`; what a cell says itself is not among them."""

FIELDS = tuple(dict.fromkeys((*COLUMNS[1:], "train_rows", "value_range", "normalise", *SETTINGS)))


def fields_of(record: Record) -> dict[str, Any]:
    """Return a record's fields by name; a list is text, a setting that its protocol does not have is None."""
    cell = record["cell"]
    known = cell["protocol"] | cell | record["labels"] | {"protocol": cell["protocol"]["name"]}
    values = {name: known.get(name) for name in FIELDS}
    return {name: str(list(value)) if isinstance(value, list | tuple) else value for name, value in values.items()}


def described(record: Record, names: Iterable[str]) -> str:
    """Return a cell for people: its id and the named fields."""
    values = fields_of(record)
    return f"{record['id']}: {', '.join(f'{name} {values[name]}' for name in names if values[name] is not None)}"


def values_of(records: Iterable[Record], field: str) -> list[Any]:
    """Return the values of a field, each once, in order, None left out; raises UsageError for a field that does not exist."""
    if field not in FIELDS:
        raise unknown("field", field, FIELDS)
    values = dict.fromkeys(fields_of(record)[field] for record in records)
    return [value for value in values if value is not None]


def varying(records: Sequence[Record]) -> list[str]:
    """Return the fields that have more than one value."""
    found = [fields_of(record) for record in records]
    return [name for name in FIELDS if len({values[name] for values in found} - {None}) > 1]


def assigned(text: str, option: str) -> tuple[str, str]:
    """Split what was typed as FIELD=VALUE; raises UsageError that names the option.

    >>> assigned("input=aligned:f1+f5", "--where")
    ('input', 'aligned:f1+f5')
    """
    field, equals, value = text.partition("=")
    if not equals:
        raise UsageError(f"{option} {text!r} is not accepted; give FIELD=VALUE with a field of {', '.join(FIELDS)}")
    return field, value


def holding(records: Sequence[Record], field: str, values: Iterable[str]) -> list[Record]:
    """Return the records whose field has one of the values as typed; raises UsageError for a value that none has."""
    wanted, known = set(values), [str(value) for value in values_of(records, field)]
    for value in sorted(wanted - set(known)):
        raise unknown(field, value, known)
    return [record for record in records if str(fields_of(record)[field]) in wanted]


def where(records: Sequence[Record], conditions: Iterable[str]) -> list[Record]:
    """Return the records that meet every FIELD=VALUE; several values of one field are alternatives.

    Raises UsageError for a field or value that no record has, and if no record meets all.
    """
    wanted: dict[str, list[str]] = {}
    for text in conditions:
        field, value = assigned(text, "--where")
        wanted.setdefault(field, []).append(value)
    met = [{record["id"] for record in holding(records, field, values)} for field, values in wanted.items()]
    kept = [record for record in records if all(record["id"] in ids for ids in met)]
    if not kept:
        asked = ", ".join(f"{field} {' or '.join(values)}" for field, values in wanted.items())
        raise UsageError(f"no cell has all of {asked}; leave a --where out")
    return kept


Placed = dict[tuple[str, str], list[Record]]
"""(target, network) -> cells that differ in their seeds."""


def alike(records: Iterable[Record], free: Sequence[str] = ()) -> list[list[Record]]:
    """Return groups of records that agree in every field but target, network, seed and the `free` ones.

    The group with most combinations of these comes first; of equal ones that of the least mean error.
    """
    ignored = {"target", "network", "seed", *free}
    groups: dict[tuple[Any, ...], list[Record]] = {}
    places: dict[int, set[tuple[str, ...]]] = {}
    for record in records:
        values = fields_of(record)
        group = groups.setdefault(tuple(value for name, value in values.items() if name not in ignored), [])
        group.append(record)
        places.setdefault(id(group), set()).add(tuple(str(values.get(name)) for name in ignored - {"seed"}))

    def error(group: list[Record]) -> float:
        found = [s["mae"] for record in group for s in record["scores"].values()]
        return sum(inf if mae is None else mae for mae in found) / max(len(found), 1)

    return sorted(groups.values(), key=lambda group: (-len(places[id(group)]), error(group)))


def placed(records: Iterable[Record]) -> Placed:
    """Return records by their target and network."""
    found: Placed = {}
    for record in records:
        found.setdefault((record["cell"]["target"], record["labels"]["network"]), []).append(record)
    return found
