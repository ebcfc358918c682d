"""Check what a caller asks of a store: names of arrays, rows, counts and image ids."""

from collections.abc import Mapping, Sequence
from numbers import Integral

from posenet_store.errors import UsageError, suggest, unknown


def choose_names(arrays: Mapping[str, object], names: str | Sequence[str] | None, store: str) -> tuple[str, ...]:
    """Return the names of arrays that are asked for, each once, all for None; raises UsageError for an unknown one or none.

    >>> choose_names({"f1": 0, "f2": 0}, "f2", "a"), choose_names({"f1": 0, "f2": 0}, None, "a")
    (('f2',), ('f1', 'f2'))
    """
    asked = tuple(arrays) if names is None else (names,) if isinstance(names, str) else tuple(names)
    for name in asked:
        if name not in tuple(arrays):  # in a tuple, whatever it is: a slice has no hash
            raise unknown(f"array of {store}", name, arrays)
    if not asked:
        raise UsageError(f"no array of {store} is named; give some of {', '.join(arrays)}, or leave the names out for all")
    return tuple(dict.fromkeys(asked))


def check_span(rows: int, start: int, stop: int | None, store: str) -> tuple[int, int]:
    """Return the span [start, stop) of a store's rows, to the last row for None; raises UsageError for other rows."""
    end = rows if stop is None else stop
    if not isinstance(start, Integral) or not isinstance(end, Integral) or not 0 <= start <= end <= rows:
        raise UsageError(
            f"rows {start}-{end} are not rows of {store}; it has rows 0-{rows}: give 0 <= start <= stop <= {rows}, "
            "or leave stop out for all"
        )
    return int(start), int(end)


def check_count(name: str, value: int, least: int) -> None:
    """Raise UsageError if `value` is not a whole number of at least `least`.

    >>> check_count("batch_size", 4, 1)
    """
    if not isinstance(value, Integral) or value < least:
        raise UsageError(f"{name} = {value!r} is not accepted; give a whole number of at least {least}")


def find_rows(ids: Sequence[str], wanted: Sequence[str], store: str) -> list[int]:
    """Return the row of each image id; raises UsageError for an id that the store does not hold.

    >>> find_rows(("b.png", "a.png"), ["a.png"], "a")
    [1]
    """
    rows = {image_id: row for row, image_id in enumerate(ids)}
    for image_id in wanted:
        if image_id not in rows:
            raise UsageError(
                f"{store} has no image {image_id!r}{suggest(image_id, ids)}; `ids` lists its {len(ids):,}, such as {ids[0]!r}"
            )
    return [rows[image_id] for image_id in wanted]
