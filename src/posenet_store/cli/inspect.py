"""inspect: show what one store holds."""

from pathlib import Path
from typing import Any

import click

from posenet_store.cli.help import command
from posenet_store.cli.options import json_option
from posenet_store.cli.output import (
    describe_speed,
    format_bytes,
    print_facts,
    print_json,
    print_path,
    print_quarantined,
    print_table,
    print_text,
)
from posenet_store.errors import UsageError


@command(example="inspect stores/vgg16-photos-0a1b2c3d")
@click.argument("store", metavar="STORE")
@click.option("--card", is_flag=True, help="Print a model card instead: Markdown for a README.md, as dataset hubs expect it.")
@click.option("--out", type=click.Path(path_type=Path), help="File of the card; one that exists is never replaced.")
@json_option
def inspect(store: str, card: bool, out: Path | None, as_json: bool) -> None:
    """Show what a store holds.

    Of a folder or a URL: taps and their statistics, progress, quarantine, provenance.
    """
    if card or out:
        _print_card(store, card, out, as_json)
        return
    from posenet_store.store.catalogue import describe_store
    from posenet_store.store.feature_statistics import compute_deviation
    from posenet_store.store.reader import open_store

    facts, reader = describe_store(store).to_dict(), open_store(store, unsealed=True)
    arrays: dict[str, dict[str, Any]] = {}
    for name, shape in reader.spec.arrays.items():
        statistics = reader.manifest["statistics"][name]
        deviation = {"std": compute_deviation(statistics)} if statistics["count"] else {}
        arrays[name] = {"shape": [reader.spec.rows, *shape]} | statistics | deviation
    provenance, quarantined = reader.plan.provenance, reader.manifest["quarantined"]
    if as_json:
        about = {"spec": reader.spec.to_dict(), "provenance": provenance, "summary": reader.manifest.get("summary")}
        print_json(facts | {"arrays": arrays, "quarantined": quarantined} | about)
        return
    shown = facts | {"bytes": format_bytes(facts["bytes"])}
    for name, value in provenance.items():
        if name != "probe":
            shown[name] = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
    if (speed := reader.manifest.get("summary", {})).get("stages"):  # a copy has none, nor has a store that is not complete
        memory = format_bytes(speed["peak_memory"])
        shown["build"] = f"{speed['extracted']} images, {describe_speed(speed)}, {memory} of memory"
    print_facts(shown)
    keys = ("min", "max", "mean", "std", "zeros")
    rows = [
        [name, "x".join(map(str, a["shape"])), *(f"{a[k]:.4g}" if k in a else "" for k in keys)] for name, a in arrays.items()
    ]
    print_table(["array", "shape", *keys], rows)
    print_quarantined(quarantined)


def _print_card(store: str, card: bool, out: Path | None, as_json: bool) -> None:
    """Print the model card, or write it to `out` and print its path."""
    if not card:
        raise UsageError("--out is the file of a model card; add --card, or leave --out out")
    if as_json:
        raise UsageError("--card prints Markdown, --json the facts; leave one of them out")
    from posenet_store.store.card import make_card, write_card

    if out:
        print_path(write_card(store, out))
    else:
        print_text(make_card(store))
