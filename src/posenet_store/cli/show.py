"""stores, inspect, table, report: what is there, for people and for programs."""

from pathlib import Path
from typing import Any

import click

from posenet_store.cli.options import console, human_bytes, json_option, print_json, print_table, printable, stores_option


@click.command()
@stores_option
@json_option
def stores(root: Path, as_json: bool) -> None:
    """List the stores below the root: network, images, size, state, fingerprint."""
    from posenet_store.catalogue import stores as listed

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
    from posenet_store.catalogue import entry
    from posenet_store.reader import open_store
    from posenet_store.summary import deviation

    facts, reader = entry(store).to_dict(), open_store(store, unsealed=True)
    arrays: dict[str, dict[str, Any]] = {}
    for name, shape in reader.spec.arrays.items():
        found = reader.manifest["statistics"][name]
        spread = {"std": deviation(found)} if found["count"] else {}
        arrays[name] = {"shape": [reader.spec.rows, *shape]} | found | spread
    made, bad = reader.plan.provenance, reader.manifest["quarantined"]
    if as_json:
        print_json(facts | {"arrays": arrays, "quarantined": bad, "spec": reader.spec.to_dict(), "provenance": made})
        return
    for name, value in facts.items():
        click.echo(f"{name:12} {human_bytes(value) if name == 'bytes' else value}")
    for name, value in made.items():
        if name != "probe":
            shown = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
            click.echo(f"{name:12} {printable(str(shown))}")
    keys = ("min", "max", "mean", "std", "zeros")
    rows = [
        [name, "x".join(map(str, a["shape"])), *(f"{a[k]:.4g}" if k in a else "" for k in keys)] for name, a in arrays.items()
    ]
    print_table(["array", "shape", *keys], rows)
    for one in bad:
        click.echo(f"quarantined: row {one['row']}, {printable(one['image_id'])}: {one['reason']}")


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--format", "form", type=click.Choice(["terminal", "markdown", "csv"]), default="terminal", show_default=True)
@json_option
def table(run: Path, form: str, as_json: bool) -> None:
    """Print a run as the report's Table 2, published numbers beside ours."""
    from posenet_store.report.table import as_csv, as_markdown, as_records, as_rows, table_lines
    from posenet_store.results import load_run

    content, records = load_run(run)
    lines = table_lines(records)
    if as_json:
        print_json(as_records(lines))
    elif form == "terminal":
        head, rows = as_rows(lines)
        print_table(head, rows, content["sweep"]["title"], ruled=True)
        console().print(
            "natural: held-out images (ours), one photo (report), PASCAL-S (paper). Ours: mean ± deviation over seeds."
        )
    else:
        click.echo(as_markdown(lines) if form == "markdown" else as_csv(lines), nl=form == "markdown")


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="The page.  [default: report.html in the first run]")
def report(runs: tuple[Path, ...], out: Path | None) -> None:
    """Write one self-contained HTML page about one run or several: Table 2, Figures 3-5, how it was made."""
    from posenet_store.report.page import write_page
    from posenet_store.results import RunFiles

    click.echo(write_page(runs, out or RunFiles(runs[0]).page))
