"""Runs opened to look at: their results, Table 2 and figures, for notebooks and for the page."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from posenet_store.errors import UsageError
from posenet_store.files import expand_user
from posenet_store.notebook import format_html_table
from posenet_store.report.figures.curves import AXES, draw_axis
from posenet_store.report.figures.drawing import Drawing, Picture
from posenet_store.report.figures.maps import draw_border, draw_error_maps
from posenet_store.report.figures.predicted_maps import draw_predicted_maps
from posenet_store.report.figures.rings import draw_rings
from posenet_store.report.figures.stage_shares import draw_stage_shares
from posenet_store.report.figures.table2 import draw_table2
from posenet_store.report.figures.variance import draw_run_variance
from posenet_store.report.leaderboard import Commands, list_leaderboard, rank_networks
from posenet_store.report.load import load_runs
from posenet_store.report.records import name_networks, select_results
from posenet_store.report.scores import ScoreArchive
from posenet_store.report.table import make_table2
from posenet_store.report.text_table import Listing
from posenet_store.sweep.results import Result
from posenet_store.sweep.tables import make_row

if TYPE_CHECKING:
    import pandas

FIGURES: dict[str, Callable[[Sequence[Result], ScoreArchive], Picture | None]] = {
    "table2": draw_table2,
    **{axis.name: partial(draw_axis, axis=axis) for axis in AXES},
    "errors": draw_error_maps,
    "border": draw_border,
    "rings": draw_rings,
    "maps": draw_predicted_maps,
    "variance": draw_run_variance,
    "stage_shares": draw_stage_shares,
}
"""Every figure by name, in the page's order; None where the cells do not allow it."""


class Run:
    """The finished cells of one run or several: `results`, their arrays (`archive`), Table 2 and figures (`plot`)."""

    def __init__(
        self, title: str, results: Sequence[Result], archive: ScoreArchive, commands: Commands = lambda result: ("", "")
    ) -> None:
        self.title = title
        self.results = list(results)
        self.archive = archive
        self._commands = commands
        self.plot = Plots(self)

    def where(self, *conditions: str) -> "Run":
        """Return only the cells that meet every FIELD=VALUE, such as "protocol=ridge"; raises UsageError if none does."""
        return Run(self.title, select_results(self.results, conditions), self.archive, self._commands)

    def table2(self) -> Listing:
        """Return Table 2: `markdown()`, `csv()`, and `records` at full precision."""
        return make_table2(self.results, self.archive)

    def leaderboard(self, order: str | None = None) -> Listing:
        """Return all networks in order, such as "H+V" or "G@f5"; raises UsageError if no head reads one stage or all."""
        return list_leaderboard(rank_networks(self.results, self.archive, self._commands, order))

    def pictures(self) -> Iterator[Picture]:
        """Yield every figure that the cells allow, with its caption and the numbers behind it."""
        pictures = (draw(self.results, self.archive) for draw in FIGURES.values())
        return (picture for picture in pictures if picture is not None)

    def to_pandas(self) -> "pandas.DataFrame":
        """Return a row a cell: its fields, then SPC, MAE and counts of each test, as in results.csv; needs pandas."""
        try:
            import pandas
        except ImportError:
            raise UsageError("to_pandas needs pandas; install it: pip install 'posenet-store[pandas]'") from None
        return pandas.DataFrame([make_row(result) for result in self.results])

    def __len__(self) -> int:
        """Return the number of cells."""
        return len(self.results)

    def _facts(self) -> list[tuple[str, str]]:
        tests = dict.fromkeys(test for result in self.results for test in result.scores)
        return [
            ("cells", f"{len(self):,}"),
            ("networks", ", ".join(name_networks(self.results).values())),
            ("targets", ", ".join(dict.fromkeys(result.cell.target for result in self.results))),
            ("protocols", ", ".join(dict.fromkeys(result.cell.protocol.name for result in self.results))),
            ("tests", ", ".join(tests)),
        ]

    def __repr__(self) -> str:
        return "\n".join([f"<Run {self.title!r}>", *(f"  {label:10} {value}" for label, value in self._facts())])

    def _repr_html_(self) -> str:
        """Return the same as a table for notebooks."""
        return format_html_table(self._facts(), caption=self.title)


class Plots:
    """The figures of a run as matplotlib figures: show them, change them, save them."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def _draw(self, name: str) -> Drawing:
        picture = FIGURES[name](self._run.results, self._run.archive)
        if picture is None:
            raise UsageError(
                f"the run has no cells for the figure {name!r}; the sweeps in pipeline/experiments/ say which make it"
            )
        return picture.figure

    def table2(self) -> Drawing:
        """Draw Table 2 as points with intervals, with the published values."""
        return self._draw("table2")

    def stages(self) -> Drawing:
        """Draw SPC by the one stage that is read, and of all."""
        return self._draw("stages")

    def layers(self) -> Drawing:
        """Draw SPC by the depth of the head."""
        return self._draw("layers")

    def kernels(self) -> Drawing:
        """Draw SPC by the head's kernel size."""
        return self._draw("kernels")

    def paddings(self) -> Drawing:
        """Draw SPC by the head's zero padding."""
        return self._draw("paddings")

    def network_paddings(self) -> Drawing:
        """Draw SPC by the padding of the frozen network."""
        return self._draw("network_paddings")

    def amounts(self) -> Drawing:
        """Draw SPC by the number of training images."""
        return self._draw("amounts")

    def errors(self) -> Drawing:
        """Draw the maps of mean absolute errors (the paper's Eq. 4), one a network."""
        return self._draw("errors")

    def border(self) -> Drawing:
        """Draw the mean absolute error by distance to the border."""
        return self._draw("border")

    def rings(self) -> Drawing:
        """Draw SPC by rings of distance to the border, which the command `rings` scores."""
        return self._draw("rings")

    def maps(self) -> Drawing:
        """Draw the maps that heads predict, below their targets."""
        return self._draw("maps")

    def variance(self) -> Drawing:
        """Draw the share of variance that is position, and its directions."""
        return self._draw("variance")

    def stage_shares(self) -> Drawing:
        """Draw what each stage explains alone, and what it adds to the others."""
        return self._draw("stage_shares")


def open_run(*folders: str | Path) -> Run:
    """Open one run or several to look at; raises UsageError if one is no run or has no finished cell.

    `open_run("runs/demo").plot.stages()` is a matplotlib figure, `open_run("runs/demo").table2().markdown()` text.
    """
    if not folders:
        raise UsageError("open_run needs a run's folder, such as runs/demo")
    loaded = load_runs([expand_user(folder) for folder in folders])
    return Run(next(iter(loaded.records.values())).title, loaded.results, loaded.open_archive(), loaded.find_commands)
