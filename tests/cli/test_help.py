"""Help fits a terminal of 80 columns, and ends with an example that is accepted."""

import re
import shlex
import subprocess
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from posenet_store.backbones.checks import ALL_GPUS, DEVICES, WEIGHTS
from posenet_store.cli import main
from posenet_store.heads.targets import PATTERNS, TARGETS
from posenet_store.images.sources import NAMES
from posenet_store.images.transforms import ACCEPTED
from posenet_store.specs import PADDINGS
from posenet_store.sweep.inputs import FORMS
from posenet_store.sweep.tables import COLUMNS

ROOT = Path(__file__).parents[2]
CELL_FIELDS = COLUMNS[1:]
VALUES = {
    "--device": DEVICES,
    "--weights": [text.split()[0] if text != WEIGHTS[-1] else ".safetensors" for text in WEIGHTS],
    "--images": [*NAMES, "synthetic:dead-leaves", *re.findall(r"\b[a-z]+(?::[A-Z:]+|(?=,|;))", ACCEPTED)],
    "--target": [*TARGETS, *PATTERNS],
    "--input": FORMS.split(", "),
    "--paddings": PADDINGS,
    "--taps": ["report", "official", "every:N"],
    "--scheduler": ["local", "slurm", "slurm:FILE", "ADDR"],
    "--by": CELL_FIELDS,
    "--where": CELL_FIELDS,
    "--between": CELL_FIELDS,
}
"""What the parsers of options accept."""
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


@COMMANDS
def test_the_list_of_commands_has_complete_sentences(name: str) -> None:
    command = main.commands[name]
    for described in (command, *getattr(command, "commands", {}).values()):
        sentence = described.help.split("\n\n")[0]
        assert len(sentence) <= 60
        assert described.get_short_help_str(60) == sentence


@COMMANDS
def test_help_lists_what_an_option_accepts(name: str) -> None:
    with click.Context(main.commands[name]) as context:
        for option in main.commands[name].params:
            if isinstance(option, click.Option) and option.opts[0] in VALUES:
                text = " ".join(option.get_help_record(context) or ())
                assert [value for value in VALUES[option.opts[0]] if value not in text] == []
    assert ALL_GPUS in get_help("build-store")


@COMMANDS
def test_help_lists_no_arguments_among_options(name: str) -> None:
    arguments = [
        each.make_metavar(click.Context(main)) for each in main.commands[name].params if isinstance(each, click.Argument)
    ]
    assert not {line.strip() for line in get_help(name).splitlines()} & {*arguments}
