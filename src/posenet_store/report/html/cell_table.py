"""Every cell as data for the page: what it is, its scores on each test with intervals and p, and the command that scores it."""

import shlex
from collections.abc import Callable, Sequence
from pathlib import PurePath
from typing import Any

from posenet_store.report.html.cautions import cautions
from posenet_store.report.records import FIELDS, Record, fields_of, varying
from posenet_store.report.scores import MeanScore, ScoreArchive, chances, value_of
from posenet_store.report.table import chosen_columns
from posenet_store.sweep.results import COLUMNS

DIGITS = 4
ALWAYS = ("network", "target")


def typed_command(command: str) -> str:
    """Return a recorded command line as a person types it.

    >>> typed_command("/somewhere/cli.py sweep demo.toml"), typed_command("/usr/bin/posenet-store sweep demo.toml")
    ('python cli.py sweep demo.toml', 'posenet-store sweep demo.toml')
    """
    program, *words = shlex.split(command) or [""]
    name = PurePath(program).name
    return shlex.join([*(["python", name] if name.endswith(".py") else [name]), *words])


def evaluation(run: dict[str, Any], folder: str, record: Record) -> str:
    """Return the command that scores a cell's head again, on the store that it was trained from."""
    command = typed_command(run["provenance"]["command"])
    words = shlex.split(command)
    program = words[: words.index("sweep")] if "sweep" in words else ["python", "cli.py"]
    root = words[words.index("--stores") + 1] if "--stores" in words[:-1] else "stores"
    ends = record["cell"]["store"][:8]
    store = next((name for name in run["stores"] if name.endswith(ends)), "STORE")
    return shlex.join(
        [*program, "evaluate", "--head", f"{folder}/heads/{record['id']}.safetensors", "--store", f"{root}/{store}"]
    )


def cell_table(records: Sequence[Record], kept: ScoreArchive, command: Callable[[Record], str]) -> dict[str, Any]:
    """Return `fixed` (what all cells have), `fields` and `tests` (names), `commands` (texts before and
    after a cell's id), and `cells`.

    A cell is [id, its values, an entry a test, the number of its command]; an entry is [SPC, low, high, MAE, low, high, p,
    corrected p, p of shifts, images, undefined, cautions] or null.
    """
    tests = chosen_columns(records)
    varied = varying(records)
    fields = [name for name in FIELDS if name in varied or name in ALWAYS]
    first = fields_of(records[0])
    fixed = {name: first[name] for name in COLUMNS[1:] if name not in fields}
    entries = [([record], test) for record in records for test in tests.values() if test in record["scores"]]
    found = dict(zip([(some[0]["id"], test) for some, test in entries], chances(entries, kept), strict=True))
    cells, commands = [], dict[tuple[str, str], int]()
    for record in records:
        values = fields_of(record)
        scored = [
            _entry(record, test, kept, found[record["id"], test]) if test in record["scores"] else None
            for test in tests.values()
        ]
        before, _, after = command(record).partition(record["id"])
        number = commands.setdefault((before, after), len(commands))
        cells.append([record["id"], [values[name] for name in fields], scored, number])
    return {"fixed": fixed, "fields": fields, "tests": list(tests), "commands": list(commands), "cells": cells}


def _entry(record: Record, test: str, kept: ScoreArchive, chance: Any) -> list[Any]:
    value: MeanScore = value_of([record], test, kept)
    spc, mae = value.spc_bounds or (None, None), value.mae_bounds or (None, None)
    p = (chance.permuted, chance.corrected, chance.shifted) if chance else (None, None, None)
    numbers = [value.spc, *spc, value.mae, *mae, *p]
    said = "; ".join(cautions([record], test, value, kept))
    return [None if n is None else float(f"{n:.{DIGITS}g}") for n in numbers] + [value.images, value.undefined, said]
