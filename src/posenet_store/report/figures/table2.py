"""The figure of Table 2: a panel a test, a column a target, a point a network and protocol, hollow ones published."""

from collections.abc import Sequence
from typing import Any

from posenet_store.report.figures.curves import HEAD, ScorePoints
from posenet_store.report.figures.drawing import (
    Palette,
    Picture,
    add_legend,
    add_panels,
    choose_marker,
    first_networks,
    new_figure,
    styled,
)
from posenet_store.report.published import MODELS
from posenet_store.report.scores import ScoreArchive
from posenet_store.report.table import Line, is_base, list_columns, order_targets, our_lines, table_lines
from posenet_store.sweep.results import Result

CAPTION = (
    "SPC by target and test; bars: 95 % intervals over images and seeds (one image has none). Hollow: published. Those "
    "networks are ImageNet's, and natural is one photograph in the report, PASCAL-S in the paper."
)


@styled
def draw_table2(results: Sequence[Result], archive: ScoreArchive) -> Picture | None:
    """Draw Table 2, for the published table's kind of head; None without such heads."""
    base = [result for result in results if is_base(result)]
    networks, more = first_networks(result.labels.network for result in base)
    chosen = [result for result in base if result.labels.network in networks]
    if not chosen:
        return None
    lines = [line for line in table_lines(chosen) if line.source != "baseline"]
    measured = {(line.target, line.network, line.source): line for line in our_lines(chosen, archive)}
    keys = list(dict.fromkeys((line.network, line.source) for line in lines))
    tests, targets = list_columns(lines), order_targets(line.target for line in lines)
    figure = new_figure(2.3 * -(-len(tests) // 2) + 0.8)
    points, styles = ScorePoints(), _list_styles(lines)
    panels = add_panels(figure, len(tests), 2)
    for panel, test in zip(panels, tests, strict=True):
        for line in (line for line in lines if test in line.values):
            key = (line.network, line.source)
            x = targets.index(line.target) + 0.75 * (keys.index(key) / len(keys) - 0.5)
            value = measured.get((line.target, *key), line).values[test]
            style, name = styles[key] | {"label": ", ".join(key)}, f"{line.network}, {test}"
            points.draw_score(panel, x, value, target=line.target, name=name, source=line.source, style=style)
        panel.set_xticks(range(len(targets)), targets)
        panel.set(title=test, ylabel="SPC" if test in tests[::2] else "")
        panel.axhline(0, color="#7f7f7f", lw=0.8)
    add_legend(figure, panels[0], 2)
    ours = [row for row in points.rows if row[-1].startswith("ours") and f", {tests[0]}" in row[1]]
    return Picture(
        name="table2",
        title="Table 2 at a glance",
        figure=figure,
        caption=CAPTION + more,
        description=" ".join(f"{name}, {target}: SPC {spc}." for target, name, spc, *_ in ours),
        head=HEAD,
        rows=points.rows,
        tips=points.tips,
    )


def _list_styles(lines: Sequence[Line]) -> dict[tuple[str, str], dict[str, Any]]:
    """Return (network, source) -> style: colour by network (a published one has its backbone's), marker by source."""
    ours = [line for line in lines if line.ours]
    palette = Palette(list(dict.fromkeys(line.network for line in ours)), {line.network for line in ours if line.labels.pixels})
    of_model = {MODELS.get(line.labels.backbone): line.network for line in reversed(ours)}
    sources = list(dict.fromkeys(line.source for line in lines))
    styles = {}
    for line in lines:
        network = line.network if line.ours else of_model.get(line.network, line.network)
        style = palette.style(network) | {"marker": choose_marker(line.source, sources), "ms": 4.5}
        styles[line.network, line.source] = style if line.ours else style | {"mfc": "none"}
    return styles
