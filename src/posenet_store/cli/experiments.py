"""experiments: list the sweeps that come with the package, and print one to change it."""

import click

from posenet_store.cli.options import json_option
from posenet_store.cli.output import print_json, print_table, print_text


@click.group(invoke_without_command=True, epilog="\b\nExample:\n  posenet-store experiments show table2 > mine.toml")
@json_option
@click.pass_context
def experiments(context: click.Context, as_json: bool) -> None:
    """List the named experiments with their questions.

    `sweep NAME` runs one.
    """
    if context.invoked_subcommand:
        return
    from posenet_store.sweep.spec import list_experiments

    listed = list_experiments()
    if as_json:
        print_json([vars(experiment) | {"path": str(experiment.path)} for experiment in listed])
        return
    print_table(["experiment", "question"], [[experiment.name, experiment.question] for experiment in listed])


@experiments.command()
@click.argument("name")
def show(name: str) -> None:
    """Print the TOML file of an experiment, to change it.

    `experiments show table2 > mine.toml`, then `sweep mine.toml`.
    """
    from posenet_store.sweep.spec import find_experiment

    print_text(find_experiment(name).read_text(encoding="utf-8"))
