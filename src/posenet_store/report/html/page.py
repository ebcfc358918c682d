"""The page: one self-contained HTML file with the answers, Table 2, the figures, every cell and how all was made."""

import base64
import hashlib
import os
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from posenet_store.files import write_atomic
from posenet_store.report.html.cautions import cautions
from posenet_store.report.html.cell_table import cell_table, evaluation, typed_command
from posenet_store.report.html.findings import NATURAL, above, findings, how_tested, is_baseline
from posenet_store.report.published import ALL
from posenet_store.report.records import Record
from posenet_store.report.run import Run
from posenet_store.report.scores import MeanScore, ScoreArchive, bracketed, shown_p
from posenet_store.report.significance import PERMUTATIONS
from posenet_store.report.table import Line, columns, network_title, table_lines
from posenet_store.report.text_table import joined, short
from posenet_store.sweep.results import RunFiles, load_run

MOST_LINES = 400
"""Of Table 2: beyond, the table of cells is the better place to look."""
FAR_OFF = 10.0


def _entry(value: MeanScore | None) -> dict[str, str] | None:
    """One entry of Table 2 as texts."""
    if value is None:
        return None
    chance = value.chance
    return {
        "text": f"{short(value.spc)} / {short(value.mae)}",
        "bounds": bracketed(value.spc_bounds),
        "p": shown_p(chance.corrected) if chance else "",
        "p_long": f"uncorrected {shown_p(chance.permuted)}; of shifts {shown_p(chance.shifted)}, which can be no less than "
        f"{shown_p(chance.shifted_least)}"
        if chance
        else "",
        "undefined": f"{value.undefined} of {value.images} undefined" if value.undefined else "",
    }


def _minded(line: Line, kept: ScoreArchive) -> list[str]:
    """The cautions of a line, each with its test."""
    if not line.ours:
        return []
    tests = {name: line.test(name) for name in line.values}
    found = {name: [r for r in line.records if test in r["scores"]] for name, test in tests.items()}
    return [f"{name}: {text}" for name in tests for text in cautions(found[name], tests[name], line.values[name], kept)]


def table_rows(lines: Sequence[Line], kept: ScoreArchive) -> dict[str, Any]:
    """Return Table 2 for the template: its tests and baselines, and a row a line."""
    tests = columns(lines)
    gains = {id(line): dict(above(line, lines, kept)) for line in lines if line.ours and not is_baseline(line)}
    rows = []
    for line in lines:
        found = gains.get(id(line), {})
        rows.append({
            "target": line.target,
            "network": network_title(line.network) if line.ours else line.network,
            "setting": line.setting,
            "source": line.source,
            "ours": line.ours,
            "entries": [_entry(line.values.get(name)) for name in tests],
            "above": [(network_title(name), joined(one.parts())) for name, one in found.items()],
            "mind": "; ".join(_minded(line, kept)),
        })  # fmt: skip
    return {
        "tests": tests,
        "baselines": any(gains.values()),
        "settings_vary": len({line.setting for line in lines}) > 1,
        "rows": rows,
    }


def _minds(lines: Sequence[Line], rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """What a reader should know before believing a number, for the summary."""
    ours = sum(line.ours for line in lines)
    if minded := sum(bool(row["mind"]) for row in rows):
        yield f"{minded} of {ours} of our rows carry a caution, in the last column of Table 2."
    if any((value.mae or 0) > FAR_OFF for line in lines for value in line.values.values()):
        yield (
            "An MAE far above 1: training at a fixed rate did not come down from the scale of those features in its steps; "
            "the exact head (ridge) does not depend on scale."
        )
    if any(NATURAL in line.values and not line.values[NATURAL].chance for line in lines if line.ours):
        yield "Some cells keep no maps of ranks (undefined, or an older run): they have no p."


def published_rows() -> list[tuple[str, ...]]:
    """Return every published number as text: source, target, model, what varies, its value, SPC and MAE."""
    return [
        (table.source.removeprefix("published: "), target, model, what, str(column), short(spc), short(mae))
        for what, tables in ALL.items()
        for table in tables
        for target, model in table.numbers
        for column, (spc, mae) in table.at(target, model).items()
    ]


def _settings(run: dict[str, Any]) -> list[tuple[str, str]]:
    """The sweep's choices as name and text, protocols' own settings included."""

    def text(value: Any) -> str:
        if isinstance(value, dict):
            return ", ".join(f"{key} {text(one)}" for key, one in value.items() if key != "name")
        return ", ".join(map(str, value)) if isinstance(value, list) else str(value)

    return [(key, text(value)) for key, value in run["sweep"].items()]


def _made(run: dict[str, Any], path: Path, out: Path) -> dict[str, Any]:
    return {
        "name": path.name,
        "csv": os.path.relpath(RunFiles(path).csv, out.parent),
        "stores": run["stores"],
        "notes": run["notes"],
        "settings": _settings(run),
        "provenance": run["provenance"],
        "command": typed_command(run["provenance"]["command"]),
    }


def _template(name: str) -> str:
    return (files("posenet_store.report.html") / "templates" / name).read_text(encoding="utf-8")


def _rendered(facts: dict[str, Any]) -> str:
    """Fill the template: all text escaped, and no script but the page's own allowed to run."""
    environment = Environment(
        loader=PackageLoader("posenet_store.report.html"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    script = _template("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    own = {"script": Markup(script), "style": Markup(_template("page.css"))}  # noqa: S704
    return environment.get_template("page.html.j2").render(**facts, **own, script_digest=f"sha256-{digest}")


def _is_of_table2(cell: dict[str, Any]) -> bool:
    """The published table's kind of head, whichever input its protocol reads: 3x3, no padding, all taps."""
    return (cell["kernel"], cell["padding"]) == (3, 0) and ":" not in cell["input"]


def write_page(runs: Sequence[Path], out: Path) -> Path:
    """Write the page of one or more runs to `out`; raises UsageError if one is no run or has no cell."""
    loaded = {path: load_run(path) for path in runs}
    home = {record["id"]: path for path, (_, found) in reversed(loaded.items()) for record in found}
    records = list({record["id"]: record for _, found in loaded.values() for record in found}.values())
    kept = ScoreArchive(runs)
    base = [record for record in records if _is_of_table2(record["cell"])]
    lines = table_lines(base or records, kept)
    shown = lines[:MOST_LINES]
    table = table_rows(shown, kept)

    def command(record: Record) -> str:
        path = home[record["id"]]
        return evaluation(loaded[path][0], str(path), record)

    omitted = f"The first {MOST_LINES} of {len(lines)} rows; the table of cells has all." if len(lines) > len(shown) else ""
    html = _rendered({
        "title": next(iter(loaded.values()))[0]["sweep"]["title"],
        "findings": findings(lines, kept),
        "minds": list(_minds(shown, table["rows"])),
        "tests_said": how_tested(lines),
        "permutations": f"{PERMUTATIONS:,}",
        "omitted": omitted,
        "pictures": [(picture, Markup(picture.inline())) for picture in Run(records, kept).pictures()],  # noqa: S704
        "images": sorted({record["labels"]["images"] for record in records}),
        "networks": [network_title(n) for n in dict.fromkeys(record["labels"]["network"] for record in records)],
        "cells": len(records),
        "published": published_rows(),
        "data": cell_table(records, kept, command),
        "runs": [_made(run, path, out) for path, (run, _) in loaded.items()],
    } | table)  # fmt: skip
    write_atomic(out, html.encode())
    return out
