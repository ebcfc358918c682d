"""The documentation says what is true: commands parse, options exist, files are there."""

import re
import shlex
from pathlib import Path

import click
import pytest

from posenet_store.cli import main
from posenet_store.heads.protocols import PROTOCOLS
from posenet_store.sweep.spec import SweepSpec

ROOT = Path(__file__).parents[1]
DOCUMENTS = [
    ROOT / name
    for name in (
        "README.md",
        "CONTRIBUTING.md",
        "stores/README.md",
        "pipeline/README.md",
        "docs/faults.md",
        "docs/findings.md",
        "docs/tutorial.md",
        "docs/cluster.md",
    )
]
README = DOCUMENTS[0].read_text(encoding="utf-8")
COMMANDS = re.findall(r"^python cli\.py (.+?)(?:\s+#.*)?$", README, re.MULTILINE)


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_of_the_readme_parses(line: str) -> None:
    name, *words = shlex.split(line)
    command = main.commands[name]
    context = command.make_context(name, words, resilient_parsing=False)
    assert isinstance(context, click.Context)


def test_the_readme_has_commands() -> None:
    assert len(COMMANDS) >= 7


def test_every_command_is_in_the_readme() -> None:
    for name in main.commands:
        assert f"`{name}" in README, name


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_named_files_exist(document: Path) -> None:
    names = re.findall(r"`((?:src|pipeline|tests|benchmarks|stores|docs)/[\w/.]+\.(?:py|toml|md|sh))`", document.read_text())
    for name in names:
        assert (ROOT / name).exists(), name


def test_every_experiment_is_in_the_list() -> None:
    listed = (ROOT / "pipeline/README.md").read_text()
    for path in (ROOT / "pipeline/experiments").glob("*.toml"):
        assert f"`{path.name}`" in listed


def test_every_key_of_a_sweep_is_explained() -> None:
    listed = (ROOT / "pipeline/README.md").read_text()
    for key in set(SweepSpec.__dataclass_fields__) - {"recipes"}:
        assert f"`{key}`" in listed, key
    for name, protocol in PROTOCOLS.items():
        assert f"`[{name}]`" in listed
        for key in vars(protocol):
            assert key == "name" or f"`{key}`" in listed, key


def test_the_version_is_the_changelogs() -> None:
    newest = re.search(r"^## (\d+\.\d+\.\d+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest
    assert f'version = "{newest[1]}"' in (ROOT / "pyproject.toml").read_text()


def test_nothing_names_a_path_of_one_machine() -> None:
    # a user's home or work folder in a document or source would work for one person only
    personal = re.compile(r"/(?:work|root|home)/")
    for path in [*ROOT.glob("*.md"), *ROOT.glob("src/**/*.py"), *ROOT.glob("pipeline/**/*.*"), ROOT / "Makefile"]:
        assert not personal.search(path.read_text(encoding="utf-8")), path
