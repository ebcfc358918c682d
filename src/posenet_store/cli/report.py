"""report: write the page and the figures."""

from pathlib import Path

import click

from posenet_store.cli.help import command
from posenet_store.cli.output import print_path
from posenet_store.files import check_file_path, check_writable


@command(example="report runs/table2 --figures figures")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="File of the page.  [default: report.html in the run; for several runs a file beside them]",
)
@click.option(
    "--figures", type=click.Path(path_type=Path), metavar="DIR", help="Also write every figure as PNG and SVG into DIR."
)
def report(runs: tuple[Path, ...], out: Path | None, figures: Path | None) -> None:
    """Write the page of one or more runs.

    The HTML file is self-contained: answers, Table 2, figures, all cells, provenance.
    """
    if out:
        check_file_path(out, "--out")
    if figures:
        check_writable(figures, "--figures")

    from posenet_store.report.html.page import choose_page, write_page
    from posenet_store.report.run import open_run

    print_path(write_page(runs, out or choose_page(runs)))
    if figures:
        for picture in open_run(*runs).pictures():
            for path in picture.save(figures):
                print_path(path)
