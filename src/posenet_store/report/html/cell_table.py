"""Every cell as data for the page: what it is, its scores on each test with intervals and p, and the command that scores it."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from posenet_store.report.html.warnings import list_warnings
from posenet_store.report.records import FIELDS, get_fields, list_varying
from posenet_store.report.scores import ScoreArchive, find_chances, pool_seeds
from posenet_store.report.significance import Chance
from posenet_store.report.table import choose_columns
from posenet_store.sweep.results import Result
from posenet_store.sweep.tables import COLUMNS

DIGITS = 4
ALWAYS = ("network", "target")
NUMBERS = ("spc", "spc_low", "spc_high", "mae", "mae_low", "mae_high", "p", "p_corrected")


def list_cells(results: Sequence[Result], archive: ScoreArchive, command: Callable[[Result], str]) -> dict[str, Any]:
    """Return `fixed` (what all cells have in common), `fields` and `tests` (names), `commands` (texts before and
    after a cell's id), and `cells`.

    A cell is [id, its values, an entry a test, the number of its command]; an entry is [SPC, low, high, MAE, low, high, p,
    corrected p, images, undefined, warnings] or null.
    """
    tests, varying = choose_columns(results), list_varying(results)
    fields = [name for name in FIELDS if name in varying or name in ALWAYS]
    first = get_fields(results[0])
    fixed = {name: first[name] for name in COLUMNS[1:] if name not in fields}
    tested = [(result, test) for result in results for test in tests.values() if test in result.scores]
    chances = iter(find_chances([([result], test) for result, test in tested], archive))
    cells, commands = [], dict[tuple[str, str], int]()
    for result in results:
        entries = [
            _list_numbers(result, test, archive, next(chances)) if test in result.scores else None for test in tests.values()
        ]
        before, _, after = command(result).partition(result.id)
        number = commands.setdefault((before, after), len(commands))
        values = get_fields(result)
        cells.append([result.id, [values[name] for name in fields], entries, number])
    return {"fixed": fixed, "fields": fields, "tests": list(tests), "commands": list(commands), "cells": cells}


def _list_numbers(result: Result, test: str, archive: ScoreArchive, chance: Chance | None) -> list[Any]:
    value = replace(pool_seeds([result], test, archive), chance=chance)
    facts = value.to_dict()
    numbers = [facts[name] for name in NUMBERS]
    warnings = "; ".join(list_warnings([result], test, value, archive))
    return [None if n is None else float(f"{n:.{DIGITS}g}") for n in numbers] + [value.images, value.undefined, warnings]
