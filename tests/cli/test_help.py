"""Help fits a terminal of 80 columns, and ends with an example that is accepted."""

import shlex
import subprocess
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from posenet_store.cli import main

ROOT = Path(__file__).parents[2]
COMMANDS = pytest.mark.parametrize("name", sorted(main.commands))


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal of 200 columns: lines are not longer there."""
    monkeypatch.setenv("COLUMNS", "200")


def get_help(*words: str) -> str:
    return CliRunner().invoke(main, [*words, "--help"]).stdout


@COMMANDS
def test_help_fits_80_columns(name: str) -> None:
    assert max(map(len, get_help(name).splitlines())) <= 80
    assert max(map(len, get_help().splitlines())) <= 80


@COMMANDS
def test_help_ends_with_an_example_that_is_accepted(name: str) -> None:
    program, command, *words = shlex.split(get_help(name).splitlines()[-1].partition(">")[0])
    assert (program, command) == ("posenet-store", name)
    with click.Context(main) as context:
        main.commands[name].make_context(name, words, parent=context)  # raises a usage error for a wrong option


def test_many_options_stand_under_headings_and_none_is_lost() -> None:
    text = get_help("build-store")
    for heading in ("Images:", "Network:", "Store:", "Where it runs:", "Output:"):
        assert f"\n{heading}\n" in text
    options = [option for option in main.commands["build-store"].params if isinstance(option, click.Option)]
    assert all(option.opts[0] in text for option in options)
    assert "\nOptions:\n" in get_help("stores")


def test_make_help_lists_every_target() -> None:
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert {"demo", "test", "check", "docs", "bench"} <= {line.split()[1] for line in done.stdout.splitlines()}
