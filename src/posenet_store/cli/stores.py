"""stores: list the stores of a folder."""

from pathlib import Path

import click

from posenet_store.cli.help import command
from posenet_store.cli.options import json_option, stores_option
from posenet_store.cli.output import format_bytes, print_json, print_line, print_table
from posenet_store.cli.prune import remove_after_question, yes_option


@command(example="stores --stores /data/stores")
@stores_option
@click.option("--remove", "removed", multiple=True, metavar="NAME", help="Remove a store with its moments, after a question.")
@yes_option
@json_option
def stores(root: Path, removed: tuple[str, ...], yes: bool, as_json: bool) -> None:
    """List the stores of a folder."""
    from posenet_store.store.catalogue import describe_outdated, list_stores

    if removed:
        from posenet_store.store.removal import find_store

        remove_after_question([removal for name in dict.fromkeys(removed) for removal in find_store(root, name)], yes)
        return
    entries, damaged = list_stores(root)
    for line in damaged:
        print_line(f"damaged: {line}", err=True)
    for line in describe_outdated(entries):
        print_line(f"note: {line}", err=True)
    facts = [entry.to_dict() for entry in entries]
    if as_json:
        print_json(facts)
        return
    if not facts:
        program = click.get_current_context().find_root().info_name
        print_line(f"no store in {root}; build one: {program} build-store --backbone vgg16 --images FOLDER", err=True)
        return
    names = [name for name in facts[0] if name != "fingerprint"]  # its first digits end the name
    print_table(names, [[format_bytes(f[n]) if n == "bytes" else str(f[n]) for n in names] for f in facts])
