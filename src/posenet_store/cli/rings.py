"""rings: score heads of runs by rings of distance to the border."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from posenet_store.cli.help import command
from posenet_store.cli.options import format_option, int_range, json_option, stores_option, where_option
from posenet_store.cli.output import print_line, print_listing, print_path, show_steps
from posenet_store.errors import UsageError
from posenet_store.files import check_writable

if TYPE_CHECKING:
    from posenet_store.heads.rings import RingWidths
    from posenet_store.sweep.results import Result

REMARK = (
    "SPC and MAE within each ring of positions at one distance to the border, which is in pixels of the network's image; means "
    "over held-out images with 95 % intervals; undef.: the target or every map is constant there"
)


@command(example="rings runs/border_distance --where target=H")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", type=click.Path(path_type=Path))
@stores_option
@click.option("--rings", "count", type=int_range("rings"),
              help="Rings from the edge to the centre, all of one width.  [default: 7]")  # fmt: skip
@click.option("--width", type=int_range("ring_width"), metavar="PIXELS",
              help="Rings of this width in pixels of the network's image instead, to compare several sizes.")  # fmt: skip
@where_option
@click.option(
    "--figures", type=click.Path(path_type=Path), metavar="DIR", help="Also draw it as PNG and SVG in DIR, all runs together."
)
@format_option
@json_option
def rings(
    runs: tuple[Path, ...], root: Path, count: int | None, width: int | None, conditions: tuple[str, ...],
    figures: Path | None, form: str, as_json: bool,
) -> None:  # fmt: skip
    """Score the heads of runs by distance to the border.

    Held-out rows are read once more; nothing is trained. The scores are kept in RUN/rings, and the page gets a figure of them.
    """
    if count and width:
        raise UsageError("--rings and --width both say how wide rings are; give one of them")
    if figures:
        check_writable(figures, "--figures")

    from posenet_store.heads.rings import RingWidths
    from posenet_store.report.figures.rings import draw_rings
    from posenet_store.report.load import load_runs
    from posenet_store.report.records import select_results
    from posenet_store.report.rings import list_rings

    loaded = load_runs(runs)
    results = select_results(loaded.results, conditions) if conditions else loaded.results
    for run in runs:
        of_run = [result for result in results if loaded.folders[result.id] == run]
        _score(run, of_run, root, RingWidths(width=width) if width else RingWidths(count or 7))
    archive = loaded.open_archive()
    listing, picture = list_rings(results, archive), draw_rings(results, archive) if figures else None
    if not listing.rows:
        names = ", ".join(map(str, runs))
        raise UsageError(f"no head of {names} has held-out images to score by rings; a sweep with holdout = 0 has none")
    paths = picture.save(figures) if picture and figures else []  # before the table, whose reader may go away
    print_listing(listing, ", ".join(loaded.records[run].title for run in runs), REMARK, form, as_json)
    for path in paths:
        print_line(path, err=True) if as_json or form != "terminal" else print_path(path)


def _score(run: Path, results: "list[Result]", root: Path, widths: "RingWidths") -> None:
    """Score the heads of a run that lack scores, and write its page again."""
    from posenet_store.report.html.page import write_page
    from posenet_store.sweep.results import RunFiles
    from posenet_store.sweep.score_rings import list_unscored, score_run

    if list_unscored(RunFiles(run), results, widths):
        with show_steps(f"rings of {run.name}", "heads") as advance:
            score_run(run, results, root, widths, advance)
        print_line(f"the page is {write_page([run], RunFiles(run).page)}", err=True)
