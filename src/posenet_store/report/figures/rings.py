"""The figure of scores by distance to the border: SPC from the edge to the centre, a panel a target, a curve a network."""

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
)
from posenet_store.report.figures.maps import select_one_kind
from posenet_store.report.records import arrange_cells, name_networks
from posenet_store.report.rings import RingMean, find_rings
from posenet_store.report.scores import ScoreArchive
from posenet_store.report.table import describe_head, order_targets
from posenet_store.report.text_table import format_interval, format_number
from posenet_store.sweep.results import Result

HEAD = (
    "target", "network", "edge to centre, %", "distance, pixels", "SPC", "95 % interval", "MAE", "95 % interval", "undefined",
)  # fmt: skip
PERCENT, PIXELS = "edge to centre, %", "pixels from the border"


@dataclass(frozen=True)
class _Curve:
    """The rings of one network for one target, drawn over pixels or over the share of the way to the centre."""

    target: str
    network: str
    title: str
    rings: Sequence[RingMean]
    in_pixels: bool

    def locate(self, ring: RingMean) -> float:
        """Return the position of a ring on the axis."""
        return ring.distance if self.in_pixels else 50 * (ring.outer + ring.inner)

    def draw(self, panel: Axes, points: Points, palette: Palette) -> None:
        style = palette.style(self.network) | {"ms": 4}
        defined = [(self.locate(ring), ring.spc) for ring in self.rings if ring.spc is not None]
        panel.plot([x for x, _ in defined], [spc for _, spc in defined], label=self.title, lw=1.3, **style)
        for ring in self.rings:
            spc, bounds = format_number(ring.spc), format_interval(ring.spc_bounds)
            middle = f"{50 * (ring.outer + ring.inner):.1f}"
            scores = [
                spc,
                bounds,
                format_number(ring.mae),
                format_interval(ring.mae_bounds),
                f"{ring.undefined} of {ring.images}",
            ]
            points.rows.append([self.target, self.title, middle, f"{ring.distance:.1f}", *scores])
            if ring.spc is None:
                continue
            x = self.locate(ring)
            if ring.spc_bounds:
                panel.plot([x, x], ring.spc_bounds, color=style["color"], lw=1)
            tip = f"{self.title}, {self.target}: SPC {spc} {bounds} at {ring.distance:.0f} pixels from the border"
            points.draw(panel, x, ring.spc, tip, clip_on=False, **style)


def _list_curves(results: Sequence[Result], archive: ScoreArchive) -> list[_Curve]:
    """Return a curve for each target and network of one kind of head; over pixels if networks see several sizes of images."""
    scored = {result.id: scores for result in results if (scores := archive.rings(result.id)) is not None}
    chosen = select_one_kind([result for result in results if result.id in scored]) if scored else []
    titles = name_networks(chosen)
    several = len({scored[result.id].pixels for result in chosen if not result.labels.pixels}) > 1
    cells = {key: rings for key, group in arrange_cells(chosen).items() if (rings := find_rings(group, archive))}
    return [_Curve(target, network, titles[network], rings, several) for (target, network), rings in cells.items()]


@styled
def draw_rings(results: Sequence[Result], archive: ScoreArchive) -> Picture | None:
    """Draw SPC by distance to the border; None without scores by ring."""
    curves = _list_curves(results, archive)
    if not curves:
        return None
    targets = order_targets(curve.target for curve in curves)
    networks, more = first_networks(curve.network for curve in curves)
    grey = {result.labels.network for result in results if result.labels.pixels}
    figure, points, palette = new_figure(2.3 * -(-len(targets) // 3) + 1.1), Points(), Palette(networks, grey)
    panels = add_panels(figure, len(targets))
    for panel, target in zip(panels, targets, strict=True):
        panel.set(title=target, xlabel=PIXELS if curves[0].in_pixels else PERCENT)
        for curve in curves:
            if curve.target == target and curve.network in networks:
                curve.draw(panel, points, palette)
    panels[0].set_ylabel("mean SPC within a ring")
    panels[0].set_ylim(min(0.0, panels[0].get_ylim()[0]), 1.03)
    add_legend(figure, panels[0], 2)
    cell = next(result.cell for result in results if result.cell.target == targets[0] and archive.rings(result.id))
    return Picture(
        name="rings",
        title="Position by distance to the border",
        figure=figure,
        caption="Mean SPC over held-out images within rings of positions at one distance to the border, from the edge to the "
        "centre; bars: 95 % intervals. Pixels are those of the network's image. A ring in which the target is constant has no "
        f"order, and no point. All heads: protocol {cell.protocol.name}, {describe_head(cell)}.{more}",
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
