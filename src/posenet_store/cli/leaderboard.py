"""leaderboard: print all networks in order, stage by stage."""

from pathlib import Path

import click

from posenet_store.cli.help import command
from posenet_store.cli.options import format_option, int_range, json_option, where_option
from posenet_store.cli.output import print_line, print_listing


@command(example="leaderboard runs/networks --where target=H")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", type=click.Path(path_type=Path))
@click.option(
    "--sort", metavar="TARGET[+TARGET][@STAGE]",
    help="Order networks by their mean SPC of these targets, at their best stage or at STAGE: H+V, G, H@f5, H+V@all.  "
    "[default: H+V]",
)  # fmt: skip
@where_option
@click.option("--top", type=int_range("rows_shown"), metavar="N", help="Only the first N architectures.")
@format_option
@json_option
def leaderboard(
    runs: tuple[Path, ...], sort: str | None, conditions: tuple[str, ...], top: int | None, form: str, as_json: bool
) -> None:
    """Print how much position networks carry, stage by stage.

    The trained networks of an architecture stand beside its untrained ones, the best architecture first. Reads runs of
    `sweep networks`, or of any heads on single stages; --format csv and --json also have the commands that made each row.
    """
    from posenet_store.report.leaderboard import describe_leaderboard, list_leaderboard, rank_networks
    from posenet_store.report.load import load_runs
    from posenet_store.report.records import select_results

    loaded = load_runs(runs)
    for path, record in loaded.records.items():
        if lacking := len(record.cells) - len(loaded.results_of[path]):
            print_line(f"{path}: {lacking} of {len(record.cells)} cells are not finished and left out", err=True)
    selected = select_results(loaded.results, conditions)
    board = rank_networks(selected, loaded.open_archive(), loaded.find_commands, sort)
    title = next(iter(loaded.records.values())).title
    print_listing(list_leaderboard(board, top), title, describe_leaderboard(board), form, as_json, about=board.about)
