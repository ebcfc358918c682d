"""bench: the benchmarks of a checkout, each of which measures ratios in one run against named baselines."""

import subprocess
import sys
from pathlib import Path

import click

from posenet_store.errors import UsageError

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
NAMES = ("reason", "store", "extract", "shuffle", "sweep", "streaming", "scaling")


@click.command(context_settings={"ignore_unknown_options": True}, options_metavar="[--json]")
@click.argument("name", type=click.Choice(NAMES))
@click.argument("options", nargs=-1, type=click.UNPROCESSED, metavar="")
def bench(name: str, options: tuple[str, ...]) -> None:
    """Measure speed as ratios against named baselines: reason (no store), store (its codec, h5py), extract (the network
    alone, the report's extractor), shuffle (a full one), sweep (the report's loop, a plain one), streaming (a limit of
    memory), scaling (a straight line).

    --json prints a flat object of ratios; `python benchmarks/NAME.py --help` says what each means.
    """
    script = BENCHMARKS / f"{name}.py"
    if not script.is_file():
        raise UsageError(f"{script} is missing: benchmarks come with a checkout of the project, not with the package")
    command = [sys.executable, str(script), *options]
    raise click.exceptions.Exit(subprocess.run(command, check=False).returncode)  # noqa: S603 - our own script
