"""Figure 3 of the report: what heads predict for an image of each test set, below their targets."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from posenet_store.heads.targets import describe_target
from posenet_store.report.figures.drawing import WIDTH, Axes, Picture, first_networks, new_figure, styled, wrap_name
from posenet_store.report.figures.maps import find_first_seed, select_one_kind
from posenet_store.report.records import arrange_cells, name_networks
from posenet_store.report.scores import ScoreArchive
from posenet_store.report.table import order_targets, order_tests
from posenet_store.sweep.cell import make_cell_target
from posenet_store.sweep.results import Result

LABELS = 1.7
"""Inches that the rows' labels take."""
LINE = 0.15
"""Inches of a line of text."""
SIDE = 0.65
"""Inches of a map where there are few columns."""
FEW = 5
"""Columns whose descriptions stand side by side; names of more are turned."""


@dataclass(frozen=True)
class _Row:
    """A row of maps: a network's map of the first image (`map`) or its mean map (`mean`) on a test."""

    network: str
    title: str
    test: str
    kind: str

    @property
    def label(self) -> str:
        return f"{wrap_name(self.title)}\n{self.test}{', mean' if self.kind == 'mean' else ''}"


def _list_rows(results: Sequence[Result], networks: Sequence[str]) -> list[_Row]:
    rows, titles = [], name_networks(results)
    for network in networks:
        scores = [result.scores for result in results if result.labels.network == network]
        for test in order_tests(test for by_test in scores for test in by_test):
            several = any(by_test[test].images > 1 for by_test in scores if test in by_test)
            rows += [_Row(network, titles[network], test, kind) for kind in ("map", "mean")[: 1 + several]]
    return rows


_Map = tuple[NDArray[Any] | None, tuple[float, float]]
"""A map [h, w], None if it was not kept, and the values that are black and white."""


def _show_maps(panel: Axes, maps: Sequence[Sequence[_Map]], across: float, down: float) -> None:
    """Show rows of maps in one panel: hundreds of panels would take many seconds to lay out.

    From one map to the next it is `across` and `down` maps.
    """
    for number, row in enumerate(maps):
        for column, (values, limits) in enumerate(row):
            left, top = column * across, number * down
            if values is None:
                panel.text(left + 0.5, top + 0.5, "-", ha="center", va="center")
                continue
            place = (left, left + 1, top + 1, top)
            panel.imshow(values, extent=place, vmin=limits[0], vmax=limits[1], interpolation="nearest", clip_on=False)
    panel.set(xlim=(0, len(maps[0]) * across), ylim=(len(maps) * down, 0), aspect="equal")
    panel.spines[:].set_visible(False)
    panel.grid(False)


@styled
def draw_predicted_maps(results: Sequence[Result], archive: ScoreArchive) -> Picture | None:
    """Draw Figure 3 of the report: a column a target, the target on top, below it what each network's heads predict."""
    chosen = select_one_kind(results)
    cells = arrange_cells(chosen)
    targets = order_targets(target for target, _ in cells)
    networks, more = first_networks((network for _, network in cells), most=5)
    rows = _list_rows(chosen, networks)
    samples = {result.cell.target: result.cell for result in chosen}
    maps: list[list[_Map]] = [[(make_cell_target(samples[target]), samples[target].value_range) for target in targets]]
    for row in rows:
        heads = [cells.get((target, row.network)) for target in targets]
        kept = [archive.array(find_first_seed(own).id, f"{row.kind}/{row.test}") if own else None for own in heads]
        maps.append([(values, samples[target].value_range) for target, values in zip(targets, kept, strict=True)])
    labels = ["target", *(row.label for row in rows)]
    across = 1.65 if len(targets) <= FEW else 1.1
    side = min(SIDE, (WIDTH - LABELS) / len(targets) / across)
    down = max(1.1, LINE * (0.5 + max(label.count("\n") + 1 for label in labels)) / side)
    figure = new_figure(side * down * len(maps) + 0.6, side * across * len(targets) + LABELS)
    panel = figure.subplots()
    _show_maps(panel, maps, across, down)
    panel.xaxis.tick_top()
    names = [f"{target}\n{describe_target(target)}" if len(targets) <= FEW else target for target in targets]
    panel.set_xticks([column * across + 0.5 for column in range(len(targets))], names)
    panel.tick_params(axis="x", length=0, rotation=0 if len(targets) <= FEW else 60)
    panel.set_yticks([number * down + 0.5 for number in range(len(maps))], labels)
    titles = name_networks(chosen)
    shown = ", ".join(titles[network] for network in networks)
    protocol = chosen[0].cell.protocol.name
    complete = all(values is not None for row in maps for values, _ in row)
    missing = "" if complete else " A dash: there is no such head, or its map was not kept."
    return Picture(
        name="maps",
        title="Predicted maps",
        figure=figure,
        caption=f"On top the target map, below it what each network's head (protocol {protocol}, first seed) predicts for the "
        "first image of each test set, and the mean over its images. Black and white are the ends of the target's range; a "
        f"uniform grey map carries no position.{missing}{more}",
        description=f"Small grey maps for targets {', '.join(targets)} and networks {shown}.",
    )
