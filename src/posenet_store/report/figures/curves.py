"""Figures of mean SPC: along an axis such as the stage or the kernel size, and Table 2; with published values."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from posenet_store.heads.protocols import GradientProtocol
from posenet_store.heads.targets import describe_target
from posenet_store.report.figures.drawing import (
    Axes,
    Palette,
    Picture,
    Points,
    SubFigure,
    add_legend,
    add_panels,
    first_networks,
    new_figure,
    styled,
    wrap_name,
)
from posenet_store.report.figures.maps import show_row_of_maps
from posenet_store.report.published import KERNELS, LAYERS, MODELS, NONE, PADDINGS, STAGES, UNPADDED, Published, Setting
from posenet_store.report.records import find_stage, group_alike_inputs, name_network, order_stage
from posenet_store.report.scores import MeanScore, ScoreArchive, pool_seeds
from posenet_store.report.table import is_published_kind, order_targets
from posenet_store.report.text_table import format_interval, format_number, join_entry
from posenet_store.specs import PADDINGS as NETWORK_PADDINGS
from posenet_store.specs import ZEROS
from posenet_store.sweep.cell import HELD_OUT
from posenet_store.sweep.results import Result
from posenet_store.threads import cached_property

MAPS = 4
"""Networks whose maps are shown below the curves."""
HEAD = ("target", "network", "SPC", "95 % interval", "MAE", "95 % interval", "numbers")


def _name_curve(result: Result) -> str:
    return result.labels.network + _describe_erased(result)


def _describe_erased(result: Result) -> str:
    """Return what a head's features lack, for the name of its curve."""
    protocol = result.cell.protocol
    erased = "" if isinstance(protocol, GradientProtocol) else "+".join(protocol.erase)
    return f", {erased} erased" if erased else ""


def _layers(result: Result) -> Setting:
    protocol = result.cell.protocol
    return protocol.layers if isinstance(protocol, GradientProtocol) else 1


@dataclass(frozen=True)
class Axis:
    """What a figure varies: its value of a result (None: not on this axis), the field it lies in, and published values.

    `curve` is the network whose curve a result lies on.
    """

    name: str
    title: str
    label: str
    setting: Callable[[Result], Setting | None]
    field: str
    published: Published
    curve: Callable[[Result], str] = _name_curve


AXES = (
    Axis("stages", "Stage by stage", "stage of the network", find_stage, "input", STAGES),
    Axis("layers", "Depth of the head", "layers of the head", _layers, "layers", LAYERS),
    Axis("kernels", "Effect of the kernel size", "kernel size", lambda result: result.cell.kernel, "kernel", KERNELS),
    Axis("paddings", "Effect of the head's padding", "padding", lambda result: result.cell.padding, "padding", PADDINGS),
    Axis(
        "network_paddings",
        "Effect of the network's own padding",
        "padding of the network",
        lambda result: result.labels.network_padding,
        "network",
        UNPADDED,
        lambda result: result.labels.unpadded_network + _describe_erased(result),
    ),
    Axis("amounts", "Fewer training images", "training images", lambda result: result.cell.train_rows, "train_rows", NONE),
)
CurveCells = dict[tuple[str, str, Setting], list[Result]]
"""(target, network, setting) -> cells that differ in their seeds."""


def _order(setting: Setting) -> tuple[Any, ...]:
    if isinstance(setting, int):
        return (setting,)
    return (NETWORK_PADDINGS.index(setting),) if setting in NETWORK_PADDINGS else order_stage(setting)


def find_curves(results: Sequence[Result], axis: Axis) -> CurveCells:
    """Return the largest set of held-out cells that differ along the axis, all else but network, target and seed equal.

    Heads of features from which targets are erased have curves of their own.

    Networks and targets at one setting only are left out.
    """
    tested = [result for result in results if HELD_OUT in result.scores and axis.setting(result) is not None]
    best: CurveCells = {}
    for group in group_alike_inputs(tested, axis.field, "erase"):
        cells: CurveCells = {}
        for result in group:
            setting = axis.setting(result)
            if setting is not None:
                cells.setdefault((result.cell.target, axis.curve(result), setting), []).append(result)
        settings = Counter(key[:2] for key in cells)
        cells = {key: seeds for key, seeds in cells.items() if settings[key[:2]] > 1}
        best = max(best, cells, key=len)
    return best


