"""Check the fields of a store's JSON files: types and bounds, before anything relies on them.

A check takes a value and returns whether it is accepted; plan, records and manifest say theirs as {field: check}.
"""

from collections.abc import Callable, Mapping
from pathlib import PurePosixPath
from typing import Any

Check = Callable[[Any], bool]
DEPTH = 16
"""How deep free values may be nested; what this program writes has 4 levels."""
LETTERS = 1 << 20
"""How long a text may be; the modules of a thousand taps have a tenth."""


PATH_LETTERS = 300
"""How long the path of a file below a store may be."""


def is_text(value: Any) -> bool:
    """Return whether a value is a text, which can be written, printed and be a part of a path."""
    return type(value) is str and len(value) <= LETTERS and _is_unicode(value)


def is_texts(value: Any) -> bool:
    """Return whether a value is a list of texts; fast, since a store may have a million rows."""
    return type(value) is list and set(map(type, value)) <= {str} and _is_unicode("".join(value))


def _is_unicode(text: str) -> bool:
    """Return False if a text has half a UTF-16 pair, which JSON can escape, or NUL, which ends a text in C."""
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False


def is_label(value: Any) -> bool:
    """Return whether a value is a text as short as a name."""
    return is_text(value) and len(value) <= 4096


def is_digest(value: Any) -> bool:
    """Return whether a value is a SHA-256 in hexadecimal."""
    return type(value) is str and len(value) == 64 and set(value) <= set("0123456789abcdef")


def is_path(value: Any) -> bool:
    """Return whether a value is the path of a file below the store."""
    if type(value) is not str or not value.isprintable() or len(value) > PATH_LETTERS:
        return False
    path = PurePosixPath(value)
    return value == str(path) and bool(path.parts) and not path.is_absolute() and ".." not in path.parts


def is_count(value: Any) -> bool:
    """Return whether a value is a whole number from 0 that fits 63 bits."""
    return type(value) is int and 0 <= value < 2**63


def is_positive(value: Any) -> bool:
    """Return whether a value is a count above 0."""
    return is_count(value) and value > 0


def is_counts(value: Any) -> bool:
    """Return whether a value is a list of counts; fast, since a store may have a million rows."""
    return type(value) is list and set(map(type, value)) <= {int} and (not value or (min(value) >= 0 and max(value) < 2**63))


def is_number(value: Any) -> bool:
    """Return whether a value is a finite number."""
    return type(value) in (int, float) and -1e308 < value < 1e308


def is_object(value: Any) -> bool:
    """Return whether a value is a JSON object of any fields, not nested deeper than `DEPTH`."""
    return type(value) is dict and _is_shallow(value, DEPTH)


def _is_shallow(value: Any, depth: int) -> bool:
    if type(value) not in (dict, list):
        return value is None or type(value) in (str, bool) or is_number(value)
    values = value.values() if type(value) is dict else value
    return depth > 0 and all(_is_shallow(part, depth - 1) for part in values)


FILE = {"path": is_path, "bytes": is_count, "sha256": is_digest}


def are_files(value: Any) -> bool:
    """Return whether a value is a list of files with sizes and digests, each file once."""
    return list_of(object_of(FILE))(value) and len({entry["path"] for entry in value}) == len(value)


def list_of(check: Check, length: int | None = None) -> Check:
    """Return the check of a list, of `length` values if that is given."""
    return lambda value: type(value) is list and (length is None or len(value) == length) and all(map(check, value))


def object_of(checks: Mapping[str, Check]) -> Check:
    """Return the check of an object that has these fields; others are not looked at."""
    return lambda value: type(value) is dict and find_misfit(value, checks) is None


def exact_object_of(checks: Mapping[str, Check]) -> Check:
    """Return the check of an object that has these fields and no others."""
    return lambda value: object_of(checks)(value) and len(value) == len(checks)


def map_of(check: Check) -> Check:
    """Return the check of an object of which every value passes `check`."""
    return lambda value: type(value) is dict and all(map(check, value.values()))


def find_misfit(content: Mapping[str, Any], checks: Mapping[str, Check]) -> str | None:
    """Return what is wrong with the first field that is missing or not accepted, None if all are.

    >>> find_misfit({"rows": -1}, {"rows": is_count}), find_misfit({}, {"rows": is_count})
    ("holds a value of another type or size in 'rows'", "lacks 'rows'")
    """
    for field, check in checks.items():
        if field not in content:
            return f"lacks {field!r}"
        if not check(content[field]):
            return f"holds a value of another type or size in {field!r}"
    return None
