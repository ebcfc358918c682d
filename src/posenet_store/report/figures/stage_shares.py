"""The figure of what stages explain of a target: each alone, and what it adds to all others."""

from collections.abc import Mapping, Sequence

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
from posenet_store.report.scores import ScoreArchive
from posenet_store.report.stage_shares import Share, StageShares, find_stage_shares
from posenet_store.report.table import order_targets
from posenet_store.report.text_table import format_interval, format_number
from posenet_store.sweep.results import Result

HEAD = ("target", "network", "stage", "alone", "unique", "shared")
CAPTION = (
    "Share of the target's variance that exact heads explain on held-out images, with 95 % intervals over images. Filled: a "
    "stage alone. Hollow: its unique share, what all stages explain minus what they do without it; the difference of the two "
    "is shared with other stages."
)
APART = 0.14
"""How far apart two networks stand at a stage."""


@styled
def draw_stage_shares(results: Sequence[Result], archive: ScoreArchive) -> Picture | None:
    """Draw what each stage explains alone and what it adds, a panel a target; None without such heads."""
    shares = find_stage_shares(results, archive)
    if not shares:
        return None
    networks, more = first_networks(network for _, network in shares)
    targets = order_targets(target for target, _ in shares)
    figure, points, palette = new_figure(2.6 * -(-len(targets) // 3) + 0.5), Points(), Palette(networks)
    panels = add_panels(figure, len(targets))
    for panel, target in zip(panels, targets, strict=True):
        for number, network in enumerate(networks):
            shift = APART * (number - (len(networks) - 1) / 2)
            _draw_shares(panel, points, palette, (target, network), shares.get((target, network), {}), shift)
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
    panel: Axes, points: Points, palette: Palette, key: tuple[str, str], shares: Mapping[str, StageShares], shift: float
) -> None:
    """Draw the two shares of each stage of one network."""
    (target, network), style = key, palette.style(key[1])
    xs = [position + shift for position in range(len(shares))]
    for name, line, look in (("alone", "-", {"label": network}), ("unique", ":", {"mfc": "none"})):
        of_stages: list[Share] = [getattr(stage, name) for stage in shares.values()]
        panel.plot(xs, [share.value for share in of_stages], lw=1.2, ls=line, ms=5, **style | look)
        for x, stage, share in zip(xs, shares, of_stages, strict=True):
            if share.bounds:
                panel.plot([x, x], share.bounds, color=style["color"], lw=1)
            tip = f"{network}, {target}, {stage}: {name} {_format(share)}"
            points.draw(panel, x, share.value, tip, ms=5, **style | look | {"label": None})
    for stage, of_stage in shares.items():
        points.rows.append([target, network, stage, *map(_format, (of_stage.alone, of_stage.unique, of_stage.shared))])
    panel.set_xticks(range(len(shares)), list(shares))


def _format(share: Share) -> str:
    return " ".join(filter(None, (format_number(share.value), format_interval(share.bounds))))
