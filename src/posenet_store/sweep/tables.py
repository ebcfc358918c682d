"""The tables of a run, results.csv and results.json: a row a cell, made from the cells' records."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from posenet_store.files import write_atomic
from posenet_store.sweep.results import Result, RunFiles

COLUMNS = ("id", "network", "images", "input", "target", "kernel", "padding", "protocol", "seed")


def make_row(result: Result) -> dict[str, Any]:
    """Return a result as a flat row: its cell, then spc, mae, counts and the images of each test, then how it was fitted."""
    known = vars(result.cell) | vars(result.labels) | {"id": result.id, "protocol": result.cell.protocol.name}
    row = {name: known[name] for name in COLUMNS}
    for test, score in result.scores.items():
        row |= {f"{test}:{name}": value for name, value in vars(score).items()}
    return row | result.fit | {"seconds": result.seconds}


def format_csv(rows: Sequence[dict[str, Any]]) -> str:
    """Return rows as CSV text over the union of their columns; an undefined number is an empty field."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
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
