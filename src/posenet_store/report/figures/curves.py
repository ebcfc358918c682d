"""Figures made of points: SPC by stage, kernel, padding and depth of the head, and Table 2; published values beside ours."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from posenet_store.heads.targets import describe_target
from posenet_store.report.figures.drawing import (
    WIDTH,
    Axes,
    Picture,
    canvas,
    colour_of,
    few,
    grid_of,
    in_lines,
    legend_below,
    marker_of,
    styled,
)
from posenet_store.report.figures.maps import row_of_maps
from posenet_store.report.published import KERNELS, LAYERS, MODELS, NONE, PADDINGS, STAGES, UNPADDED, Published, Setting
from posenet_store.report.records import Record, alike
from posenet_store.report.scores import MeanScore, ScoreArchive, bracketed, value_of
from posenet_store.report.table import (
    BASE,
    Line,
    columns,
    network_title,
    our_lines,
    padding_of,
    setting_of,
    table_lines,
    target_order,
)
from posenet_store.report.text_table import joined, short
from posenet_store.specs import PADDINGS as OF_NETWORKS
from posenet_store.sweep.cell import HELD_OUT

HEAD = ("target", "network", "SPC", "95 % interval", "MAE", "95 % interval", "numbers")


@dataclass(frozen=True)
class Axis:
    """What a figure varies: its value of a record (None: not on this axis), the field it lies in, and published values.

    `curve` is the network whose curve a record lies on.
    """

    name: str
    title: str
    label: str
    of: Callable[[Record], Setting | None]
    field: str
    published: Published
    curve: Callable[[Record], str] = lambda record: str(record["labels"]["network"])


def _stage(record: Record) -> Setting | None:
    """The one tap that a head reads, or all; heads on some of them are on no axis."""
    taps = record["cell"]["input"].partition(":")[2]
    return None if "+" in taps else taps or "all"


AXES = (
    Axis("stages", "Stage by stage", "stage of the network", _stage, "input", STAGES),
    Axis(
        "layers", "Depth of the head", "layers of the head", lambda r: r["cell"]["protocol"].get("layers", 1), "layers", LAYERS
    ),
    Axis("kernels", "Effect of the kernel size", "kernel size", lambda r: r["cell"]["kernel"], "kernel", KERNELS),
    Axis("paddings", "Effect of the head's padding", "padding", lambda r: r["cell"]["padding"], "padding", PADDINGS),
    Axis(
        "network_paddings",
        "Effect of the network's own padding",
        "padding of the network",
        lambda r: padding_of(r["labels"]["network"])[1],
        "network",
        UNPADDED,
        lambda r: padding_of(r["labels"]["network"])[0],
    ),
    Axis("amounts", "Fewer training images", "training images", lambda r: r["cell"]["train_rows"], "train_rows", NONE),
)
Points = dict[tuple[str, str, Setting], list[Record]]
"""(target, network, setting) -> cells that differ in their seeds."""


def _order(setting: Setting) -> tuple[bool, Any]:
    return setting == "all", OF_NETWORKS.index(setting) if setting in OF_NETWORKS else setting


def points(records: Sequence[Record], axis: Axis) -> Points:
    """Return the largest set of held-out cells that differ along the axis, all else but network, target and seed equal.

    Networks and targets at one setting only are left out.
    """
    there = [(record, axis.of(record)) for record in records if HELD_OUT in record["scores"]]
    kinds: dict[str, list[Record]] = {}  # heads on all channels and on three a tap are not on one axis
    for record, setting in there:
        if setting is not None:
            kinds.setdefault(record["cell"]["input"].partition(":")[0], []).append(record)
    best: Points = {}
    for group in (group for some in kinds.values() for group in alike(some, (axis.field,))):
        found: Points = {}
        for record in group:
            setting = axis.of(record)
            if setting is not None:
                found.setdefault((record["cell"]["target"], axis.curve(record), setting), []).append(record)
        settings = Counter(place[:2] for place in found)
        found = {place: some for place, some in found.items() if settings[place[:2]] > 1}
        if len(found) > len(best):
            best = found
    return best


@dataclass
class _Plot:
    """A figure in the making: what is drawn, also as rows and as texts to hover over."""

    networks: list[str]
    rows: list[list[str]]
    tips: dict[str, str]

    def point(self, panel: Axes, x: float, value: MeanScore, look: dict[str, Any], said: Sequence[str]) -> None:
        """Draw one mean with its interval; `said` are target, network (with setting) and whose numbers."""
        bounds = value.spc_bounds
        if value.spc is not None:
            if bounds:
                panel.plot([x, x], bounds, color=look["color"], lw=1.2)
            name = f"tip{len(self.tips)}"
            self.tips[name] = (
                f"{said[1]}, {said[0]}: SPC {short(value.spc)} {bracketed(bounds)}, MAE {short(value.mae)} ({said[2]})"
            )
            panel.plot([x], [value.spc], ls="", gid=name, **look)
        numbers = (short(value.spc), bracketed(bounds), short(value.mae), bracketed(value.mae_bounds))
        self.rows.append([said[0], said[1], *numbers, said[2]])


def _curve(
    plot: _Plot, panel: Axes, axis: Axis, cells: Points, place: tuple[str, str], at: dict[Setting, float], kept: ScoreArchive
) -> None:
    """One network's curve for a target, and the published one of its backbone."""
    target, network = place
    look = {"color": colour_of(network, plot.networks), "marker": marker_of(network, plot.networks), "ms": 5}
    ours = {x: value_of(cells[target, network, x], HELD_OUT, kept) for x in at if (target, network, x) in cells}
    record = next(some[0] for (t, n, _), some in cells.items() if (t, n) == place)
    model = MODELS.get(record["labels"]["backbone"])
    theirs = {x: MeanScore(*pair) for x, pair in axis.published.at(target, model).items() if x in at}
    sources: tuple[tuple[dict[Setting, MeanScore], str, str, dict[str, Any]], ...] = (
        (ours, network_title(network), "ours", {"ls": "-"} | look),
        (theirs, f"{model} ({axis.published.source})", axis.published.source, {"ls": ":", "mfc": "none"} | look),
    )
    for values, label, source, style in sources:
        if not values:
            continue
        defined = {x: value.spc for x, value in values.items() if value.spc is not None}
        panel.plot([at[x] for x in defined], list(defined.values()), label=label, lw=1.3, **style)
        for x, value in values.items():
            said = (target, f"{network if source == 'ours' else model}, {axis.label} {x}", source)
            plot.point(panel, at[x], value, {name: one for name, one in style.items() if name != "ls"}, said)


