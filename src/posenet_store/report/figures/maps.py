"""Figures made of maps: what heads paint, where they err (the paper's Eq. 4), and the error by distance to the border."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posenet_store.heads.targets import describe_target
from posenet_store.report.figures.drawing import (
    WIDTH,
    Picture,
    canvas,
    colour_of,
    few,
    in_lines,
    legend_below,
    marker_of,
    show_map,
    styled,
)
from posenet_store.report.records import Record, alike, placed
from posenet_store.report.scores import ScoreArchive
from posenet_store.report.significance import constant_error
from posenet_store.report.table import BASE, in_order, network_title, setting_of, target_order
from posenet_store.report.text_table import short
from posenet_store.sweep.cell import HELD_OUT, make_cell_target

RAMPS = ("H", "V", "G")
"""The patterns over which the paper averages its error maps (Eq. 4, Figure 7)."""


CONSTANT = "best constant"


def of_one_kind(records: Sequence[Record]) -> list[Record]:
    """Return the largest set of cells that differ in network, target and seed only; Table 2's kind of head if there is one."""
    base = [record for record in records if setting_of(record["cell"]) == BASE]
    return alike(base or records)[0]


def _first(records: Sequence[Record]) -> Record:
    """The record of the first seed: whose map is shown."""
    return min(records, key=lambda record: int(record["cell"]["seed"]))


def _limits(record: Record) -> tuple[float, float]:
    low, high = record["cell"]["value_range"]
    return float(low), float(high)


@styled
def predicted_maps(records: Sequence[Record], kept: ScoreArchive) -> Picture | None:
    """Draw Figure 3 of the report: a column a target, the map to paint on top, below it what each network's heads paint."""
    cells = placed(of_one_kind(records))
    targets = target_order(target for target, _ in cells)
    rows = [("target", "", "")]
    networks, more = few((network for _, network in cells), most=5)
    for network in networks:
        found = [record for (_, n), some in cells.items() if n == network for record in some]
        for test in in_order(test for record in found for test in record["scores"]):
            several = any(record["scores"][test]["images"] > 1 for record in found if test in record["scores"])
            rows += [(network, test, "map"), *([(network, test, "mean")] if several else [])]
    figure = canvas(0.72 * len(rows) + 0.3, min(WIDTH, 0.85 * len(targets) + 1.6))
    panels = figure.subplots(len(rows), len(targets), squeeze=False)
    for column, target in enumerate(targets):
        some = next(some for (t, _), some in cells.items() if t == target)
        show_map(panels[0][column], make_cell_target(some[0]["cell"]), _limits(some[0]), f"{target}\n{describe_target(target)}")
        panels[0][column].title.set_fontsize(7)
        for row, (network, test, kind) in enumerate(rows[1:], 1):
            there = cells.get((target, network))
            values = kept.array(_first(there)["id"], f"{kind}/{test}") if there else None
            show_map(panels[row][column], values, _limits(some[0]))
    for row, (network, test, kind) in enumerate(rows):
        label = f"{in_lines(network)}\n{test}{', mean' if kind == 'mean' else ''}"
        panels[row][0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=7)
    protocol = next(iter(cells.values()))[0]["cell"]["protocol"]["name"]
    return Picture(
        "maps", "Predicted maps", figure,
        f"On top the map to paint, below it what each network's head (protocol {protocol}, first seed) paints for the first "
        "image of each test set, and the mean over its images. Black and white are the target's range; a map of one grey "
        f"carries no position.{more}",
        f"Small grey maps for targets {', '.join(targets)} and networks {', '.join(map(network_title, networks))}.", (), (),
    )  # fmt: skip


def row_of_maps(panels: Sequence[Any], cells: Sequence[Sequence[Record] | None], kept: ScoreArchive) -> None:
    """Show a target, and after it the map of the first held-out image of each entry of cells."""
    some = next(records for records in cells if records)
    show_map(panels[0], make_cell_target(some[0]["cell"]), _limits(some[0]))
    for panel, records in zip(panels[1:], cells, strict=True):
        show_map(panel, kept.array(_first(records)["id"], f"map/{HELD_OUT}") if records else None, _limits(some[0]))


Errors = dict[str, NDArray[np.float64]]
"""Mean absolute errors [h, w] by network, averaged over the patterns; the best constant's come first."""


def errors_of(records: Sequence[Record], kept: ScoreArchive) -> tuple[Errors, list[str], list[Record]]:
    """Return the errors of each network that has all of the ramps' patterns there are, these patterns, and the cells."""
    tested = [r for r in records if r["cell"]["target"] in RAMPS and HELD_OUT in r["scores"]]
    if not tested:
        return {}, [], []
    chosen = of_one_kind(tested)
    cells = placed(chosen)
    patterns = [target for target in RAMPS if any(t == target for t, _ in cells)]
    errors: Errors = {}
    for network in few(network for _, network in cells)[0]:
        found = [kept.mean(cells.get((target, network), []), f"error/{HELD_OUT}") for target in patterns]
        there = [one for one in found if one is not None]
        if len(there) == len(patterns):
            errors[network] = np.mean(there, axis=0)
    if not errors:
        return {}, patterns, chosen
    goals = [make_cell_target(next(some for (t, _), some in cells.items() if t == target)[0]["cell"]) for target in patterns]
    return {CONSTANT: np.mean([constant_error(goal) for goal in goals], axis=0)} | errors, patterns, chosen


