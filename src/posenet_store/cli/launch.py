"""launch: list the files that start jobs on a cluster, and print one to change it."""

import click

from posenet_store.cli.output import print_text
from posenet_store.errors import unknown


@click.group(invoke_without_command=True, epilog="\b\nExample:\n  posenet-store launch show extract.sbatch > extract.sbatch")
@click.pass_context
def launch(context: click.Context) -> None:
    """List the files that start jobs on a cluster, each with its purpose; they come with the package."""
    if context.invoked_subcommand:
        return
    from posenet_store.parallel.slurm import list_launch_files

    for path in list_launch_files():
        purpose = next(line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("# "))
        print_text(click.wrap_text(f"{path.name:18}{purpose.removeprefix('# ')}", 79, subsequent_indent=" " * 18))


@launch.command()
@click.argument("name")
def show(name: str) -> None:
    """Print a file: `launch show slurm.toml > slurm.toml`, change it, then `--scheduler slurm:slurm.toml`."""
    from posenet_store.parallel.slurm import list_launch_files

    paths = {path.name: path for path in list_launch_files()}
    if name not in paths:
        raise unknown("launch file", name, paths)
    print_text(paths[name].read_text(encoding="utf-8"))
