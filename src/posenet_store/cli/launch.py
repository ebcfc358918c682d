"""launch: list the files that start jobs on a cluster, and print one to change it."""

from pathlib import Path

import click

from posenet_store.cli.output import print_table, print_text
from posenet_store.errors import unknown


@click.group(invoke_without_command=True, epilog="\b\nExample:\n  posenet-store launch show extract.sbatch > extract.sbatch")
@click.pass_context
def launch(context: click.Context) -> None:
    """List the files that start jobs on a cluster.

    They come with the package.
    """
    if context.invoked_subcommand:
        return
    from posenet_store.parallel.slurm import list_launch_files

    print_table(["file", "purpose"], [[path.name, _read_purpose(path)] for path in list_launch_files()])


def _read_purpose(path: Path) -> str:
    """Return the first comment of a file."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return next(line for line in lines if line.startswith("# ")).removeprefix("# ")


@launch.command()
@click.argument("name")
def show(name: str) -> None:
    """Print a file, to change it.

    `launch show slurm.toml > slurm.toml`, then `--scheduler slurm:slurm.toml`.
    """
    from posenet_store.parallel.slurm import list_launch_files

    paths = {path.name: path for path in list_launch_files()}
    if name not in paths:
        raise unknown("launch file", name, paths)
    print_text(paths[name].read_text(encoding="utf-8"))