def _setting(chosen: Sequence[Record]) -> str:
    low, high = _limits(chosen[0])
    cell = chosen[0]["cell"]
    return f"protocol {cell['protocol']['name']}, {setting_of(cell)}; the targets' range is {low:g} to {high:g}"


@styled
def error_maps(records: Sequence[Record], kept: ScoreArchive) -> Picture | None:
    """Draw the paper's Figure 7: where each network's heads err, averaged over the patterns (Eq. 4)."""
    errors, patterns, chosen = errors_of(records, kept)
    if not errors:
        return None
    across = min(len(errors), 4)
    deep = -(-len(errors) // across)
    figure = canvas(1.9 * deep, min(WIDTH, 1.65 * across + 0.6))
    panels = figure.subplots(deep, across, squeeze=False).ravel()
    constant = errors[CONSTANT]
    largest = max(float(one.max()) for one in errors.values())
    top = min(largest, 2 * float(constant.max())) if np.isfinite(largest) else 2 * float(constant.max())
    for panel, (network, values) in zip(panels, errors.items(), strict=False):
        show_map(panel, values, (0, top), f"{in_lines(network)}\nmean {short(float(values.mean()))}", "cividis")
        panel.title.set_fontsize(7.5)
    for panel in panels[len(errors) :]:
        panel.set_axis_off()
    beyond = "max" if largest > top else "neither"
    bar = figure.colorbar(panels[0].images[0], ax=panels.tolist(), shrink=0.8, extend=beyond)
    bar.set_label("mean absolute error")
    rows = [[network, *(short(float(f(values))) for f in (np.mean, np.min, np.max))] for network, values in errors.items()]
    return Picture(
        "errors", "Where the heads err", figure,
        f"Mean absolute error of each position over held-out images, averaged over {', '.join(patterns)} (the paper's Eq. 4); "
        f"{_setting(chosen)}. Left, what the best constant map errs: a network without position looks like it.",
        " ".join(f"{network}: mean error {mean}, from {low} to {high}." for network, mean, low, high in rows),
        ("network", "mean error", "smallest", "largest"), rows,
    )  # fmt: skip


def by_distance(errors: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the distances of an error map's rings to its border, in % of the side, and the mean error of each ring.

    >>> by_distance(np.pad(np.full((2, 2), 4.0), 1))
    (array([12.5, 37.5]), array([0., 4.]))
    """
    side = len(errors)
    steps = np.minimum(np.arange(side), np.arange(side)[::-1])
    ring = np.minimum(steps[:, None], steps[None, :])
    means = np.bincount(ring.ravel(), errors.ravel()) / np.bincount(ring.ravel())
    return (np.arange(len(means)) + 0.5) / side * 100, means


@styled
def border(records: Sequence[Record], kept: ScoreArchive) -> Picture | None:
    """Draw the error as a function of the distance to the border."""
    errors, patterns, chosen = errors_of(records, kept)
    if not errors:
        return None
    figure = canvas(3.4, 5.4)
    panel = figure.subplots()
    networks, rows, tips = [name for name in errors if name != CONSTANT], list[list[str]](), dict[str, str]()
    for network, values in errors.items():
        distances, means = by_distance(values)
        known = network in networks
        look: dict[str, Any] = {
            "color": colour_of(network, networks),
            "marker": marker_of(network, networks) if known else "",
            "ms": 4,
        }
        panel.plot(distances, means, "-" if known else "--", label=network, lw=1.3, **look)
        for x, y in zip(distances, means, strict=True):
            name = f"tip{len(tips)}"
            tips[name] = f"{network}: mean absolute error {short(float(y))} at {x:.0f} % of the side"
            panel.plot([x], [y], ls="", gid=name, **look)
            rows.append([network, f"{x:.1f}", short(float(y))])
    panel.set(xlabel="distance to the border (% of the map's side)", ylabel="mean absolute error")
    finite = [
        float(by_distance(one)[1].max()) for one in errors.values() if float(one.max()) < 4 * float(errors[CONSTANT].max())
    ]
    panel.set_ylim(0, 1.05 * max(finite))
    legend_below(figure, panel)
    ends = ((network, by_distance(values)[1]) for network, values in errors.items())
    return Picture(
        "border", "Error by distance to the border", figure,
        f"Mean absolute error over held-out images of the positions at one distance to the nearest border, averaged over "
        f"{', '.join(patterns)}; {_setting(chosen)}. Dashed: the best constant map, whose error grows to the border because "
        "the targets' extremes lie there. What counts is the gap to it.",
        " ".join(f"{name}: {short(float(m[0]))} at the border, {short(float(m[-1]))} in the middle." for name, m in ends),
        ("network", "distance, % of the side", "mean absolute error"), rows, tips,
    )  # fmt: skip
