"""Read TOML files, and check their tables key by key against a frozen dataclass of defaults, and numbers against `RANGES`.

The ranges are those of options of the command line too, and of numbers within names.
"""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from posenet_store.errors import UsageError, first_line, show_value, unknown

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Settings = TypeVar("Settings", bound="DataclassInstance")
SEEDS = 2**32 - 1
RANGES: dict[str, tuple[float, float]] = {
    # of image sets and builds
    "limit": (1, 10**9),
    "generated": (1, 10**7),
    "image_size": (28, 4096),
    "batch_size": (1, 2**16),
    "max_unreadable": (0, 1),
    "part": (1, 10**6),
    # of sweeps
    "train_images": (0, 10**9),
    "holdout": (0, 0.999),
    "range": (-1e6, 1e6),
    "kernels": (1, 83),
    "paddings": (0, 28),
    "seeds": (0, SEEDS),
    # of heads that are trained by gradient steps
    "learning_rate": (1e-12, 1e6),
    "weight_decay": (0, 1e6),
    "momentum": (0, 0.9999),
    "drop": (0, 10_000),
    "epochs": (1, 10_000),
    "min_steps": (0, 10**7),
    "order_seed": (0, SEEDS),
    "layers": (1, 32),
    "hidden": (0, 4096),
    "size": (0, 2048),
    # of heads that are solved exactly
    "lambdas": (1e-30, 1e12),
    "validation": (0.001, 0.999),
    "folds": (0, 1000),
    "iterations": (1, 10**6),
    "bands": (0, 1000),
    # of where it runs, and what is shown
    "cores": (1, 4096),
    "workers": (1, 10_000),
    "rows_shown": (1, 10**9),
    "rings": (1, 100),
    "ring_width": (1, 4096),
    "grid": (2, 16),
}
"""Name of a key or an option -> least and largest value."""
MAX_BYTES, MAX_DOTS = 1 << 16, 200
"""Of a file, and of a line of it: the time that the parser takes for a name grows with the square of its dots."""
NAMES = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}


def check_range(name: str, value: float, where: str) -> None:
    """Raise UsageError that says the accepted range if a number, called `where`, is out of the range `name`.

    >>> check_range("epochs", 15, "epochs")
    """
    low, high = RANGES[name]
    if not low <= value <= high:  # nor is NaN
        raise UsageError(f"{where} = {show_value(value)} is not accepted; give {low:,} to {high:,}")


def parse_whole_number(name: str, text: str, where: str) -> int:
    """Return the number that `text` spells; raises UsageError if it is no whole number in the range `name`.

    >>> parse_whole_number("seeds", "7", "seed")
    7
    """
    low, high = RANGES[name]
    if not (text.isascii() and text.isdecimal() and len(text) <= len(str(high)) and low <= int(text) <= high):
        raise UsageError(f"{where} = {show_value(text)} is not accepted; give a whole number from {low:,} to {high:,}")
    return int(text)


def read_toml(path: Path, kind: str, advice: str) -> dict[str, Any]:
    """Read a TOML file; raises UsageError for one that can't be read or is too large, with `advice` if it does not exist."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES or max(line.count(b".") for line in content.split(b"\n")) > MAX_DOTS:
            raise UsageError(f"{kind} {path} is too large: {MAX_BYTES:,} bytes and {MAX_DOTS} dots a line are accepted")
        return tomllib.loads(content.decode())
    except FileNotFoundError:
        raise UsageError(f"{kind} {path} does not exist; {advice}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{kind} {path} can't be read: {error}") from None
    except (ValueError, RecursionError) as error:  # a whole number of over 4,300 digits, or lists in lists in lists
        raise UsageError(f"{path} is not valid TOML: {first_line(error)}") from None


def _check_plain_value(value: Any, kind: Any, key: str, where: str) -> Any:
    """Return a single value of the given type, in the range of its key; a whole number passes as a float."""
    if type(value) is not kind and not (kind is float and type(value) is int):
        raise UsageError(f"{where} = {show_value(value)} is not accepted; give {NAMES[kind]}")
    if key in RANGES:
        check_range(key, value, where)
    return kind(value)


def check_value(value: Any, default: Any, key: str, where: str) -> Any:
    """Return the value of `key` if it has the type of the default that it replaces; a list becomes a tuple.

    Entries of a list have the type of the default's first entry (text if it has none). Raises UsageError for another type,
    a number out of the key's range, an entry twice, or an empty list whose default is not empty.

    >>> check_value([1, 2.5], (0.0,), "learning_rate", "rates")
    (1.0, 2.5)
    """
    if not isinstance(default, tuple):
        return _check_plain_value(value, type(default), key, where)
    if not isinstance(value, list):
        raise UsageError(f"{where} = {show_value(value)} is not accepted; give a list")
    if default and not value:
        raise UsageError(f"{where} = [] is not accepted; give a list with at least one entry")
    kind = type(default[0]) if default else str
    entries = tuple(_check_plain_value(entry, kind, key, where) for entry in value)
    if len(set(entries)) != len(entries):
        raise UsageError(f"{where} = {show_value(value)} names an entry twice")
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
    values = {key: check_value(value, getattr(defaults, key), key, f"{where}: {key}") for key, value in table.items()}
    return replace(defaults, **values)
