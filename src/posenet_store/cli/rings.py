"""rings: score a run's heads by rings of distance to the border."""

from pathlib import Path

import click

from posenet_store.cli.help import command
from posenet_store.cli.options import format_option, int_range, json_option, stores_option, where_option
from posenet_store.cli.output import print_line, print_listing, show_steps
from posenet_store.errors import UsageError

REMARK = (
    "SPC and MAE within each ring of positions at one distance to the border, means over held-out images with 95 % intervals; "
    "undef.: the target or every map is constant there"
)


@command(example="rings runs/border_distance --where target=H")
@click.argument("run", type=click.Path(path_type=Path))
@stores_option
@click.option("--rings", "count", type=int_range("rings"), default=7, show_default=True,
              help="Rings from the edge to the centre, all of one width.")  # fmt: skip
@where_option
@format_option
@json_option
def rings(run: Path, root: Path, count: int, conditions: tuple[str, ...], form: str, as_json: bool) -> None:
    """Score the heads of a run by distance to the border.

    Held-out rows are read once more; nothing is trained. The scores are kept in RUN/rings, and the page gets a figure of them.
    """
    from posenet_store.report.load import load_runs
    from posenet_store.report.records import select_results
    from posenet_store.report.rings import list_rings
    from posenet_store.sweep.results import RunFiles

    loaded = load_runs([run])
    results = select_results(loaded.results, conditions) if conditions else loaded.results

    from posenet_store.sweep.score_rings import list_unscored, score_run

    if list_unscored(RunFiles(run), results, count):
        with show_steps(f"rings of {run.name}", "heads") as advance:
            score_run(run, results, root, count, advance)
        _write_page(run)
    listing = list_rings(results, loaded.open_archive())
    if not listing.rows:
        raise UsageError(f"{run} has no head with held-out images to score by rings; its sweep had holdout = 0")
    print_listing(listing, f"{loaded.records[run].title}, {count} rings", REMARK, form, as_json)


def _write_page(run: Path) -> None:
    from posenet_store.report.html.page import write_page
    from posenet_store.sweep.results import RunFiles

    print_line(f"the page is {write_page([run], RunFiles(run).page)}", err=True)
