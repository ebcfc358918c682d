"""The tables of a run, results.csv and results.json: a row a cell, made from the cells' records."""

import csv
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from posenet_store.errors import printable
from posenet_store.files import write_atomic
from posenet_store.sweep.results import Result, RunFiles

FORMULA = re.compile("(^|;)(?=\\s*[=+\\-@\uff1d\uff0b\uff0d\uff20])")
"""Where a spreadsheet begins to read a formula; some take a semicolon for the end of a cell."""
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
COLUMNS = ("id", "network", "images", "input", "target", "kernel", "padding", "protocol", "seed")


def make_row(result: Result) -> dict[str, Any]:
    """Return a result as a flat row: its cell, then spc, mae, counts and the images of each test, then how it was fitted."""
    known = vars(result.cell) | vars(result.labels) | {"id": result.id, "protocol": result.cell.protocol.name}
    row = {name: known[name] for name in COLUMNS}
    for test, score in result.scores.items():
        row |= {f"{test}:{name}": value for name, value in vars(score).items()}
    return row | result.fit | {"seconds": result.seconds}


def escape_cell(value: object) -> object:
    """Return a text so that a spreadsheet takes it for no formula, and a terminal for no command; numbers stay as they are.

    >>> escape_cell("=1+1"), escape_cell("-1.5"), escape_cell(-1.5), escape_cell("f1\\tf2")
    ("'=1+1", '-1.5', -1.5, 'f1\\\\tf2')
    """
    if not isinstance(value, str) or NUMBER.fullmatch(value):
        return value
    return FORMULA.sub(r"\1'", printable(value))


def format_csv(rows: Sequence[dict[str, Any]]) -> str:
    """Return rows as CSV text over the union of their columns; an undefined number is an empty field.

    All CSV of this program is written here.
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
    writer.writerow({name: escape_cell(name) for name in names})
    writer.writerows({name: escape_cell(value) for name, value in row.items()} for row in rows)
    return text.getvalue()


def _format_tables(files: RunFiles, results: Sequence[Result]) -> dict[Path, bytes]:
    rows = [make_row(result) for result in results]
    return {files.csv: format_csv(rows).encode(), files.json: json.dumps(rows, indent=1, allow_nan=False).encode() + b"\n"}


def write_tables(files: RunFiles, results: Sequence[Result]) -> None:
    """Write both tables."""
    for path, data in _format_tables(files, results).items():
        write_atomic(path, data)


def has_tables(files: RunFiles, results: Sequence[Result]) -> bool:
    """Return whether both tables are there and hold these results."""
    return all(path.is_file() and path.read_bytes() == data for path, data in _format_tables(files, results).items())
