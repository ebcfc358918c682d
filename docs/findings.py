"""Collect the numbers of the tables in docs/findings.md from runs, and fill them in.

    python docs/findings.py science runs/science            takes the tables of a set from the runs below a folder, then renders
    python docs/findings.py photographs runs/photographs    the same of those that pipeline/photographs.sh made

What each table holds is in docs/findings_tables.py; the numbers are kept in docs/findings.json, with their 95 % intervals.
A table stands between
`<!-- table: NAME -->` and `<!-- /table -->`; `docs/render.py` writes it from there, one without numbers stays as it is.
"""

import json
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from math import isclose
from pathlib import Path
from typing import Any

from findings_tables import FIGURES, SETS, Records, Table

ROOT = Path(__file__).parents[1]
PAGE, NUMBERS = ROOT / "docs/findings.md", ROOT / "docs/findings.json"
TABLE = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(<!-- /table -->)", re.DOTALL)
DIGITS = 4


@cache
def _load_run(folder: Path) -> tuple[Sequence[Any], Any]:
    """Return the results and the scores of a run."""
    from posenet_store.report.load import load_runs

    loaded = load_runs([folder])
    return loaded.results, loaded.open_archive()


def _read_number(folder: Path, run: str, conditions: Sequence[str]) -> list[float | None]:
    """Return the SPC of one kind of head and its 95 % bounds, seeds pooled; raises ValueError if heads of several kinds fit."""
    from posenet_store.report.records import get_fields, select_results
    from posenet_store.report.scores import pool_seeds
    from posenet_store.sweep.cell import HELD_OUT

    chosen = {"run": run, "test": HELD_OUT}
    chosen |= {name: value for name, _, value in (text.partition("=") for text in conditions) if name in chosen}
    results, archive = _load_run(folder / chosen["run"])
    heads = select_results(results, [text for text in conditions if text.partition("=")[0] not in chosen])
    kinds = {str(get_fields(head) | {"seed": None}) for head in heads}
    if len(kinds) != 1:
        raise ValueError(f"{len(kinds)} kinds of heads have {', '.join(conditions)}")
    score = pool_seeds(heads, chosen["test"], archive)
    numbers = (score.spc, *(score.spc_bounds or (None, None)))
    return [None if number is None else round(number, DIGITS) for number in numbers]


def collect(table: Table, folder: Path) -> dict[str, Any]:
    """Return a table's numbers, [SPC, low, high] a column, from its run; published ones as texts.

    Raises UsageError if the run lacks one.
    """
    from posenet_store.report import published

    rows = [
        [label, [_read_number(folder, table.run, (*table.where, *own, column)) for column in table.columns.values()]]
        for label, own in table.rows.items()
    ]
    if table.published:
        label, name, target, model = table.published
        pairs = {str(column): pair for column, pair in getattr(published, name).at(target, model).items()}
        rows.append([label, [format_score(pairs[column][0], 3) if column in pairs else "" for column in table.columns]])
    return {"corner": table.corner, "columns": list(table.columns), "rows": rows}


def collect_records(table: Records, folder: Path) -> dict[str, Any]:
    """Return a table's numbers as `collect` does; an entry that no record fits is empty.

    Raises ValueError if several fit, or if none fits a row or a column.
    """
    records = json.loads((folder / table.file).read_text(encoding="utf-8"))
    rows = table.rows or {record["network"]: {"network": record["network"]} for record in records}

    def read(row: Mapping[str, object], column: Mapping[str, object]) -> list[float | None] | str:
        chosen = dict(row) | dict(column)
        field = str(chosen.pop("field"))
        fitting = [record for record in records if all(_fits(record.get(name), value) for name, value in chosen.items())]
        if len(fitting) > 1:
            raise ValueError(f"{len(fitting)} records of {table.file} have {chosen}")
        if not fitting:
            return ""
        numbers = (fitting[0].get(name) for name in (field, f"{field}_low", f"{field}_high"))
        return [None if number is None else round(number, DIGITS) for number in numbers]

    entries = [[read(row, column) for column in table.columns.values()] for row in rows.values()]
    if not (all(map(any, entries)) and all(map(any, zip(*entries, strict=True)))):
        raise ValueError(f"{table.file} has no record for a row of {list(rows)} or a column of {list(table.columns)}")
    pairs = [list(pair) for pair in zip(rows, entries, strict=True)]
    return {"corner": table.corner, "columns": list(table.columns), "rows": pairs, "digits": table.digits}


