"""Settings as the user writes them: a TOML table, checked key by key against the frozen dataclass of its defaults."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from posenet_store.errors import UsageError, unknown


def read_toml(path: Path, kind: str, advice: str) -> dict[str, Any]:
    """Read a TOML file; raises UsageError if it can't be, with `advice` where there is none."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{kind} {path} does not exist; {advice}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{kind} {path} can't be read: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path} is not valid TOML: {error}") from None


def _plain(value: Any, kind: type, where: str) -> Any:
    """Check one TOML value; whole numbers pass as floats."""
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not kind:
        names = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}
        raise UsageError(f"{where} = {value!r} is not accepted; give {names[kind]}")
    return value


def typed(value: Any, default: Any, where: str) -> Any:
    """Check a TOML value against the default it replaces: a plain value, or a list of such (of texts, if that is empty)."""
    if not isinstance(default, tuple):
        return _plain(value, type(default), where)
    if not isinstance(value, list):
        raise UsageError(f"{where} = {value!r} is not accepted; give a list")
    if default and not value:
        raise UsageError(f"{where} = [] is not accepted; give a list with at least one entry")
    entries = tuple(_plain(entry, type(default[0]) if default else str, where) for entry in value)
    if len(set(entries)) != len(entries):
        raise UsageError(f"{where} = {value!r} names an entry twice")
    return entries


def filled(
    defaults: Any, table: Mapping[str, Any], where: str, hidden: Sequence[str] = (), sections: Sequence[str] = ()
) -> Any:
    """Return `defaults` with the table's values; raises UsageError for a key that does not exist, with those that do.

    `hidden` fields are no keys; `sections` are tables of their own, checked elsewhere.
    """
    known = [f.name for f in fields(defaults) if f.name not in (*hidden, *sections)]
    for key in table:
        if key not in known:
            raise unknown(f"key in {where}", key, [*known, *(f"[{name}]" for name in sections)])
    values = {key: typed(value, getattr(defaults, key), f"{where}: {key}") for key, value in table.items()}
    return replace(defaults, **values)
