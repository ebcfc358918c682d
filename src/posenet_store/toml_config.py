"""Read TOML files, and check their tables key by key against a frozen dataclass of defaults."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from posenet_store.errors import UsageError, unknown

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Settings = TypeVar("Settings", bound="DataclassInstance")
NAMES = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}


def read_toml(path: Path, kind: str, advice: str) -> dict[str, Any]:
    """Read a TOML file; raises UsageError for one that can't be read, with `advice` if it does not exist."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{kind} {path} does not exist; {advice}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{kind} {path} can't be read: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path} is not valid TOML: {error}") from None


def _check_plain_value(value: Any, kind: type, where: str) -> Any:
    """Return a single value of the given type; a whole number passes as a float."""
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise UsageError(f"{where} = {value!r} is not accepted; give {NAMES[kind]}")
    return value


def check_value(value: Any, default: Any, where: str) -> Any:
    """Return a TOML value that has the type of the default it replaces; a list becomes a tuple.

    Entries of a list have the type of the default's first entry (text if it has none). Raises UsageError for another type,
    an entry twice, or an empty list whose default is not empty.

    >>> check_value([1, 2.5], (0.0,), "rates")
    (1.0, 2.5)
    """
    if not isinstance(default, tuple):
        return _check_plain_value(value, type(default), where)
    if not isinstance(value, list):
        raise UsageError(f"{where} = {value!r} is not accepted; give a list")
    if default and not value:
        raise UsageError(f"{where} = [] is not accepted; give a list with at least one entry")
    kind = type(default[0]) if default else str
    entries = tuple(_check_plain_value(entry, kind, where) for entry in value)
    if len(set(entries)) != len(entries):
        raise UsageError(f"{where} = {value!r} names an entry twice")
    return entries


def fill_defaults(
    defaults: Settings, table: Mapping[str, Any], where: str, hidden: Sequence[str] = (), sections: Sequence[str] = ()
) -> Settings:
    """Return `defaults` with the table's values; raises UsageError for an unknown key, with those that exist.

    `hidden` fields are no keys; `sections` are tables that are checked elsewhere.
    """
    known = [field.name for field in fields(defaults) if field.name not in (*hidden, *sections)]
    for key in table:
        if key not in known:
            raise unknown(f"key in {where}", key, [*known, *(f"[{name}]" for name in sections)])
    values = {key: check_value(value, getattr(defaults, key), f"{where}: {key}") for key, value in table.items()}
    return replace(defaults, **values)
