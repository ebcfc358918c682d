"""stage-shares: show what each stage explains of a target alone, and what it adds to all others."""

from pathlib import Path

import click

from posenet_store.cli.help import command
from posenet_store.cli.options import format_option, json_option, where_option
from posenet_store.cli.output import print_listing
from posenet_store.errors import UsageError

REMARK = (
    "share of the target's variance that exact heads explain on held-out images, with 95 % intervals over images (t). "
    "alone: of one stage; unique: all stages minus all but it; shared: alone minus unique"
)


@command("stage-shares", example="stage-shares runs/stage_shares --where target=H")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", type=click.Path(path_type=Path))
@where_option
@format_option
@json_option
def stage_shares(runs: tuple[Path, ...], conditions: tuple[str, ...], form: str, as_json: bool) -> None:
    """Show what each stage explains alone, and what it adds.

    Reads runs of `sweep stage_shares`, or of any exact heads on each stage, on all stages, and on all but each.
    """
    from posenet_store.report.load import load_runs
    from posenet_store.report.records import select_results
    from posenet_store.report.stage_shares import list_stage_shares

    loaded = load_runs(runs)
    listing = list_stage_shares(select_results(loaded.results, conditions), loaded.open_archive())
    if not listing.rows:
        raise UsageError(
            f"{', '.join(map(str, runs))}: no stage has exact heads with held-out images on it alone, on all stages and on all "
            "stages but it; `sweep stage_shares` trains such heads"
        )
    print_listing(listing, next(iter(loaded.records.values())).title, REMARK, form, as_json)