class ScorePoints(Points):
    """Points of mean scores, with their intervals."""

    def draw_score(
        self, panel: Axes, position: float, value: MeanScore, *, target: str, name: str, source: str,
        style: dict[str, Any], across: bool = False,
    ) -> None:  # fmt: skip
        """Draw one mean with its interval at a position, SPC upwards or `across`.

        `name` is the network's with the setting or test, `source` whose numbers.
        """
        bounds = format_interval(value.spc_bounds)
        spc, mae = format_number(value.spc), format_number(value.mae)
        if value.spc is not None:
            if value.spc_bounds:
                ends = [position, position], value.spc_bounds
                panel.plot(*(reversed(ends) if across else ends), color=style["color"], lw=1.2)
            x, y = (value.spc, position) if across else (position, value.spc)
            self.draw(panel, x, y, f"{name}, {target}: SPC {spc} {bounds}, MAE {mae} ({source})", clip_on=False, **style)
        self.rows.append([target, name, spc, bounds, mae, format_interval(value.mae_bounds), source])


@dataclass(frozen=True)
class _Curves:
    """The cells of a figure along an axis, with their mean scores, and the positions of the settings."""

    axis: Axis
    cells: CurveCells
    archive: ScoreArchive

    @cached_property
    def scores(self) -> dict[tuple[str, str, Setting], MeanScore]:
        return {key: pool_seeds(results, HELD_OUT, self.archive) for key, results in self.cells.items()}

    @property
    def targets(self) -> list[str]:
        return order_targets(target for target, _, _ in self.cells)

    def networks(self, target: str | None = None) -> list[str]:
        return list(dict.fromkeys(network for of, network, _ in self.cells if target in (of, None)))

    def settings(self, target: str | None = None) -> list[Setting]:
        return sorted({setting for of, _, setting in self.cells if target in (of, None)}, key=_order)

    def positions(self) -> dict[Setting, float]:
        return {s: float(s) if isinstance(s, int) else float(index) for index, s in enumerate(self.settings())}

    def title(self, network: str) -> str:
        """Return a curve's network for people; its padding is left out where it is the axis."""
        result = next(results[0] for (_, name, _), results in self.cells.items() if name == network)
        unpadded = {"network": network, "network_padding": ZEROS} if self.axis.published is UNPADDED else {}
        return name_network(replace(result.labels, **unpadded)) + _describe_erased(result)


def _draw_curve(points: ScorePoints, palette: Palette, panel: Axes, curves: _Curves, *, target: str, network: str) -> None:
    """Draw one network's curve for a target, and the published one of its backbone."""
    axis, positions = curves.axis, curves.positions()
    look = palette.style(network) | {"ms": 5}
    ours = {x: curves.scores[target, network, x] for x in positions if (target, network, x) in curves.scores}
    first = [seeds[0] for key, seeds in curves.cells.items() if key[:2] == (target, network)]
    comparable = any(is_published_kind(result.labels) and not _describe_erased(result) for result in first)
    model, source = MODELS.get(first[0].labels.backbone) if comparable else None, axis.published.source
    theirs = {x: MeanScore(*pair) for x, pair in axis.published.at(target, model).items() if x in positions}
    for values, name, label, numbers, line, style in (
        (ours, network, curves.title(network), "ours", "-", look),
        (theirs, model, f"{model} ({source})", source, ":", look | {"mfc": "none"}),
    ):
        if values:
            defined = {positions[x]: value.spc for x, value in values.items() if value.spc is not None}
            panel.plot(list(defined), list(defined.values()), label=label, lw=1.3, ls=line, **style)
        for x, value in values.items():
            point_name = f"{name}, {axis.label} {x}"
            points.draw_score(panel, positions[x], value, target=target, name=point_name, source=numbers, style=style)


