"""The page: one self-contained HTML file with the table, the figures and how everything was made."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader
from markupsafe import Markup
from numpy import float32
from numpy.typing import NDArray

from posenet_store.cells import HELD_OUT
from posenet_store.files import write_atomic
from posenet_store.report.figures import Picture, effect, predicted_maps, protocol_of
from posenet_store.report.table import BASE, Line, as_rows, network_title, our_lines, table_lines
from posenet_store.results import RunFiles, load_run, read_scores

FAR_OFF = 10.0


class _Maps:
    """Predicted maps by cell and test, each cell's file read once."""

    def __init__(self, runs: Sequence[Path]) -> None:
        self._runs = [RunFiles(run) for run in runs]
        self._read: dict[str, dict[str, NDArray[Any]]] = {}

    def __call__(self, cell: str, test: str) -> NDArray[float32] | None:
        if cell not in self._read:
            path = next((run.scores(cell) for run in self._runs if run.scores(cell).is_file()), None)
            self._read[cell] = read_scores(path) if path else {}
        return self._read[cell].get(f"map/{test}")


def _by_protocol(lines: Sequence[Line]) -> list[list[Line]]:
    """The lines of each protocol, the report's first."""
    names = sorted({protocol_of(line) for line in lines}, key=lambda name: name != "report-2020")
    return [[line for line in lines if protocol_of(line) == name] for name in names]


def _effect(lines: Sequence[Line], varied: str, fixed: tuple[str, int], name: str, number: int, maps: _Maps) -> Picture | None:
    """The figure of the first protocol in which `varied` varies while `fixed` keeps its value."""
    kept = [line for line in lines if line.records[0]["cell"][fixed[0]] == fixed[1] and HELD_OUT in line.records[0]["scores"]]
    drawn = (effect(group, varied, name, number, maps) for group in _by_protocol(kept))
    return next((picture for picture in drawn if picture is not None), None)


def pictures(records: Sequence[dict[str, Any]], maps: _Maps) -> Iterator[Picture]:
    """Yield the figures that the records allow."""
    lines = [line for line in our_lines(records) if line.records[0]["cell"]["input"] == "aligned"]
    base = _by_protocol([line for line in lines if line.setting == BASE])
    found = (
        predicted_maps(base[0], maps) if base else None,
        _effect(lines, "kernel", ("padding", 0), "kernel size", 4, maps),
        _effect(lines, "padding", ("kernel", 3), "padding", 5, maps),
    )
    yield from (picture for picture in found if picture is not None)


def findings(lines: Sequence[Line]) -> list[str]:
    """Return one sentence a network: its held-out SPC on every target, best protocol named.

    Undefined values are said to be so.
    """
    said = []
    ours = [line for line in lines if not line.published and line.setting == BASE and "natural" in line.values]
    for network in dict.fromkeys(line.network for line in ours):
        for source in dict.fromkeys(line.source for line in ours if line.network == network):
            chosen = [line for line in ours if line.network == network and line.source == source]
            numbers = ", ".join(f"{line.target} {_number(line.values['natural'].spc)}" for line in chosen)
            said.append(f"{network_title(network)}, {source}: {numbers}")
    return said


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.2f}"


def _settings(run: dict[str, Any]) -> list[tuple[str, str]]:
    """The sweep's choices as name and text, protocols' own settings included."""

    def text(value: Any) -> str:
        if isinstance(value, dict):
            return ", ".join(f"{key} {text(one)}" for key, one in value.items() if key != "name")
        return ", ".join(map(str, value)) if isinstance(value, list) else str(value)

    return [(key, text(value)) for key, value in run["sweep"].items()]


def write_page(runs: Sequence[Path], out: Path) -> Path:
    """Write the page of one or more runs to `out`; raises UsageError if one is no run or has no cell."""
    loaded = [load_run(run) for run in runs]
    records = list({record["id"]: record for _, found in loaded for record in found}.values())
    lines = table_lines([r for r in records if r["cell"]["kernel"] == 3 and r["cell"]["padding"] == 0] or records)
    head, rows = as_rows(lines)
    environment = Environment(
        loader=PackageLoader("posenet_store.report"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    html = environment.get_template("page.html.j2").render(
        title=loaded[0][0]["sweep"]["title"],
        findings=findings(lines),
        far_off=any((value.mae or 0) > FAR_OFF for line in lines for value in line.values.values()),
        head=head,
        rows=list(zip(rows, (line.published for line in lines), strict=True)),
        pictures=[(picture, Markup(picture.svg)) for picture in pictures(records, _Maps(runs))],  # noqa: S704
        images=sorted({record["labels"]["images"] for record in records}),
        networks=[network_title(n) for n in dict.fromkeys(record["labels"]["network"] for record in records)],
        cells=len(records),
        runs=[_made(run, path, out) for (run, _), path in zip(loaded, runs, strict=True)],
    )
    write_atomic(out, html.encode())
    return out


def _made(run: dict[str, Any], path: Path, out: Path) -> dict[str, Any]:
    return {
        "name": path.name,
        "csv": os.path.relpath(RunFiles(path).csv, out.parent),
        "stores": run["stores"],
        "notes": run["notes"],
        "settings": _settings(run),
        "provenance": run["provenance"],
    }
