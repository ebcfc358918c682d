"""compare: show how heads of two runs differ."""

from pathlib import Path

import click

from posenet_store.cli.help import command
from posenet_store.cli.options import FIELDS, format_option, json_option, test_option, where_option
from posenet_store.cli.output import print_line, print_listing


@command(example="compare runs/a runs/b --where target=H")
@click.argument("runs", nargs=-1, required=True, metavar="RUN [RUN]", type=click.Path(path_type=Path))
@click.option(
    "--between", metavar="FIELD=A,B", help=f"Compare cells of one run instead, such as protocol=report-2020,ridge: {FIELDS}."
)
@test_option
@where_option
@format_option
@json_option
def compare(
    runs: tuple[Path, ...], between: str | None, tests: tuple[str, ...], conditions: tuple[str, ...], form: str, as_json: bool
) -> None:
    """Show how heads differ on the same images.

    Compares the heads of two runs, or of one with --between, with 95 % intervals. Seeds are pooled. Ends with a
    summary line for each test column.
    """
    from posenet_store.report.compare import compare_pairs, describe_sides, list_comparisons, summarise_comparisons
    from posenet_store.report.pairs import list_unpaired, pair_cells, read_sides
    from posenet_store.report.table import choose_columns

    sides = read_sides(runs, between, conditions)
    pairing = pair_cells(*sides)
    comparisons, refused = compare_pairs(pairing.pairs, choose_columns(sides[0].results + sides[1].results, tests))
    first, second = (
        text if between else f"{side.run} ({text})" if text else str(side.run)
        for side, text in zip(sides, describe_sides(comparisons), strict=True)
    )
    remark = (
        "More SPC is better, and less MAE. In brackets: 95 % interval of the mean over images and seeds (t). "
        "natural: held-out images."
    )
    print_listing(list_comparisons(comparisons), f"{second} minus {first}", remark, form, as_json, ruled=False)
    if form == "terminal" and not as_json:
        for line in summarise_comparisons(comparisons):
            print_line(line)
    for line in list_unpaired(sides, pairing):
        print_line(line, err=True)
    for reason, count in refused.items():
        print_line(f"{count} of {len(pairing.pairs)} pairs are not compared on {reason}", err=True)
