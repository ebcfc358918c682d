"""The figure of position variance: what share of each stage's variance is position, and in how many directions it lies."""

from collections.abc import Sequence

import numpy as np

from posenet_store.heads.position_variance import SHARES
from posenet_store.report.figures.drawing import (
    COLOURS,
    GREY,
    INK,
    Axes,
    Palette,
    Picture,
    Points,
    add_legend,
    add_panels,
    first_networks,
    new_figure,
    styled,
    wrap_name,
)
from posenet_store.report.records import name_network
from posenet_store.report.scores import ScoreArchive
from posenet_store.report.text_table import join_entry
from posenet_store.report.variance import format_share, list_stages
from posenet_store.sweep.results import Result
from posenet_store.sweep.variance_results import LARGE_SHARE, StoreVariance, read_variances

CAPTION = (
    "Above: share of the variance of a stage's channels that is position, without bias; bars: 95 % intervals over images. x "
    "and y tell which side, |x| and |y| how far from the middle. Below: independent directions among the channels of which "
    f"more than {LARGE_SHARE:.0%} of the variance is position, tested on images on which they were not fitted."
)


@styled
def draw_variance(variances: Sequence[StoreVariance]) -> Picture:
    """Draw stacked shares of variance, a panel a store, and the number of directions of all."""
    names, more = first_networks(name_network(variance.labels) for variance in variances)
    shown = [variance for variance in variances if name_network(variance.labels) in names]
    heights = [2.2 * -(-len(shown) // 3) + 0.4, 2.4]
    figure = new_figure(sum(heights))
    upper, lower = figure.subfigures(2, 1, squeeze=False, height_ratios=heights)[:, 0]
    panels = add_panels(upper, len(shown))
    for panel, variance in zip(panels, shown, strict=True):
        _draw_shares(panel, variance)
    panels[0].set_ylabel("share of variance")
    panels[0].set_ylim(0)
    add_legend(upper, panels[0], len(SHARES))
    points, palette = Points(), Palette(names)
    panel = lower.subplots()
    for variance in shown:
        _draw_directions(panel, points, palette, variance)
    panel.set(ylabel="directions", ylim=(0, None))
    add_legend(lower, panel, 2)
    listing = list_stages(shown)
    sentences = [
        f"{name_network(variance.labels)}: {', '.join(f'{stage.name} {format_share(stage)}' for stage in variance.stages)}."
        for variance in shown
    ]
    return Picture(
        name="variance",
        title="Share of variance that is position",
        figure=figure,
        caption=CAPTION + more,
        description=" ".join(sentences),
        head=listing.head,
        rows=[[join_entry(entry) for entry in row] for row in listing.rows],
        tips=points.tips,
        answer=" ".join(sentences),
    )


def _draw_shares(panel: Axes, variance: StoreVariance) -> None:
    """Draw a bar a stage, stacked, with the interval of the whole."""
    stages = variance.stages
    shares = np.nan_to_num(np.stack([stage.shares.value for stage in stages])).clip(0)
    bottom = np.zeros(len(stages))
    for part, (name, colour) in enumerate(zip(SHARES[1:], (*COLOURS[:4], GREY), strict=True), 1):
        panel.bar(range(len(stages)), shares[:, part], 0.7, bottom=bottom, label=name, color=colour)
        bottom += shares[:, part]
    for position, stage in enumerate(stages):
        panel.plot([position, position], [max(stage.shares.low[0], 0), stage.shares.high[0]], color=INK, lw=1.2)
    panel.set_axisbelow(True)
    panel.set_title(wrap_name(name_network(variance.labels), 32))
    panel.set_xticks(range(len(stages)), [stage.name for stage in stages])


def _draw_directions(panel: Axes, points: Points, palette: Palette, variance: StoreVariance) -> None:
    """Draw how many directions each stage has, with the numbers of their bounds."""
    network = name_network(variance.labels)
    style = palette.style(network)
    counts = [stage.count_directions() for stage in variance.stages]
    panel.plot(range(len(counts)), [count for count, _, _ in counts], label=network, lw=1.3, ms=5, **style)
    for position, (stage, (count, low, high)) in enumerate(zip(variance.stages, counts, strict=True)):
        panel.plot([position, position], [low, high], color=style["color"], lw=1.2)
        points.draw(panel, position, count, f"{network}, {stage.name}: {count} directions [{low}, {high}]", ms=5, **style)
    panel.set_xticks(range(len(counts)), [stage.name for stage in variance.stages])


def draw_run_variance(results: Sequence[Result], archive: ScoreArchive) -> Picture | None:
    """Draw the variance of the stores that runs trained on, None where no sweep asked for it."""
    shown = {result.cell.store for result in results}
    variances = [variance for run in archive.runs for store, variance in read_variances(run).items() if store in shown]
    return draw_variance(variances) if variances else None
