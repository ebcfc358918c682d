"""The page: one self-contained HTML file with the answers, Table 2, the figures, every cell and how all was made."""

import base64
import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader
from markupsafe import Markup, escape

from posenet_store.files import write_atomic
from posenet_store.heads.targets import describe_target
from posenet_store.provenance import format_command
from posenet_store.report.commands import evaluate_command
from posenet_store.report.html.cell_table import list_cells
from posenet_store.report.html.findings import (
    choose_answering_lines,
    compare_baselines,
    describe_tests,
    find_findings,
    is_baseline,
    is_far_off,
    write_headline,
)
from posenet_store.report.html.network_table import make_network_table
from posenet_store.report.html.strip import make_strip
from posenet_store.report.html.warnings import list_warnings
from posenet_store.report.load import load_runs
from posenet_store.report.published import ALL
from posenet_store.report.records import name_networks
from posenet_store.report.run import Run
from posenet_store.report.scores import MeanScore, ScoreArchive, format_chance
from posenet_store.report.table import NATURAL, Line, list_columns, table_lines
from posenet_store.report.text_table import format_interval, format_number, format_p, join_entry
from posenet_store.sweep.cell import Cell
from posenet_store.sweep.results import Result, RunFiles, RunRecord

MOST_LINES = 400
"""Rows of Table 2 on the page; the table of cells, which can be searched, has all."""
SHOWN_ENTRIES = 4
"""Entries of Table 2 that a warning names; of the others it gives the number."""


def _format_entry(value: MeanScore | None) -> dict[str, Any] | None:
    """Return one entry of Table 2 as texts."""
    if value is None:
        return None
    notes, p_long = [format_interval(value.spc_bounds)], ""
    if chance := value.chance:
        notes.append(f"p {format_chance(chance)}")
        p_long = f"t test over images and seeds, uncorrected {format_p(chance.p)}"
    notes += [f"{value.undefined} of {value.images} undefined"] if value.undefined else []
    text = f"{format_number(value.spc)} / {format_number(value.mae)}"
    return {"text": text, "notes": [note for note in notes if note], "p_long": p_long}


@dataclass
class SharedWarnings:
    """Warnings, each said once, with the entries of Table 2 that it is about."""

    entries: dict[str, list[str]] = field(default_factory=dict)

    def add(self, line: Line, archive: ScoreArchive) -> list[int]:
        """Add the warnings about a line; return their numbers, from 1."""
        numbers = set[int]()
        for name, value in line.values.items() if line.ours else ():
            test = line.test(name)
            tested = [result for result in line.results if test in result.scores]
            for text in list_warnings(tested, test, value, archive):
                warning, _, details = text.partition(": ")
                entry = f"{line.target} {line.title}, {line.source.removeprefix('ours: ')}, {name}"
                entry += f" ({details})" if details else ""
                self.entries.setdefault(warning, []).append(entry)
                numbers.add(list(self.entries).index(warning) + 1)
        return sorted(numbers)

    def list_texts(self) -> Iterator[tuple[str, str]]:
        """Yield each warning and the first of its entries."""
        for warning, entries in self.entries.items():
            more = f"; and {len(entries) - SHOWN_ENTRIES} more" if len(entries) > SHOWN_ENTRIES else ""
            yield warning, "; ".join(entries[:SHOWN_ENTRIES]) + more


def table_rows(lines: Sequence[Line], archive: ScoreArchive) -> dict[str, Any]:
    """Return Table 2 for the template: its tests, its warnings, whether there are baselines, and a row a line."""
    tests, rows, warnings = list_columns(lines), [], SharedWarnings()
    asked = {line.source for line in choose_answering_lines(lines)}
    for line in lines:
        gains = compare_baselines(line, lines, archive) if line.ours and not is_baseline(line) else ()
        rows.append(
            {
                "target": line.target,
                "network": line.title,
                "setting": line.setting,
                "source": line.source,
                "ours": line.ours,
                "entries": [_format_entry(line.values.get(name)) for name in tests],
                "gains": [(base.title, join_entry(difference.parts())) for base, difference in gains],
                "warnings": warnings.add(line, archive),
                "asked": not line.ours or not asked or line.source in asked,
            }
        )
    return {
        "tests": tests,
        "baselines": any(row["gains"] for row in rows),
        "settings_vary": len({line.setting for line in lines}) > 1,
        "rows": rows,
        "warnings": [*warnings.list_texts(), *_summarise_warnings(lines)],
    }


def _summarise_warnings(lines: Sequence[Line]) -> Iterator[tuple[str, str]]:
    """Yield what a reader should know before believing any number."""
    far_off = dict.fromkeys(f"{line.title} ({line.source})" for line in lines if line.ours and is_far_off(line))
    if far_off:
        yield (
            "Not trained: errors exceed the target's whole range",
            f"{', '.join(far_off)}; training at a fixed rate did not come down from the scale of those features in its steps; "
            "the exact head (ridge) does not depend on scale",
        )
    if any(NATURAL in line.values and not line.values[NATURAL].chance for line in lines if line.ours):
        yield "Some cells have no p", "their SPC is undefined on every image"


