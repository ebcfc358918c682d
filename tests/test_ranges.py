"""Numbers that users and strangers set: each has a range that is said, in files and on the command line."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import click
import pytest

from posenet_store.backbones.checks import check_weights
from posenet_store.cli import main
from posenet_store.errors import UsageError
from posenet_store.heads.protocols import PROTOCOLS
from posenet_store.parallel.slurm import SlurmSettings, load_slurm_settings
from posenet_store.sweep.spec import SweepSpec, load_sweep
from posenet_store.toml_config import RANGES, check_range, parse_whole_number, read_toml
from tests.support.runs import cli

HUGE = ("nan", "inf", "-inf", str(10**18), "-" + "9" * 400, "9" * 5000, "0x" + "f" * 40_000, "1e308", "true", "1979-05-27")


def list_numbers() -> list[tuple[str, str]]:
    """Return (section, key) of every key of a TOML file whose value is a number, or a list of numbers."""

    def is_number(value: Any) -> bool:
        value = value[0] if isinstance(value, tuple) and value else value
        return isinstance(value, int | float) and not isinstance(value, bool)

    tables: dict[str, Any] = {"": SweepSpec(""), **PROTOCOLS, "slurm": SlurmSettings()}
    return [(name, key.name) for name, table in tables.items() for key in fields(table) if is_number(getattr(table, key.name))]


@pytest.mark.parametrize(("section", "key"), list_numbers())
def test_every_number_of_a_file_has_a_range_that_is_said(tmp_path: Path, section: str, key: str) -> None:
    assert key in RANGES
    load: Any = load_slurm_settings if section == "slurm" else load_sweep
    for text in HUGE:
        for value in (text, f"[{text}]", f"[{text}, 1]"):
            path = tmp_path / "my.toml"
            path.write_text(f"[{section}]\n{key} = {value}\n" if section not in ("", "slurm") else f"{key} = {value}\n")
            with pytest.raises(UsageError, match=r"not accepted|not valid TOML") as caught:
                load(path)
            assert len(str(caught.value).removeprefix(str(path))) < 500


def test_every_option_that_is_a_number_has_bounds() -> None:
    for command in main.commands.values():
        for option in command.params:
            kind = option.type
            assert kind is not click.INT, (command.name, option.name)
            assert kind is not click.FLOAT, (command.name, option.name)
            if isinstance(kind, click.IntRange | click.FloatRange):
                assert None not in (kind.min, kind.max), (command.name, option.name)


@pytest.mark.parametrize("number", ["0", "-1", str(10**18), "9" * 5000, "nan", "1e3", ""])
def test_a_number_out_of_its_range_is_a_usage_error_of_the_command_line(number: str) -> None:
    images = ("build-store", "--backbone", "pixels", "--images", "probes")
    for words in (
        ("--batch-size", number),
        ("--limit", number),
        ("--size", number),
        ("--part", f"1/{number}"),
        ("--workers", number),
    ):
        result = cli(*images, *words)
        assert result.exit_code == 2, (words, result.output)
        assert words[0] in result.stderr


@pytest.mark.parametrize("seed", ["", "-1", "x", str(2**32), "9" * 5000, "\u0663"])
def test_the_seed_of_random_weights_has_a_range(seed: str) -> None:
    with pytest.raises(UsageError, match="whole number from 0 to 4,294,967,295"):
        check_weights(f"random:{seed}", "resnet18")
    check_weights(f"random:{2**32 - 1}", "resnet18")


def test_the_ends_of_a_range_are_accepted() -> None:
    for name, (low, high) in RANGES.items():
        check_range(name, low, name)
        check_range(name, high, name)
    assert parse_whole_number("seeds", "007", "seed") == 7


CRAFTED = {
    "lists in lists": "x = " + "[" * 30_000,
    "tables in tables": "x = " + "{a = " * 10_000,
    "dots": "a." * 30_000 + "a = 1",
    "dots of a table": "[" + "a." * 30_000 + "a]",
    "large": "#" * 10**6,
    "no text": "\x00",
    "a whole number of 5,000 digits": "x = " + "9" * 5000,
}


@pytest.mark.parametrize("text", CRAFTED.values(), ids=CRAFTED)
@pytest.mark.timeout(10)
def test_a_crafted_toml_file_is_one_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "my.toml").write_text(text)
    with pytest.raises(UsageError, match=r"not valid TOML|too large") as caught:
        read_toml(tmp_path / "my.toml", "sweep file", "")
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "text",
    [
        f"seeds = {list(range(100_000 // 5 + 1))}".replace(" ", ""),
        "[report-2020]\n" + "\n".join(f"{key} = {list(range(2, 52))}" for key in ("epochs", "batch_size", "drop", "min_steps")),
        "kernels = [1, 3, 5]\npaddings = [0, 1, 2]\nseeds = " + str(list(range(3000))),
    ],
)
@pytest.mark.timeout(10)
def test_a_sweep_of_too_many_heads_is_refused_before_they_are_made(tmp_path: Path, text: str) -> None:
    (tmp_path / "my.toml").write_text(text)
    with pytest.raises(UsageError, match=r"100,000 are the most|too large"):
        load_sweep(tmp_path / "my.toml")


@pytest.mark.parametrize("key", ["partition", "account", "memory", "walltime", "log_directory", "interface"])
def test_a_setting_of_slurm_is_no_line_of_a_script(tmp_path: Path, key: str) -> None:
    (tmp_path / "slurm.toml").write_text(f'{key} = "x\\ntouch ran"\n')
    with pytest.raises(UsageError, match="texts of one line"):
        load_slurm_settings(tmp_path / "slurm.toml")
