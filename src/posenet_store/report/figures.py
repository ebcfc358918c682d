"""The report's Figures 3 to 5 from a run's records and predicted maps. The owner of matplotlib."""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from posenet_store.cells import HELD_OUT, target_of
from posenet_store.report.table import Line, in_order, network_title
from posenet_store.targets import description

matplotlib.use("Agg")
matplotlib.rcParams.update(
    {"font.size": 9, "svg.fonttype": "none", "svg.hashsalt": "posenet", "axes.grid": True, "grid.alpha": 0.3}
)

COLOURS = ("#666666", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Okabe and Ito's palette: told apart with colour-blind eyes; grey is for the pixels."""

MapOf = Callable[[str, str], NDArray[np.float32] | None]
"""(cell id, test) -> predicted map."""


@dataclass(frozen=True)
class Picture:
    """A finished figure: SVG text, its caption, and what it shows in words for who can't see it."""

    title: str
    svg: str
    caption: str
    description: str


def _svg(figure: Figure) -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg", bbox_inches="tight", metadata={"Date": None})
    svg = text.getvalue()
    return svg[svg.index("<svg") :]


def _show(axes: Axes, values: NDArray[Any] | None, title: str, limits: tuple[float, float]) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(False)
    axes.set_title(title, fontsize=8)
    if values is None:
        axes.text(0.5, 0.5, "none", ha="center", va="center", transform=axes.transAxes)
    else:
        axes.imshow(values, cmap="gray", vmin=limits[0], vmax=limits[1], interpolation="nearest")


def _first(line: Line) -> dict[str, Any]:
    """The record of a line's first seed: whose map is shown."""
    return min(line.records, key=lambda record: int(record["cell"]["seed"]))


def protocol_of(line: Line) -> str:
    """Return the protocol that a line's heads were trained by."""
    return str(line.records[0]["cell"]["protocol"]["name"])


def _target_of(line: Line) -> NDArray[np.float64]:
    return target_of(line.records[0]["cell"])


def predicted_maps(lines: Sequence[Line], map_of: MapOf) -> Picture | None:
    """Figure 3: a column a target; the map to paint on top, below it each network's map of each kind of image."""
    if not lines:
        return None
    targets, networks = (list(dict.fromkeys(getattr(line, key) for line in lines)) for key in ("target", "network"))
    placed = {(line.target, line.network): line for line in lines}
    rows = [(network, test) for network in networks for test in in_order(_tests(lines, network))]
    figure = Figure(figsize=(1.2 * len(targets) + 1.4, 1.15 * (len(rows) + 1)), layout="constrained")
    grid = figure.subplots(len(rows) + 1, len(targets), squeeze=False)
    for column, target in enumerate(targets):
        base = next(line for line in lines if line.target == target)
        limits = tuple(base.records[0]["cell"]["value_range"])
        _show(grid[0][column], _target_of(base), f"{target}: {description(target)}", limits)
        for row, (network, test) in enumerate(rows, 1):
            line = placed.get((target, network))
            _show(grid[row][column], map_of(_first(line)["id"], test) if line else None, "", limits)
    for row, label in enumerate(["target", *(f"{in_lines(network)}\n{test}" for network, test in rows)]):
        grid[row][0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=8)
    return Picture(
        "Figure 3. Predicted maps",
        _svg(figure),
        f"On top the map to paint, below it what each network's head ({protocol_of(lines[0])}, first seed) paints for the "
        "first image of each test set. Black and white are the target's range; a map of one grey carries no position.",
        f"Grid of small maps for targets {', '.join(targets)} and networks {', '.join(networks)}.",
    )


def in_lines(network: str, width: int = 20) -> str:
    """Break a network's name behind hyphens, so that a long one leaves room for the maps.

    >>> in_lines("resnet18-random0-unit-64px-padding-reflect")
    'resnet18-random0-\\nunit-64px-padding-\\nreflect'
    """
    lines = [""]
    for part in re.split(r"(?<=-)", network):
        if len(lines[-1]) + len(part) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(line for line in lines if line)


def _tests(lines: Sequence[Line], network: str) -> list[str]:
    return [test for line in lines if line.network == network for test in line.records[0]["scores"]]


def effect(lines: Sequence[Line], key: str, name: str, figure_number: int, map_of: MapOf) -> Picture | None:
    """Figures 4 and 5: what a head's `key` (kernel or padding) does: SPC curves, and maps of the first target.

    Targets at one setting only are left out; None if no target has more.
    """
    at = {(line.target, line.network, int(line.records[0]["cell"][key])): line for line in lines}
    varied = {target: {x for t, _, x in at if t == target} for target in dict.fromkeys(line.target for line in lines)}
    targets = [target for target, settings in varied.items() if len(settings) > 1]
    if not targets:
        return None
    at = {place: line for place, line in at.items() if place[0] in targets}
    networks, settings = list(dict.fromkeys(n for _, n, _ in at)), sorted({x for _, _, x in at})
    width = max(3.2 * len(targets), 1.4 * (len(settings) + 1))
    figure = Figure(figsize=(width, 2.9 + 1.5 * len(networks)), layout="constrained")
    parts = figure.add_gridspec(2, 1, height_ratios=[2.9, 1.5 * len(networks)])
    upper, lower = figure.add_subfigure(parts[0]), figure.add_subfigure(parts[1])
    for target, axes in zip(targets, upper.subplots(1, len(targets), squeeze=False)[0], strict=True):
        for number, network in enumerate(networks):
            held = {x: at[target, network, x] for x in settings if (target, network, x) in at}
            _curve(axes, held, COLOURS[number % len(COLOURS)], network)
        axes.set(title=f"{target} ({description(target)})", xlabel=name, ylabel="SPC, held-out images", xticks=settings)
    upper.axes[-1].legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    grid = lower.subplots(len(networks), len(settings) + 1, squeeze=False)
    for row, network in enumerate(networks):
        _row_of_maps(grid[row], network, at, (targets[0], settings, name), map_of)
    return Picture(
        f"Figure {figure_number}. Effect of the {name}",
        _svg(figure),
        f"Above: mean SPC on held-out images against the {name}, protocol {protocol_of(lines[0])}; bars: the seeds' deviation. "
        f"Below: the maps painted for the first held-out image, target {targets[0]}.",
        effect_in_words(at, settings, name),
    )


def _curve(axes: Axes, line_at: Mapping[int, Line], colour: str, network: str) -> None:
    values = {x: line.values["natural"] for x, line in line_at.items()}
    heights = {x: value.spc for x, value in values.items() if value.spc is not None}
    bars = [values[x].spc_spread or 0 for x in heights]
    axes.errorbar(
        list(heights), list(heights.values()), bars, marker="o", capsize=2, color=colour, label=network_title(network)
    )


def _row_of_maps(
    axes: Sequence[Axes],
    network: str,
    at: Mapping[tuple[str, str, int], Line],
    chosen: tuple[str, Sequence[int], str],
    map_of: MapOf,
) -> None:
    target, settings, name = chosen
    base = next(line for (t, n, _), line in at.items() if (t, n) == (target, network))
    limits = tuple(base.records[0]["cell"]["value_range"])
    _show(axes[0], _target_of(base), f"{in_lines(network)}\ntarget {target}", limits)
    for column, x in enumerate(settings, 1):
        line = at.get((target, network, x))
        _show(axes[column], map_of(_first(line)["id"], HELD_OUT) if line else None, f"{name} {x}", limits)


def effect_in_words(at: Mapping[tuple[str, str, int], Line], settings: Sequence[int], name: str) -> str:
    """Return the curves as one sentence a network and target."""
    said = []
    for target, network in dict.fromkeys((t, n) for t, n, _ in at):
        values = [at[target, network, x].values["natural"].spc for x in settings if (target, network, x) in at]
        numbers = ", ".join("undefined" if v is None else f"{v:.2f}" for v in values)
        said.append(f"{network}, {target}: SPC {numbers} at {name} {', '.join(map(str, settings))}.")
    return " ".join(said)