def _draw_panels(figure: SubFigure, points: ScorePoints, palette: Palette, curves: _Curves) -> None:
    """Draw a panel a target."""
    positions = curves.positions()
    panels = add_panels(figure, len(curves.targets))
    for panel, target in zip(panels, curves.targets, strict=True):
        for network in palette.networks:
            if network in curves.networks(target):
                _draw_curve(points, palette, panel, curves, target=target, network=network)
        panel.set(title=f"{target} ({describe_target(target)})", xlabel=curves.axis.label)
        long = any(len(str(setting)) > 5 for setting in positions)  # horizontal words would overlap
        panel.set_xticks(list(positions.values()), [str(setting) for setting in positions], rotation=30 if long else 0)
    panels[0].set_ylabel("mean SPC, held-out images")
    panels[0].set_ylim(min(0.0, panels[0].get_ylim()[0]), 1.03)
    add_legend(figure, panels[0], 2)


def _draw_maps(figure: SubFigure, curves: _Curves, networks: Sequence[str]) -> None:
    """Draw the maps of the first target, a row a network, a column a setting."""
    settings, target = curves.settings(), curves.targets[0]
    rows = figure.subplots(len(networks), len(settings) + 1, squeeze=False)
    for row, network in zip(rows, networks, strict=True):
        show_row_of_maps(row, [curves.cells.get((target, network, setting)) for setting in settings], curves.archive)
        row[0].set_ylabel(wrap_name(curves.title(network)), rotation=0, ha="right", va="center")
    for panel, title in zip(rows[0], ("target", *map(str, settings)), strict=True):
        panel.set_title(title)


@styled
def draw_axis(results: Sequence[Result], archive: ScoreArchive, axis: Axis) -> Picture | None:
    """Draw SPC along an axis, a panel a target, and below it the maps of the first target; None if nothing varies."""
    curves = _Curves(axis, find_curves(results, axis), archive)
    if not curves.cells:
        return None
    networks, more = first_networks(curves.networks())
    mapped, more_maps = first_networks(networks, most=MAPS)
    pixels = {axis.curve(seeds[0]) for seeds in curves.cells.values() if seeds[0].labels.pixels}
    points, palette = ScorePoints(), Palette(networks, pixels)
    heights = [2.3 * -(-len(curves.targets) // 3) + 0.15 * len(networks), 1.05 * len(mapped)]
    figure = new_figure(sum(heights))
    upper, lower = figure.subfigures(2, 1, squeeze=False, height_ratios=heights)[:, 0]
    _draw_panels(upper, points, palette, curves)
    _draw_maps(lower, curves, mapped)
    cell, source = next(iter(curves.cells.values()))[0].cell, axis.published.source
    head = {"protocol": cell.protocol.name, "kernel": cell.kernel, "padding": cell.padding, "input": cell.input}
    fixed = ", ".join(f"{name} {value}" for name, value in head.items() if name != axis.field)
    published = f"; dotted and hollow: published ({source}, on PASCAL-S)" if source else ""
    return Picture(
        name=axis.name,
        title=axis.title,
        figure=figure,
        caption=f"Above: mean SPC on held-out images; bars: 95 % intervals{published}. All heads: {fixed}. "
        f"Below: the maps predicted for the first held-out image, target {curves.targets[0]}.{more or more_maps}",
        description=_describe(curves),
        head=HEAD,
        rows=points.rows,
        tips=points.tips,
        answer=_answer(curves),
    )


def _describe(curves: _Curves) -> str:
    """Return the curves in words, one sentence a network and target."""
    sentences = []
    for target, network in dict.fromkeys(key[:2] for key in curves.cells):
        values = {x: score.spc for x in curves.settings() if (score := curves.scores.get((target, network, x)))}
        numbers = ", ".join("undefined" if value is None else f"{value:.2f}" for value in values.values())
        sentences.append(f"{network}, {target}: SPC {numbers} at {curves.axis.label} {', '.join(map(str, values))}.")
    return " ".join(sentences)


def _answer(curves: _Curves) -> str:
    """Return the two ends of each network's curve for the first target."""
    target = curves.targets[0]
    settings = curves.settings(target)
    sentences = []
    for network in curves.networks(target):
        ends = [curves.scores.get((target, network, x)) for x in (settings[0], settings[-1])]
        texts = [join_entry((format_number(end.spc), format_interval(end.spc_bounds))) for end in ends if end]
        sentences.append(f"{curves.title(network)} {' to '.join(texts)}")
    return f"SPC of {target} from {curves.axis.label} {settings[0]} to {settings[-1]}: {'; '.join(sentences)}."
