"""The figure of scores by distance to the border: SPC from the edge to the centre.

Of networks at one size a panel a target, a curve a network; at several sizes a panel a target and network, a curve a size.
"""

from collections.abc import Sequence
from dataclasses import dataclass

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
    wrap_name,
)
from posenet_store.report.figures.maps import select_one_kind
from posenet_store.report.records import arrange_cells, name_network
from posenet_store.report.rings import RingMean, find_rings, name_at_any_size
from posenet_store.report.scores import ScoreArchive
from posenet_store.report.table import describe_head, order_targets
from posenet_store.report.text_table import format_interval, format_number
from posenet_store.sweep.results import Result

HEAD = (
    "target", "network", "edge to centre, %", "distance, pixels", "SPC", "95 % interval", "MAE", "95 % interval", "undefined",
)  # fmt: skip
PERCENT, PIXELS = "edge to centre, %", "pixels from the border"
MAX_COLUMNS = 4
"""Panels that stand side by side where each network has its own."""


@dataclass(frozen=True)
class _Curve:
    """The rings of one network for one target: `line` is its name in the legend, `family` the network's at any size."""

    target: str
    title: str
    family: str
    line: str
    in_pixels: bool
    rings: Sequence[RingMean]

    def locate(self, ring: RingMean) -> float:
        """Return the position of a ring on the axis."""
        return ring.distance if self.in_pixels else 50 * sum(ring.way)

    def draw(self, panel: Axes, points: Points, palette: Palette) -> None:
        style = palette.style(self.line) | {"ms": 4}
        defined = [(self.locate(ring), ring.spc) for ring in self.rings if ring.spc is not None]
        panel.plot([x for x, _ in defined], [spc for _, spc in defined], label=self.line, lw=1.3, **style)
        for ring in self.rings:
            spc, bounds = format_number(ring.spc), format_interval(ring.spc_bounds)
            scores = [spc, bounds, format_number(ring.mae), format_interval(ring.mae_bounds)]
            middle = [f"{50 * sum(ring.way):.1f}", f"{ring.distance:.1f}"]
            points.rows.append([self.target, self.title, *middle, *scores, f"{ring.undefined} of {ring.images}"])
            if ring.spc is None:
                continue
            x = self.locate(ring)
            if ring.spc_bounds:
                panel.plot([x, x], ring.spc_bounds, color=style["color"], lw=1)
            tip = f"{self.title}, {self.target}: SPC {spc} {bounds} at {ring.distance:.0f} pixels from the border"
            points.draw(panel, x, ring.spc, tip, clip_on=False, **style)


def _list_curves(results: Sequence[Result], archive: ScoreArchive) -> list[_Curve]:
    """Return a curve for each target and network of one kind of head; a network at several sizes is a family of curves."""
    scored = {result.id: scores for result in results if (scores := archive.rings(result.id)) is not None}
    chosen = select_one_kind([result for result in results if result.id in scored]) if scored else []
    several = len({scored[result.id].pixels for result in chosen if not result.labels.pixels}) > 1
    curves = []
    for (target, _), group in arrange_cells(chosen).items():
        if rings := find_rings(group, archive):
            labels, pixels = group[0].labels, scored[group[0].id].pixels
            title, family = name_network(labels), name_at_any_size(labels, pixels) if several else ""
            curves.append(_Curve(target, title, family, f"{pixels} pixels" if several else title, several, rings))
    return curves


@styled
def draw_rings(results: Sequence[Result], archive: ScoreArchive) -> Picture | None:
    """Draw SPC by distance to the border; None without scores by ring."""
    curves = _list_curves(results, archive)
    if not curves:
        return None
    families, more = first_networks((curve.family for curve in curves), MAX_COLUMNS)
    lines, more_lines = first_networks(curve.line for curve in curves if curve.family in families)
    targets = order_targets(curve.target for curve in curves)
    grey = {name_network(result.labels) for result in results if result.labels.pixels}
    columns = len(families) if curves[0].in_pixels else 3
    cells = [(target, family) for target in targets for family in families]
    figure, points, palette = new_figure(2.3 * -(-len(cells) // columns) + 1.1), Points(), Palette(lines, grey)
    panels = add_panels(figure, len(cells), columns)
    for panel, (target, family) in zip(panels, cells, strict=True):
        title = f"{wrap_name(family, 64 // columns)}\n{target}" if family and target == targets[0] else target
        panel.set(title=title, xlabel=PIXELS if curves[0].in_pixels else PERCENT)
        for curve in curves:
            if (curve.target, curve.family) == (target, family) and curve.line in lines:
                curve.draw(panel, points, palette)
    for panel in panels[::columns]:
        panel.set_ylabel("mean SPC within a ring")
    panels[0].set_ylim(min(0.0, panels[0].get_ylim()[0]), 1.03)
    add_legend(figure, max(panels, key=lambda panel: len(panel.get_legend_handles_labels()[1])), 3 if families[0] else 2)
    cell = next(result.cell for result in results if result.cell.target == targets[0] and archive.rings(result.id))
    return Picture(
        name="rings",
        title="Position by distance to the border",
        figure=figure,
        caption="Mean SPC over held-out images within rings of positions at one distance to the border, from the edge to the "
        "centre; bars: 95 % intervals. Pixels are those of the network's image. A ring in which the target is constant has no "
        f"order, and no point. All heads: protocol {cell.protocol.name}, {describe_head(cell)}.{more}{more_lines}",
        description=" ".join(_describe(curve) for curve in curves),
        head=HEAD,
        rows=points.rows,
        tips=points.tips,
        answer=_answer(curves, targets[0]),
    )


def _list_ends(curve: _Curve) -> list[str]:
    """Return the SPC in the outermost and the innermost ring as text."""
    ends = (curve.rings[0], curve.rings[-1])
    return [" ".join(filter(None, (format_number(ring.spc), format_interval(ring.spc_bounds)))) for ring in ends]


def _describe(curve: _Curve) -> str:
    return f"{curve.title}, {curve.target}: SPC {' at the edge, '.join(_list_ends(curve))} in the centre."


def _answer(curves: Sequence[_Curve], target: str) -> str:
    """Return the two ends of each network's curve for the first target."""
    ends = [f"{curve.title} {' to '.join(_list_ends(curve))}" for curve in curves if curve.target == target]
    return f"SPC of {target} from the edge to the centre: {'; '.join(ends)}."