@styled
def along(records: Sequence[Record], kept: ScoreArchive, axis: Axis) -> Picture | None:
    """Draw SPC along an axis, a panel a target, and below it the maps of the first target; None if nothing varies."""
    cells = points(records, axis)
    if not cells:
        return None
    targets = target_order(target for target, _, _ in cells)
    networks, more = few(network for _, network, _ in cells)
    settings = sorted({x for _, _, x in cells}, key=_order)
    at = {x: float(x) if isinstance(x, int) else float(place) for place, x in enumerate(settings)}
    deep, shown = -(-len(targets) // 3), networks[:4]
    figure = canvas(2.3 * deep + 0.5 + 1.05 * len(shown))
    upper, lower = figure.subfigures(2, 1, squeeze=False, height_ratios=[2.3 * deep + 0.5, 1.05 * len(shown)])[:, 0]
    plot = _Plot(networks, [], {})
    panels = grid_of(upper, len(targets))
    for panel, target in zip(panels, targets, strict=True):
        for network in networks:
            if any((target, network, x) in cells for x in settings):
                _curve(plot, panel, axis, cells, (target, network), at, kept)
        panel.set(title=f"{target} ({describe_target(target)})", xlabel=axis.label)
        words = any(len(str(x)) > 5 for x in at)  # beside each other they would run into one
        panel.set_xticks(list(at.values()), [str(x) for x in at], rotation=30 if words else 0)
    panels[0].set_ylabel("mean SPC, held-out images")
    panels[0].set_ylim(min(0.0, panels[0].get_ylim()[0]), 1.03)
    legend_below(upper, panels[0], 2)
    for row, network in zip(lower.subplots(len(shown), len(settings) + 1, squeeze=False), shown, strict=True):
        row_of_maps(row, [cells.get((targets[0], network, x)) for x in settings], kept)
        row[0].set_ylabel(in_lines(network), fontsize=7)
    for panel, title in zip(lower.axes, ("target", *map(str, settings)), strict=False):
        panel.set_title(title)
    cell = next(iter(cells.values()))[0]["cell"]
    others = {
        "protocol": cell["protocol"]["name"],
        "kernel": cell["kernel"],
        "padding": cell["padding"],
        "input": cell["input"],
    }
    source = axis.published.source
    theirs = f"; dotted and hollow: published ({source}, on PASCAL-S)" if source else ""
    fixed = ", ".join(f"{name} {value}" for name, value in others.items() if name != axis.field)
    return Picture(
        axis.name, axis.title, figure,
        f"Above: mean SPC on held-out images; bars: 95 % intervals{theirs}. All heads: {fixed}. "
        f"Below: the maps painted for the first held-out image, target {targets[0]}.{more}",
        _in_words(cells, settings, axis, kept), HEAD, plot.rows, plot.tips, _answer(cells, targets[0], axis, kept),
    )  # fmt: skip


def _in_words(cells: Points, settings: Sequence[Setting], axis: Axis, kept: ScoreArchive) -> str:
    """The curves as one sentence a network and target."""
    said = []
    for target, network in dict.fromkeys((t, n) for t, n, _ in cells):
        there = [x for x in settings if (target, network, x) in cells]
        values = [value_of(cells[target, network, x], HELD_OUT, kept).spc for x in there]
        numbers = ", ".join("undefined" if value is None else f"{value:.2f}" for value in values)
        said.append(f"{network}, {target}: SPC {numbers} at {axis.label} {', '.join(map(str, there))}.")
    return " ".join(said)


def _answer(cells: Points, target: str, axis: Axis, kept: ScoreArchive) -> str:
    """The two ends of each network's curve for one target."""
    said = []
    settings = sorted({x for t, _, x in cells if t == target}, key=_order)
    for network in dict.fromkeys(n for t, n, _ in cells if t == target):
        ends = [cells.get((target, network, x)) for x in (settings[0], settings[-1])]
        values = [value_of(records, HELD_OUT, kept) for records in ends if records]
        said.append(f"{network_title(network)} {' to '.join(joined((short(v.spc), bracketed(v.spc_bounds))) for v in values)}")
    return f"SPC of {target} from {axis.label} {settings[0]} to {settings[-1]}: {'; '.join(said)}."


@styled
def table2_points(records: Sequence[Record], kept: ScoreArchive) -> Picture | None:
    """Draw Table 2: a panel a test, a place a target, a point a network and protocol, hollow ones published."""
    networks, more = few(record["labels"]["network"] for record in records if setting_of(record["cell"]) == BASE)
    chosen = [r for r in records if setting_of(r["cell"]) == BASE and r["labels"]["network"] in networks]
    if not chosen:
        return None
    lines = [line for line in table_lines(chosen) if line.source != "baseline"]
    measured = {(line.target, line.network, line.source): line for line in our_lines(chosen, kept)}
    kinds = list(dict.fromkeys((line.network, line.source) for line in lines))
    networks = list(dict.fromkeys(line.network for line in lines if line.ours))
    tests, targets = columns(lines), target_order(line.target for line in lines)
    figure = canvas(2.3 * -(-len(tests) // 2) + 0.8, WIDTH)
    plot, panels = _Plot(networks, [], {}), grid_of(figure, len(tests), 2)
    for panel, test in zip(panels, tests, strict=True):
        for line in lines:
            if test in line.values:
                place = kinds.index((line.network, line.source)) / len(kinds) - 0.5
                value = measured.get((line.target, line.network, line.source), line).values[test]
                look = _look(line, kinds, networks) | {"label": f"{line.network}, {line.source}"}
                plot.point(
                    panel,
                    targets.index(line.target) + 0.75 * place,
                    value,
                    look,
                    (line.target, f"{line.network}, {test}", line.source),
                )
        panel.set_xticks(range(len(targets)), targets)
        panel.set(title=test, ylabel="SPC" if test in tests[::2] else "")
        panel.axhline(0, color="#7f7f7f", lw=0.8)
    legend_below(figure, panels[0], 2)
    said = (f"{r[1]}, {r[0]}: SPC {r[2]}." for r in plot.rows if r[-1].startswith("ours") and f", {tests[0]}" in r[1])
    return Picture(
        "table2", "Table 2 at a glance", figure,
        "SPC by target and test; bars: 95 % intervals over images and seeds (one image has none). Hollow: published. Those "
        f"networks are ImageNet's, and natural is one photograph in the report, PASCAL-S in the paper.{more}",
        " ".join(said), HEAD, plot.rows, plot.tips,
    )  # fmt: skip


def _look(line: Line, kinds: Sequence[tuple[str, str]], networks: Sequence[str]) -> dict[str, Any]:
    """Colour by network (a published one has its backbone's), marker by whose numbers."""
    backbones = {MODELS.get(network.partition("-")[0]): network for network in reversed(networks)}
    network = line.network if line.ours else backbones.get(line.network, line.network)
    sources = list(dict.fromkeys(source for _, source in kinds))
    look = {"color": colour_of(network, networks), "marker": marker_of(line.source, sources), "ms": 4.5}
    return look if line.ours else look | {"mfc": "none"}
