"""The figure of what stages explain of a target: each alone, and what it adds to all others."""

from collections.abc import Sequence

import numpy as np

from posenet_store.heads.targets import describe_target
from posenet_store.report.figures.drawing import (
    Axes,
    Palette,
    Picture,
    Points,
    add_legend,
    add_panels,
    first_networks,
    new_figure,
    styled,
)
from posenet_store.report.records import group_alike_inputs, name_network, order_stage
from posenet_store.report.scores import ScoreArchive
from posenet_store.report.table import order_targets
from posenet_store.report.text_table import format_number
from posenet_store.sweep.results import Result

HEAD = ("target", "network", "stage", "alone", "unique", "shared")
CAPTION = (
    "Cross-validated share of the target's variance that exact heads explain. Filled: a stage alone. Hollow: its unique share, "
    "what all stages explain minus what they do without it; the difference of the two is shared with other stages."
)
Shares = dict[tuple[str, str], dict[str, tuple[float, float]]]
"""(target, network) -> stage -> what it explains alone, and its unique share."""


def find_stage_shares(results: Sequence[Result]) -> Shares:
    """Return what stages explain, where heads of a stage alone, of all stages and of all but it are cross-validated."""
    tested = [result for result in results if "cv_explained" in result.fit and not result.fit.get("erased")]
    for group in group_alike_inputs(tested, "input"):
        explained: dict[tuple[str, str], dict[frozenset[str], float]] = {}
        for result in group:
            key = result.cell.target, name_network(result.labels)
            taps = frozenset(filter(None, result.cell.input.partition(":")[2].split("+")))
            explained.setdefault(key, {})[taps] = float(result.fit["cv_explained"])
        shares = {key: of_stages for key, inputs in explained.items() if (of_stages := _split_shares(inputs))}
        if shares:
            return shares
    return {}


def _split_shares(explained: dict[frozenset[str], float]) -> dict[str, tuple[float, float]]:
    """Return the shares of each stage from what inputs of some taps explain; the empty set is all of them.

    >>> _split_shares({frozenset(): 0.75, frozenset({"f1"}): 0.25, frozenset({"f2"}): 0.625})
    {'f1': (0.25, 0.125), 'f2': (0.625, 0.5)}
    """
    stages = frozenset(stage for taps in explained if len(taps) == 1 for stage in taps)
    known = [stage for stage in sorted(stages, key=order_stage) if stages - {stage} in explained]
    total = explained.get(frozenset())
    return {} if total is None else {s: (explained[frozenset({s})], total - explained[stages - {s}]) for s in known}


@styled
def draw_stage_shares(results: Sequence[Result], archive: ScoreArchive) -> Picture | None:
    """Draw what each stage explains alone and what it adds, a panel a target; None without such heads."""
    shares = find_stage_shares(results)
    if not shares:
        return None
    networks, more = first_networks(network for _, network in shares)
    targets = order_targets(target for target, _ in shares)
    figure, points, palette = new_figure(2.6 * -(-len(targets) // 3) + 0.5), Points(), Palette(networks)
    panels = add_panels(figure, len(targets))
    for panel, target in zip(panels, targets, strict=True):
        for network in networks:
            _draw_shares(panel, points, palette, target, network, shares.get((target, network), {}))
        panel.set(title=f"{target} ({describe_target(target)})")
    panels[0].set_ylabel("share of the target's variance")
    add_legend(figure, panels[0], 2)
    return Picture(
        name="stage_shares",
        title="What each stage adds",
        figure=figure,
        caption=CAPTION + more,
        description=" ".join(f"{row[1]}, {row[0]}, {row[2]}: alone {row[3]}, unique {row[4]}." for row in points.rows),
        head=HEAD,
        rows=points.rows,
        tips=points.tips,
    )


def _draw_shares(
    panel: Axes, points: Points, palette: Palette, target: str, network: str, shares: dict[str, tuple[float, float]]
) -> None:
    """Draw the two shares of each stage of one network."""
    stages, style = list(shares), palette.style(network)
    for column, (values, look) in enumerate(zip(np.array([shares[s] for s in stages]).T, ({}, {"mfc": "none"}), strict=True)):
        panel.plot(range(len(stages)), values, lw=1.2, ls="-:"[column], ms=5, label=network, **style | look)
    for place, stage in enumerate(stages):
        alone, unique = shares[stage]
        tip = f"{network}, {target}, {stage}: alone {format_number(alone)}, unique {format_number(unique)}"
        points.draw(panel, place, alone, tip, ms=5, **style)
        points.rows.append([target, network, stage, *map(format_number, (alone, unique, alone - unique))])
    panel.set_xticks(range(len(stages)), stages)
