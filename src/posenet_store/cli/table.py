"""table: print a run as Table 2 or as a ranking."""

from pathlib import Path

import click

from posenet_store.cli.help import command
from posenet_store.cli.options import FIELDS, format_option, int_range, json_option, test_option, where_option
from posenet_store.cli.output import print_line, print_listing


@command(example="table runs/table2 --by network,target --top 10")
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--by", multiple=True, metavar="FIELD,...",
    help=f"Rank groups of heads instead: {FIELDS}; repeatable.  [default with an option below: what varies, seeds apart]",
)  # fmt: skip
@test_option
@where_option
@click.option("--sort", metavar="ORDER", help="spc, mae or a field of --by, with - for the largest first.  [default: -spc]")
@click.option(
    "--permuted", is_flag=True,
    help="Add the p of permuted positions (Edgington's test), which for smooth maps is far too small: at a level of .05 it "
    "errs in four of ten ramps.",
)  # fmt: skip
@click.option("--top", type=int_range("rows_shown"), metavar="N", help="Only the first N rows.")
@format_option
@json_option
def table(
    run: Path, by: tuple[str, ...], tests: tuple[str, ...], conditions: tuple[str, ...], sort: str | None, top: int | None,
    permuted: bool, form: str, as_json: bool,
) -> None:  # fmt: skip
    """Print a run as the report's Table 2, or rank its heads.

    Table 2 is compared with the published numbers; --by ranks groups of heads.
    """
    from posenet_store.report.load import load_runs
    from posenet_store.report.ranking import BEST_FIRST, rank_heads
    from posenet_store.report.records import select_results
    from posenet_store.report.table import choose_columns, make_table2

    loaded = load_runs([run])
    record, results = loaded.records[run], loaded.results
    if not (by or tests or conditions or sort or top):
        remark = (
            "natural: held-out images (ours), one photo (report), PASCAL-S (paper). Ours: mean [95 % interval over images and "
            "seeds], of one image ± deviation over seeds. p: t test over images and seeds, corrected for all entries (Holm)."
        )
        print_listing(make_table2(results, loaded.open_archive(), permuted), record.title, remark, form, as_json)
        return
    if lacking := len(record.cells) - len(results):
        print_line(f"{lacking} of {len(record.cells)} cells are not finished and left out", err=True)
    selected = select_results(results, conditions)
    columns = choose_columns(selected, tests or list(choose_columns(selected))[:1])
    for shown, test in columns.items():
        if untested := sum(test not in result.scores for result in selected):
            print_line(
                f"{shown}: {untested} of {len(selected)} heads were not tested on it, its means leave them out", err=True
            )
    remark = (
        "natural: held-out images. Mean over heads ± deviation over the seeds of a head; undef.: images without a rank order."
    )
    print_listing(rank_heads(selected, by, columns, sort or BEST_FIRST, top), record.title, remark, form, as_json, ruled=False)
