"""Runs opened to look at: their cells, Table 2 and figures, for notebooks and for the page."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from posenet_store.errors import UsageError
from posenet_store.report.figures.curves import AXES, along, table2_points
from posenet_store.report.figures.drawing import Drawing, Picture
from posenet_store.report.figures.maps import border, error_maps, predicted_maps
from posenet_store.report.records import Record, where
from posenet_store.report.scores import ScoreArchive
from posenet_store.report.table import table2
from posenet_store.report.text_table import Listing
from posenet_store.sweep.results import load_run

FIGURES: dict[str, Callable[[Sequence[Record], ScoreArchive], Picture | None]] = {
    "table2": table2_points,
    **{axis.name: partial(along, axis=axis) for axis in AXES},
    "errors": error_maps,
    "border": border,
    "maps": predicted_maps,
}
"""Every figure by name, in the page's order; None where the cells do not allow it."""


class Run:
    """The finished cells of one run or several: `records`, what was `kept` of them, Table 2 and figures."""

    def __init__(self, records: Sequence[Record], kept: ScoreArchive) -> None:
        self.records = list(records)
        self.kept = kept
        self.plot = Plots(self)

    def where(self, *conditions: str) -> "Run":
        """Return only the cells that meet every FIELD=VALUE, such as "protocol=ridge"; raises UsageError if none does."""
        return Run(where(self.records, conditions), self.kept)

    def table2(self) -> Listing:
        """Return Table 2: `markdown()`, `csv()`, and `records` at full precision."""
        return table2(self.records, self.kept)

    def pictures(self) -> Iterator[Picture]:
        """Yield every figure that the cells allow, with its caption and the numbers behind it."""
        for draw in FIGURES.values():
            picture = draw(self.records, self.kept)
            if picture is not None:
                yield picture


class Plots:
    """The figures of a run as matplotlib figures: show them, change them, save them."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def _drawn(self, name: str) -> Drawing:
        picture = FIGURES[name](self._run.records, self._run.kept)
        if picture is None:
            raise UsageError(
                f"the run has no cells for the figure {name!r}; the sweeps in pipeline/experiments/ say which make it"
            )
        return picture.figure

    def table2(self) -> Drawing:
        """Return Table 2 as points with intervals, published values beside."""
        return self._drawn("table2")

    def stages(self) -> Drawing:
        """Return SPC by the one stage that is read, and of all."""
        return self._drawn("stages")

    def layers(self) -> Drawing:
        """Return SPC by the depth of the head."""
        return self._drawn("layers")

    def kernels(self) -> Drawing:
        """Return SPC by the head's kernel size."""
        return self._drawn("kernels")

    def paddings(self) -> Drawing:
        """Return SPC by the head's zero padding."""
        return self._drawn("paddings")

    def network_paddings(self) -> Drawing:
        """Return SPC by the padding of the frozen network."""
        return self._drawn("network_paddings")

    def amounts(self) -> Drawing:
        """Return SPC by the number of training images."""
        return self._drawn("amounts")

    def errors(self) -> Drawing:
        """Return the maps of mean absolute errors (the paper's Eq. 4), one a network."""
        return self._drawn("errors")

    def border(self) -> Drawing:
        """Return the mean absolute error by distance to the border."""
        return self._drawn("border")

    def maps(self) -> Drawing:
        """Return the maps that heads paint, below the maps they should."""
        return self._drawn("maps")


def open_run(*folders: str | Path) -> Run:
    """Open one run or several to look at; raises UsageError if one is no run or has no finished cell.

    `open_run("runs/demo").plot.stages()` is a matplotlib figure, `open_run("runs/demo").table2().markdown()` text.
    """
    if not folders:
        raise UsageError("open_run needs a run's folder, such as runs/demo")
    paths = [Path(folder) for folder in folders]
    records = {record["id"]: record for path in paths for record in load_run(path)[1]}
    return Run(list(records.values()), ScoreArchive(paths))
