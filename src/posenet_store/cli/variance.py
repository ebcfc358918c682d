"""variance: show how much of the features' variance is position."""

from pathlib import Path

import click

from posenet_store.cli.help import command
from posenet_store.cli.options import format_option, json_option
from posenet_store.cli.output import print_line, print_listing, print_path, show_steps
from posenet_store.files import check_writable


@command(example="variance stores/vgg16-photos-0a1b2c3d --figures figures")
@click.argument("stores", nargs=-1, required=True, metavar="STORE...")
@click.option("--channels", is_flag=True, help="A row a channel, of each stage the largest share first.")
@click.option("--keep-moments/--no-keep-moments", default=True, show_default=True,
              help="Keep the summed moments in the stores' folder: later commands then read no features.")  # fmt: skip
@click.option(
    "--figures", type=click.Path(path_type=Path), metavar="DIR", help="Also draw it as PNG and SVG in DIR, all stores together."
)
@format_option
@json_option
def variance(
    stores: tuple[str, ...], channels: bool, keep_moments: bool, figures: Path | None, form: str, as_json: bool
) -> None:
    """Show how much of the features' variance is position.

    No head is trained. Reads sums that a sweep keeps, and features only where there are none. Of several stores (trained beside
    untrained) a table each.
    """
    if figures:
        check_writable(figures, "--figures")

    from posenet_store.report.variance import REMARK, describe_store, list_channels, list_stages
    from posenet_store.sweep.variance import compute_variance

    variances = []
    for store in stores:
        with show_steps(store, "spans") as advance:
            variances.append(compute_variance(store, keep_moments, advance))
    paths = list[Path]()
    if figures:
        from posenet_store.report.figures.variance import draw_variance

        paths = draw_variance(variances).save(figures)  # before the table, whose reader may go away
    make_listing = list_channels if channels else list_stages
    if as_json or form != "terminal":
        print_listing(make_listing(variances), "", "", form, as_json)
    else:
        for entry in variances:
            remark = REMARK if entry is variances[-1] else ""
            print_listing(make_listing([entry]), describe_store(entry), remark, form, as_json, ruled=False)
    for path in paths:
        print_line(path, err=True) if as_json or form != "terminal" else print_path(path)
