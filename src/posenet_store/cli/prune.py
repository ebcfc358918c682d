"""prune: remove what no store and no sweep needs."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from posenet_store.cli.help import command
from posenet_store.cli.options import stores_option
from posenet_store.cli.output import format_bytes, print_line, print_table
from posenet_store.errors import UsageError

if TYPE_CHECKING:
    from posenet_store.store.removal import Removal

yes_option = click.option("--yes", is_flag=True, help="Remove without a question; needed where nobody can answer.")


@command(example="prune --stores stores --older")
@stores_option
@click.option("--older", is_flag=True, help="Also stores whose network and image folder are called as a newer store's.")
@yes_option
def prune(root: Path, older: bool, yes: bool) -> None:
    """Remove what stores and builds left behind, after a question.

    These are kept moments of stores that are gone, and temporaries of killed builds. Temporaries of processes that
    live stay, and those of other machines that have changed in the last hour.
    """
    from posenet_store.store.removal import find_leftovers

    if removals := find_leftovers(root, older):
        remove_after_question(removals, yes)
    else:
        print_line(f"nothing to remove in {root}", err=True)


def remove_after_question(removals: "Sequence[Removal]", yes: bool) -> None:
    """List what would be removed with sizes, ask, remove it and say so; raises UsageError where nobody can answer."""
    from posenet_store.store.removal import remove

    print_table(["size", "path", "reason"], [[format_bytes(r.bytes), str(r.path), r.reason] for r in removals])
    total = f"{len(removals)} entries, {format_bytes(sum(removal.bytes for removal in removals))}"
    if not yes and not sys.stdin.isatty():
        raise UsageError(f"nothing is removed: nobody can be asked here about {total}; give --yes")
    if not yes and not click.confirm(f"remove {total}?"):
        print_line("nothing is removed", err=True)
        return
    for removal in removals:
        remove(removal)
    print_line(f"removed {total}", err=True)
