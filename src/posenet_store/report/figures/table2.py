"""The figure of Table 2: a panel a target, a row a network, a point each for ours (filled) and the published (hollow)."""

from collections.abc import Sequence
from typing import Any

from posenet_store.heads.targets import describe_target
from posenet_store.report.figures.curves import HEAD, ScorePoints
from posenet_store.report.figures.drawing import (
    COLOURS,
    GREY,
    Axes,
    Picture,
    add_legend,
    choose_marker,
    first_networks,
    new_figure,
    styled,
    wrap_name,
)
from posenet_store.report.published import MODELS
from posenet_store.report.scores import ScoreArchive
from posenet_store.report.table import NATURAL, Line, is_base, order_targets, our_lines, table_lines
from posenet_store.specs import ZEROS
from posenet_store.sweep.results import Result

CAPTION = (
    "SPC on natural images by target and network; bars: 95 % intervals over images and seeds. Hollow: published, of networks "
    "that were trained on ImageNet; natural is one photograph in the report, PASCAL-S in the paper."
)
MAX_TARGETS = 6
"""Panels that have room for their titles side by side; the published targets come first."""
TRAINED, UNPADDED, UNTRAINED = COLOURS[:3]
"""Colours of networks as they are, with another padding, and without training."""


@styled
def draw_table2(results: Sequence[Result], archive: ScoreArchive) -> Picture | None:
    """Draw Table 2's natural column as a dot plot, for the published table's kind of head; None without such heads."""
    base = [result for result in results if is_base(result)]
    networks, more = first_networks(result.labels.network for result in base)
    chosen = [result for result in base if result.labels.network in networks]
    lines = [line for line in table_lines(chosen) if line.source != "baseline" and NATURAL in line.values] if chosen else []
    if not lines:
        return None
    targets, more_targets = first_networks(order_targets(line.target for line in lines), MAX_TARGETS, "targets")
    lines = [line for line in lines if line.target in targets]
    measured = {(line.target, line.network, line.source): line for line in our_lines(chosen, archive)}
    labels, sources = _list_labels(lines), sorted({line.source for line in lines}, key=lambda source: "published" in source)
    names = [wrap_name(label, 28) for label in reversed(labels.values())]
    row_height = max(0.27, 0.15 * max(name.count("\n") + 1 for name in names))  # inches
    figure, points = new_figure(row_height * len(labels) + 1.1), ScorePoints()
    panels = figure.subplots(1, len(targets), squeeze=False, sharey=True, sharex=True)[0]
    for panel, target in zip(panels, targets, strict=True):
        for line in (line for line in lines if line.target == target):
            value = measured.get((target, line.network, line.source), line).values[NATURAL]
            style = _choose_style(line, sources) | {"label": line.source}
            row = len(labels) - 1 - list(labels).index(line.network)
            points.draw_score(panel, row, value, target=target, name=line.title, source=line.source, style=style, across=True)
        panel.set(title=f"{target}\n{describe_target(target)}".replace("ontal ", "ontal\n").replace("ical ", "ical\n"))
        panel.axvline(0, color=GREY, lw=0.8)
    panels[0].set_yticks(range(len(labels)), names)
    panels[0].set_ylim(-0.6, len(labels) - 0.4)
    panels[len(panels) // 2].set_xlabel("SPC")
    _add_source_legend(figure, panels[0], sources, lines)
    return Picture(
        name="table2",
        title="Table 2 at a glance",
        figure=figure,
        caption=CAPTION + more + more_targets,
        description=" ".join(
            f"{name}, {target}: SPC {spc}." for target, name, spc, *_, source in points.rows if "ours" in source
        ),
        head=HEAD,
        rows=points.rows,
        tips=points.tips,
    )


def _list_labels(lines: Sequence[Line]) -> dict[str, str]:
    """Return the rows: each network's title, a published model's behind those of ours that have its backbone."""
    titles = {line.network: line.title for line in lines if line.ours}
    models = [line.network for line in lines if not line.ours]
    backbones = {line.network: MODELS.get(line.labels.backbone) for line in lines if line.ours}
    labels: dict[str, str] = {}
    for network, title in titles.items():
        labels[network] = title
        last = [name for name in titles if backbones[name] == backbones[network]][-1] == network
        if last and backbones[network] in models:
            labels[str(backbones[network])] = f"{backbones[network]}, published"
    return labels | {model: f"{model}, published" for model in models if model not in labels}


def _choose_style(line: Line, sources: Sequence[str]) -> dict[str, Any]:
    """Return a line's look: the marker says whose number it is, the colour what kind of network it is of."""
    look = {"marker": choose_marker(line.source, sources), "ms": 5}
    if not line.ours:
        return look | {"color": GREY, "mfc": "none"}
    labels = line.labels
    if labels.pixels:
        return look | {"color": GREY}
    return look | {"color": UNTRAINED if not labels.trained else TRAINED if labels.network_padding == ZEROS else UNPADDED}


def _add_source_legend(figure: Any, panel: Axes, sources: Sequence[str], lines: Sequence[Line]) -> None:
    """Say whose numbers the markers are; the rows name the networks."""
    for source in sources:
        first = next(line for line in lines if line.source == source)
        panel.plot([], [], ls="", label=source, **_choose_style(first, sources) | {"color": GREY})
    add_legend(figure, panel, 4)
