"""Figures made of maps: what heads predict, where they err (the paper's Eq. 4), and the error by distance to the border."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posenet_store.report.figures.drawing import (
    WIDTH,
    Palette,
    Picture,
    Points,
    add_legend,
    first_networks,
    new_figure,
    show_map,
    styled,
    wrap_name,
)
from posenet_store.report.published import RAMPS
from posenet_store.report.records import arrange_cells, group_alike, name_network, name_networks
from posenet_store.report.scores import ScoreArchive
from posenet_store.report.significance import constant_error
from posenet_store.report.table import CONSTANT, describe_head, is_base
from posenet_store.report.text_table import format_number
from posenet_store.sweep.cell import HELD_OUT, make_cell_target
from posenet_store.sweep.results import Result


def select_one_kind(results: Sequence[Result]) -> list[Result]:
    """Return the largest set of cells that differ in network, target and seed only; Table 2's kind of head if there is one."""
    return group_alike([result for result in results if is_base(result)] or results)[0]


def find_first_seed(results: Sequence[Result]) -> Result:
    """Return the result of the first seed, whose map is shown."""
    return min(results, key=lambda result: result.cell.seed)


def show_row_of_maps(panels: Sequence[Any], settings: Sequence[Sequence[Result] | None], archive: ScoreArchive) -> None:
    """Show a target, and after it the map of the first held-out image at each setting."""
    cell = next(results for results in settings if results)[0].cell
    show_map(panels[0], make_cell_target(cell), cell.value_range)
    for panel, results in zip(panels[1:], settings, strict=True):
        values = archive.array(find_first_seed(results).id, f"map/{HELD_OUT}") if results else None
        show_map(panel, values, cell.value_range)


@dataclass(frozen=True)
class ErrorMaps:
    """Mean absolute errors [h, w] over `patterns` by the networks' names, the best constant map's first; and the cells used."""

    errors: dict[str, NDArray[np.float64]]
    patterns: list[str]
    results: list[Result]

    def describe(self) -> str:
        """Return the kind of head and the targets' range."""
        cell = self.results[0].cell
        low, high = cell.value_range
        return f"protocol {cell.protocol.name}, {describe_head(cell)}; the targets' range is {low:g} to {high:g}"


def average_errors(results: Sequence[Result], archive: ScoreArchive) -> ErrorMaps | None:
    """Return the errors of each network that has all of the ramps' patterns there are; None without one."""
    tested = [result for result in results if result.cell.target in RAMPS and HELD_OUT in result.scores]
    if not tested:
        return None
    chosen = select_one_kind(tested)
    cells = arrange_cells(chosen)
    goals = {result.cell.target: make_cell_target(result.cell) for result in chosen}
    patterns = [target for target in RAMPS if target in goals]
    errors: dict[str, NDArray[np.float64]] = {}
    titles = name_networks(chosen)
    for network in first_networks(network for _, network in cells)[0]:
        maps = [archive.mean(cells.get((target, network), []), f"error/{HELD_OUT}") for target in patterns]
        present = [values for values in maps if values is not None]
        if len(present) == len(patterns):
            errors[titles[network]] = np.mean(present, axis=0)
    if not errors:
        return None
    constant = np.mean([constant_error(goals[target]) for target in patterns], axis=0)
    return ErrorMaps({CONSTANT: constant} | errors, patterns, chosen)