def published_rows() -> list[tuple[str, ...]]:
    """Return every published number as text: source, target, model, what varies, its value, SPC and MAE."""
    return [
        (table.source.removeprefix("published: "), target, model, what, str(column), format_number(spc), format_number(mae))
        for what, tables in ALL.items()
        for table in tables
        for target, model in table.numbers
        for column, (spc, mae) in table.at(target, model).items()
    ]


def _format_setting(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_format_setting(entry)}" for name, entry in value.items() if name != "name")
    return ", ".join(map(_format_setting, value)) if isinstance(value, list) else str(value)


def _describe_run(run: RunRecord, path: Path, out: Path) -> dict[str, Any]:
    """Return how a run was made: the sweep's choices, protocols' own settings included, its stores, command and versions."""
    return {
        "name": path.name,
        "csv": os.path.relpath(RunFiles(path).csv, out.parent),
        "stores": run.stores,
        "notes": run.notes,
        "settings": [(name, _format_setting(value)) for name, value in run.sweep.items()],
        "provenance": run.provenance,
        "command": format_command(run.provenance["command"]),
    }


def break_names(text: str) -> Markup:
    """Return text escaped, in which a browser may break names of networks behind their dots, colons and underscores.

    >>> str(break_names("SPC .194 of timm:vit_tiny.augreg"))
    'SPC .194 of timm:<wbr>vit_<wbr>tiny.<wbr>augreg'
    """
    return Markup(re.sub(r"(?<=\w[:_.])(?=[a-z])", "<wbr>", str(escape(text))))  # noqa: S704


def _read_template(name: str) -> str:
    return (files("posenet_store.report.html") / "templates" / name).read_text(encoding="utf-8")


def _render(facts: dict[str, Any]) -> str:
    """Fill the template: all text escaped, and no script but the page's own allowed to run."""
    environment = Environment(
        loader=PackageLoader("posenet_store.report.html"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["break_names"] = break_names
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    script = _read_template("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    own = {"script": Markup(script), "style": Markup(_read_template("page.css"))}  # noqa: S704
    return environment.get_template("page.html.j2").render(**facts, **own, script_digest=f"sha256-{digest}")


def _is_of_table2(cell: Cell) -> bool:
    """Whether a head is of the published table's kind, whichever input its protocol reads: 3x3, no padding, all taps."""
    return (cell.kernel, cell.padding) == (3, 0) and ":" not in cell.input


def _list_facts(runs: Sequence[Path], out: Path) -> dict[str, Any]:
    """Return everything that the template shows."""
    loaded = load_runs(runs)
    archive, results, folders = loaded.open_archive(), loaded.results, loaded.folders
    lines = table_lines([result for result in results if _is_of_table2(result.cell)] or results, archive)
    shown = lines[:MOST_LINES]
    table = table_rows(shown, archive)
    answering, findings = choose_answering_lines(lines), find_findings(lines, archive)
    title = next(iter(loaded.records.values())).title

    def command(result: Result) -> str:
        path = folders[result.id]
        return evaluate_command(loaded.records[path], str(path), result)

    return table | {
        "title": title,
        "findings": findings,
        "headline": write_headline(findings),
        "strip": make_strip(answering, archive),
        "strip_head": f"{answering[0].source.removeprefix('ours: ')}, {answering[0].setting}" if answering else "",
        "targets": [(target, describe_target(target)) for target in dict.fromkeys(line.target for line in lines)],
        "tests_note": describe_tests(lines),
        "omitted": f"The first {MOST_LINES} of {len(lines)} rows; the table of cells has all." if lines[MOST_LINES:] else "",
        "pictures": [(picture, Markup(picture.inline())) for picture in Run(title, results, archive).pictures()],  # noqa: S704
        "board": make_network_table(results, archive, loaded.find_commands),
        "images": sorted({result.labels.images for result in results}),
        "networks": list(name_networks(results).values()),
        "cells": len(results),
        "published": published_rows(),
        "data": list_cells(results, archive, command),
        "runs": [_describe_run(run, path, out) for path, run in loaded.records.items()],
    }


def choose_page(runs: Sequence[Path]) -> Path:
    """Return where the page goes if nobody says: into a single run; of several beside them, where no sweep writes.

    >>> str(choose_page([Path("runs/demo")])), str(choose_page([Path("runs/demo"), Path("runs/padding")]))
    ('runs/demo/report.html', 'runs/demo+padding.html')
    """
    if len(runs) == 1:
        return RunFiles(runs[0]).page
    return runs[0].parent / f"{'+'.join(run.resolve().name for run in runs)}.html"


def write_page(runs: Sequence[Path], out: Path) -> Path:
    """Write the page of one or more runs to `out`; raises UsageError if one is no run or has no cell."""
    write_atomic(out, _render(_list_facts(runs, out)).encode(errors="backslashreplace"))  # a path may be no UTF-8
    return out
