"""stores, inspect, table, compare, report: what is there, for people and for programs."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from posenet_store.cli.options import (
    console,
    human_bytes,
    json_option,
    print_json,
    print_table,
    printable,
    speed_line,
    stores_option,
)

if TYPE_CHECKING:
    from posenet_store.report.text_table import Listing


@click.command()
@stores_option
@json_option
def stores(root: Path, as_json: bool) -> None:
    """List the stores below the root: network, images, size, state, fingerprint."""
    from posenet_store.store.catalogue import stores as listed

    found, damaged = listed(root)
    for line in damaged:
        click.echo(f"damaged: {line}", err=True)
    facts = [entry.to_dict() for entry in found]
    if as_json:
        print_json(facts)
        return
    if not facts:
        click.echo(f"no store below {root}; make one: cli.py build-store --backbone vgg16 --images FOLDER", err=True)
        return
    names = [name for name in facts[0] if name != "fingerprint"]  # its first digits end the name
    print_table(names, [[human_bytes(f[n]) if n == "bytes" else str(f[n]) for n in names] for f in facts])


@click.command()
@click.argument("store", metavar="STORE")
@json_option
def inspect(store: str, as_json: bool) -> None:
    """Show what a store (a folder or a URL) holds: taps and their statistics, progress, quarantine, provenance."""
    from posenet_store.store.catalogue import entry
    from posenet_store.store.feature_statistics import deviation
    from posenet_store.store.reader import open_store

    facts, reader = entry(store).to_dict(), open_store(store, unsealed=True)
    arrays: dict[str, dict[str, Any]] = {}
    for name, shape in reader.spec.arrays.items():
        found = reader.manifest["statistics"][name]
        spread = {"std": deviation(found)} if found["count"] else {}
        arrays[name] = {"shape": [reader.spec.rows, *shape]} | found | spread
    made, bad = reader.plan.provenance, reader.manifest["quarantined"]
    if as_json:
        about = {"spec": reader.spec.to_dict(), "provenance": made, "summary": reader.manifest.get("summary")}
        print_json(facts | {"arrays": arrays, "quarantined": bad} | about)
        return
    for name, value in facts.items():
        click.echo(f"{name:12} {human_bytes(value) if name == 'bytes' else value}")
    for name, value in made.items():
        if name != "probe":
            shown = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
            click.echo(f"{name:12} {printable(str(shown))}")
    if (speed := reader.manifest.get("summary", {})).get("stages"):  # older stores' summaries have none
        memory = human_bytes(speed["peak_memory"])
        click.echo(f"{'build':12} {speed['extracted']} images, {speed_line(speed)}, {memory} of memory")
    keys = ("min", "max", "mean", "std", "zeros")
    rows = [
        [name, "x".join(map(str, a["shape"])), *(f"{a[k]:.4g}" if k in a else "" for k in keys)] for name, a in arrays.items()
    ]
    print_table(["array", "shape", *keys], rows)
    for one in bad:
        click.echo(f"quarantined: row {one['row']}, {printable(one['image_id'])}: {one['reason']}")


where_option = click.option(
    "--where", "conditions", multiple=True, metavar="FIELD=VALUE",
    help="Only cells with this value; repeatable: values of one field are alternatives, different fields must all hold.",
)  # fmt: skip
test_option = click.option(
    "--test", "tests", multiple=True, metavar="COLUMN",
    help="A test column, such as natural or photos; repeatable.  [default: the first in a ranking, all in a comparison]",
)  # fmt: skip
format_option = click.option(
    "--format", "form", type=click.Choice(["terminal", "markdown", "csv"]), default="terminal", show_default=True,
    help="How the table is written; csv has one line an entry, at full precision.",
)  # fmt: skip


def _print_listing(listing: "Listing", title: str, remark: str, form: str, as_json: bool, ruled: bool = True) -> None:
    if as_json:
        print_json(listing.records)
    elif form == "terminal":
        print_table(listing.head, listing.terminal(), title, ruled)
        console().print(remark)
    else:
        click.echo(listing.markdown() if form == "markdown" else listing.csv(), nl=form == "markdown")


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--by", multiple=True, metavar="FIELD,...",
    help="Rank groups of heads instead: network, images, input, target, kernel, padding, protocol, seed or a setting "
    "such as learning_rate; repeatable.  [default with an option below: what varies, seeds apart]",
)  # fmt: skip
@test_option
@where_option
@click.option("--sort", metavar="ORDER", help="spc, mae or a field of --by, with - for the largest first.  [default: -spc]")
@click.option("--top", type=click.IntRange(1), metavar="N", help="Only the first N rows.")
@format_option
@json_option
def table(
    run: Path, by: tuple[str, ...], tests: tuple[str, ...], conditions: tuple[str, ...], sort: str | None, top: int | None,
    form: str, as_json: bool,
) -> None:  # fmt: skip
    """Print a run as the report's Table 2, published numbers beside ours; with --by, rank groups of heads instead."""
    from posenet_store.report.ranking import BEST_FIRST, ranking
    from posenet_store.report.records import where
    from posenet_store.report.scores import ScoreArchive
    from posenet_store.report.table import chosen_columns, table2
    from posenet_store.sweep.results import load_run

    content, records = load_run(run)
    title = content["sweep"]["title"]
    if not (by or tests or conditions or sort or top):
        remark = (
            "natural: held-out images (ours), one photo (report), PASCAL-S (paper). Ours: mean [95 % interval over images and "
            "seeds], of one image ± deviation over seeds. p: permuted targets, corrected for all entries of this table (Holm)."
        )
        _print_listing(table2(records, ScoreArchive([run])), title, remark, form, as_json)
        return
    if lacking := len(content["cells"]) - len(records):
        click.echo(f"{lacking} of {len(content['cells'])} cells are not finished and left out", err=True)
    chosen = where(records, conditions)
    columns = chosen_columns(chosen, tests or list(chosen_columns(chosen))[:1])
    for shown, test in columns.items():
        if untested := sum(test not in record["scores"] for record in chosen):
            click.echo(f"{shown}: {untested} of {len(chosen)} heads were not tested on it, its means leave them out", err=True)
    remark = (
        "natural: held-out images. Mean over heads ± deviation over the seeds of a head; undef.: images without a rank order."
    )
    _print_listing(ranking(chosen, by, columns, sort or BEST_FIRST, top), title, remark, form, as_json, ruled=False)


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN [RUN]", type=click.Path(path_type=Path))
@click.option("--between", metavar="FIELD=A,B", help="Compare cells of one run instead, such as protocol=report-2020,ridge.")
@test_option
@where_option
@format_option
@json_option
def compare(
    runs: tuple[Path, ...], between: str | None, tests: tuple[str, ...], conditions: tuple[str, ...], form: str, as_json: bool
) -> None:
    """Show how heads of two runs, or of one with --between, differ on the same images, with 95 % intervals."""
    from posenet_store.report.compare import as_listing, compared, contrast
    from posenet_store.report.pairs import left_out, paired, read_sides
    from posenet_store.report.table import chosen_columns

    sides = read_sides(runs, between, conditions)
    pairing = paired(*sides)
    comparisons, refused = compared(pairing.pairs, chosen_columns(sides[0].records + sides[1].records, tests))
    first, second = (
        text if between else f"{side.run} ({text})" if text else str(side.run)
        for side, text in zip(sides, contrast(comparisons), strict=True)
    )
    remark = (
        "More SPC is better, and less MAE. In brackets: 95 % interval of the mean over images, 2,000 bootstrap resamples. "
        "natural: held-out images."
    )
    _print_listing(as_listing(comparisons), f"{second} minus {first}", remark, form, as_json)
    for line in left_out(sides, pairing):
        click.echo(printable(line), err=True)
    for reason, count in refused.items():
        click.echo(printable(f"{count} of {len(pairing.pairs)} pairs are not compared on {reason}"), err=True)


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="The page.  [default: report.html in the first run]")
@click.option(
    "--figures", type=click.Path(path_type=Path), metavar="DIR", help="Also write every figure as PNG and SVG into DIR."
)
def report(runs: tuple[Path, ...], out: Path | None, figures: Path | None) -> None:
    """Write one self-contained HTML page about one run or several: answers, Table 2, figures, every cell, how it was made."""
    from posenet_store.report.html.page import write_page
    from posenet_store.report.run import open_run
    from posenet_store.sweep.results import RunFiles

    click.echo(write_page(runs, out or RunFiles(runs[0]).page))
    if figures:
        for picture in open_run(*runs).pictures():
            for path in picture.save(figures):
                click.echo(path)