@styled
def draw_error_maps(results: Sequence[Result], archive: ScoreArchive) -> Picture | None:
    """Draw the paper's Figure 7: where each network's heads err, averaged over the patterns (Eq. 4)."""
    averaged = average_errors(results, archive)
    if averaged is None:
        return None
    errors = averaged.errors
    columns = min(len(errors), 4)
    rows = -(-len(errors) // columns)
    figure = new_figure(1.9 * rows, min(WIDTH, 1.65 * columns + 0.6))
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    largest, limit = max(float(values.max()) for values in errors.values()), 2 * float(errors[CONSTANT].max())
    top = min(largest, limit) if np.isfinite(largest) else limit
    for panel, (network, values) in zip(panels, errors.items(), strict=False):
        title = f"{wrap_name(network)}\nmean {format_number(float(values.mean()))}"
        show_map(panel, values, (0, top), title, "cividis")
    for panel in panels[len(errors) :]:
        panel.set_axis_off()
    extend = "max" if largest > top else "neither"
    bar = figure.colorbar(panels[0].images[0], ax=panels.tolist(), shrink=0.8, extend=extend)
    bar.set_label("mean absolute error")
    table = [[name, *(format_number(float(f(values))) for f in (np.mean, np.min, np.max))] for name, values in errors.items()]
    return Picture(
        name="errors",
        title="Where the heads err",
        figure=figure,
        caption="Mean absolute error of each position over held-out images, averaged over "
        f"{', '.join(averaged.patterns)} (the paper's Eq. 4); {averaged.describe()}. On the left, the error of the best "
        "constant map: that of a network without position looks like it.",
        description=" ".join(f"{name}: mean error {mean}, from {low} to {high}." for name, mean, low, high in table),
        head=("network", "mean error", "smallest", "largest"),
        rows=table,
    )


def error_by_distance(errors: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the distances of an error map's rings to its border, in % of the side, and the mean error of each ring.

    >>> error_by_distance(np.pad(np.full((2, 2), 4.0), 1))
    (array([12.5, 37.5]), array([0., 4.]))
    """
    side = len(errors)
    steps = np.minimum(np.arange(side), np.arange(side)[::-1])
    ring = np.minimum.outer(steps, steps).ravel()
    means = np.bincount(ring, errors.ravel()) / np.bincount(ring)
    return (np.arange(len(means)) + 0.5) / side * 100, means


@styled
def draw_border(results: Sequence[Result], archive: ScoreArchive) -> Picture | None:
    """Draw the error as a function of the distance to the border."""
    averaged = average_errors(results, archive)
    if averaged is None:
        return None
    figure = new_figure(3.4, 5.4)
    panel, points = figure.subplots(), Points()
    curves = {network: error_by_distance(values) for network, values in averaged.errors.items()}
    pixels = {name_network(result.labels) for result in averaged.results if result.labels.pixels}
    palette = Palette([network for network in curves if network != CONSTANT], pixels)
    limit = 4 * averaged.errors[CONSTANT].max()  # beyond it a head diverged
    top = 1.05 * max(means.max() for name, (_, means) in curves.items() if averaged.errors[name].max() < limit)
    for network, (distances, means) in curves.items():
        style = palette.style(network) | {"ms": 4}
        panel.plot(distances, means, "--" if network == CONSTANT else "-", label=network, lw=1.3, **style)
        for x, y in zip(distances.tolist(), means.tolist(), strict=True):
            tip = f"{network}: mean absolute error {format_number(y)} at {x:.0f} % of the side"
            if y <= top:
                points.draw(panel, x, y, tip, clip_on=False, **style)
            points.rows.append([network, f"{x:.1f}", format_number(y)])
    panel.set(xlabel="distance to the border (% of the map's side)", ylabel="mean absolute error")
    panel.set_ylim(0, top)
    add_legend(figure, panel)
    ends = ((name, format_number(float(means[0])), format_number(float(means[-1]))) for name, (_, means) in curves.items())
    return Picture(
        name="border",
        title="Error by distance to the border",
        figure=figure,
        caption="Mean absolute error over held-out images of the positions at one distance to the nearest border, averaged "
        f"over {', '.join(averaged.patterns)}; {averaged.describe()}. Dashed: the best constant map, whose error grows towards "
        "the border because the targets' extremes lie there. What counts is the gap to it.",
        description=" ".join(f"{name}: {first} at the border, {last} in the middle." for name, first, last in ends),
        head=("network", "distance, % of the side", "mean absolute error"),
        rows=points.rows,
        tips=points.tips,
    )