def _fits(value: Any, wanted: object) -> bool:
    return isclose(value, wanted, abs_tol=1e-6) if isinstance(wanted, float) and value is not None else bool(value == wanted)


def format_score(number: float | None, digits: int = 2) -> str:
    """Return a number as the findings print it.

    >>> format_score(0.894), format_score(None), format_score(-0.031), format_score(-0.001), format_score(0.5, digits=3)
    ('.89', 'undefined', '-.03', '.00', '.500')
    """
    return "undefined" if number is None else re.sub(r"^(-?)0\.", r"\1.", f"{round(number, digits) + 0.0:.{digits}f}")


def format_entry(entry: Sequence[float | None] | str, digits: int = 2) -> str:
    """Return a number with its interval, ± where both bounds are equally far; a published number, which is text, as it is.

    >>> format_entry([0.894, 0.876, 0.912]), format_entry([0.98, 0.91, 1.0]), format_entry([0.13, None, None])
    ('.89 ±.02', '.98 [.91, 1.00]', '.13')
    >>> format_entry([6, 6, 6], 0), format_entry([3, 3, 4], 0), format_entry([None, None, None]), format_entry(".742")
    ('6', '3 [3, 4]', 'undefined', '.742')
    """
    if isinstance(entry, str):
        return entry
    number, low, high = entry
    text = format_score(number, digits)
    if number is None or low is None or high is None or low == high:
        return text
    if isclose(number - low, high - number, abs_tol=10**-digits / 2):
        return f"{text} ±{format_score((high - low) / 2, digits)}"
    return f"{text} [{format_score(low, digits)}, {format_score(high, digits)}]"


def render_table(table: Mapping[str, Any]) -> str:
    """Return a table as Markdown.

    >>> print(render_table({"corner": "", "columns": ["f1"], "rows": [["VGG", [[0.894, 0.88, 0.908]]]]}), end="")
    | | f1 |
    |---|---|
    | VGG | .89 ±.01 |
    """
    digits = table.get("digits", 2)
    rows = [[label, *(format_entry(entry, digits) for entry in row)] for label, row in table["rows"]]
    head, *body = (
        "".join(f"| {text} " if text else "| " for text in row) + "|" for row in ([table["corner"], *table["columns"]], *rows)
    )
    return "\n".join([head, "|" + "---|" * (1 + len(table["columns"])), *body]) + "\n"


def read_tables() -> dict[str, Mapping[str, Any]]:
    """Return the numbers of the tables by name, of all sets."""
    return json.loads(NUMBERS.read_text(encoding="utf-8")) if NUMBERS.is_file() else {}


def render_findings(text: str, tables: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the page with its tables filled in.

    >>> render_findings("<!-- table: x -->\\nas it was\\n<!-- /table -->", {})
    '<!-- table: x -->\\nas it was\\n<!-- /table -->'
    """

    def fill(match: re.Match[str]) -> str:
        table = tables.get(match[2])
        return match[0] if table is None else match[1] + render_table(table) + match[3]

    return TABLE.sub(fill, text)


def main(name: str, folder: str) -> None:
    """Collect the tables and figures of a set that are there, say which are not, and render the page."""
    tables = read_tables()
    for table_name, table in SETS[name].items():
        source = Path(folder) / (table.run if isinstance(table, Table) else table.file)
        if source.exists():
            tables[table_name] = (
                collect(table, Path(folder)) if isinstance(table, Table) else collect_records(table, Path(folder))
            )
        else:
            sys.stderr.write(f"{table_name}: there is no {source}\n")
    for figure in FIGURES[name]:
        if (Path(folder) / figure).is_file():
            shutil.copy(Path(folder) / figure, ROOT / "docs/images" / figure)
        else:
            sys.stderr.write(f"{figure}: it is not in {folder}\n")
    NUMBERS.write_text(json.dumps(tables, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(render_findings(PAGE.read_text(encoding="utf-8"), tables), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:3])
