"""The documentation says what is true: commands parse, options and files exist, examples run, rendered files are up to date."""

import doctest
import importlib.util
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import click
import pytest
import yaml  # type: ignore[import-untyped]

from posenet_store.cli import main
from posenet_store.heads.protocols import PROTOCOLS
from posenet_store.sweep.spec import SweepSpec
from tests.support.runs import cell, constant, write

ROOT = Path(__file__).parents[1]
DOCUMENTS = [
    *ROOT.glob("*.md"),
    *(path for path in ROOT.glob("docs/**/*.md") if not path.name.endswith(".template.md")),
    ROOT / "stores/README.md",
    ROOT / "pipeline/README.md",
]
README = (ROOT / "README.md").read_text(encoding="utf-8")
LANGUAGES = {"sh", "python", "toml", ""}


def label(path: Path) -> str:
    return str(path.relative_to(ROOT))


def read_blocks(path: Path, language: str) -> list[str]:
    """Return the code blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def list_commands() -> list[tuple[str, str]]:
    """Return (document, line) of every command that the documents show."""
    blocks = ((label(path), block) for path in DOCUMENTS for block in read_blocks(path, "sh"))
    lines = ((name, line.strip()) for name, block in blocks for line in block.splitlines())
    return [(name, line) for name, line in lines if line.startswith("posenet-store ") and "..." not in line]


@pytest.mark.parametrize(("document", "line"), list_commands())
def test_every_command_parses(document: str, line: str) -> None:
    _, name, *words = shlex.split(line.replace("$padding", "none").rstrip("&"), comments=True)
    assert isinstance(main.commands[name].make_context(name, words), click.Context)


def test_every_command_is_in_the_list_of_commands() -> None:
    listed = (ROOT / "docs/how-to/index.md").read_text(encoding="utf-8")
    for name in main.commands:
        assert f"| `{name}" in listed, name


def test_the_readme_is_short() -> None:
    assert README.count("\n") <= 100


def test_the_examples_of_the_readme_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for block in read_blocks(ROOT / "README.md", "python"):
        exec(compile(block, "README.md", "exec"), {})


@pytest.mark.parametrize("path", DOCUMENTS, ids=label)
def test_named_files_and_links_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for name in re.findall(r"`((?:src|pipeline|tests|benchmarks|stores|docs)/[\w/.]+\.(?:py|toml|md|sh))`", text):
        assert (ROOT / name).exists(), name
    for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        assert link.startswith(("http://", "https://")) or (path.parent / link).exists(), link


def test_rendered_files_are_up_to_date() -> None:
    command = [sys.executable, str(ROOT / "docs/render.py"), "--check"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def load_script(name: str) -> Any:
    """Return a script of docs/, which is no module of a package, and finds the others beside it."""
    sys.path.insert(0, str(ROOT / "docs"))
    spec = importlib.util.spec_from_file_location(name, ROOT / f"docs/{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["excerpt", "findings", "rates", "render"])
def test_examples_of_scripts_are_true(name: str) -> None:
    results = doctest.testmod(load_script(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert results.attempted and not results.failed


def test_the_readme_has_the_excerpt_of_the_demo() -> None:
    excerpt = load_script("excerpt")
    (block,) = excerpt.BLOCK.findall(README)
    assert block[1] == "```\n" and README.count("\nnetwork   ") == 1


def test_tables_of_findings_are_those_that_the_page_has() -> None:
    findings = load_script("findings")
    shown = [name for _, name, _ in findings.TABLE.findall(findings.PAGE.read_text(encoding="utf-8"))]
    assert sorted(shown) == sorted(name for tables in findings.SETS.values() for name in tables)


def test_tables_of_findings_come_from_runs(tmp_path: Path) -> None:
    findings = load_script("findings")
    scores = {1: [0.25, 0.35], 3: [0.5, 0.75]}
    cells = [cell({"held-out": (scores[kernel], [0.2, 0.2])}, "vgg16-hed", kernel=kernel) for kernel in scores]
    write(tmp_path / "kernel_size", [*cells, cell(constant(0.9), "vgg16-hed", target="V", kernel=1)])
    columns, rows = {"1": "kernel=1", "3": "kernel=3"}, {"VGG-16": ("network=vgg16-hed",)}
    table = findings.collect(findings.Table("kernel_size", ("target=H",), columns, rows), tmp_path)
    half = 12.7062 * 0.05  # Student's t of one degree of freedom, times the standard error of .25 and .35
    assert table["rows"][0][1][0] == pytest.approx([0.3, max(0.3 - half, -1), min(0.3 + half, 1)], abs=1e-4)
    page = findings.render_findings("<!-- table: x -->\nold\n<!-- /table -->", {"x": table})
    row = "| VGG-16 | .30 ±.64 | .62 [-.96, 1.00] |"
    assert page == f"<!-- table: x -->\n| | 1 | 3 |\n|---|---|---|\n{row}\n<!-- /table -->"
    with pytest.raises(ValueError, match="2 kinds of heads"):
        findings.collect(findings.Table("kernel_size", (), columns, rows), tmp_path)


def test_every_page_is_in_the_navigation() -> None:
    listed = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for path in ROOT.glob("docs/**/*.md"):
        name = str(path.relative_to(ROOT / "docs"))
        assert name.endswith(".template.md") or re.search(rf"(?:- |: ){re.escape(name)}$", listed, re.MULTILINE), name


def test_every_threat_names_a_test() -> None:
    text = (ROOT / "docs/threats.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith("| what is sent")]
    assert len(rows) > 25
    for row in rows:
        named = re.search(r"`(tests/[\w/]+\.py)`, `(test_\w+)` \|$", row)
        assert named, row
        assert f"def {named[2]}(" in (ROOT / named[1]).read_text(encoding="utf-8"), row


def test_every_experiment_is_in_the_list() -> None:
    listed = (ROOT / "pipeline/README.md").read_text(encoding="utf-8")
    for path in (ROOT / "pipeline/experiments").glob("*.toml"):
        assert f"`{path.name}`" in listed


def test_every_key_of_a_sweep_is_explained() -> None:
    listed = (ROOT / "pipeline/README.md").read_text(encoding="utf-8")
    for key in set(SweepSpec.__dataclass_fields__) - {"recipes"}:
        assert f"`{key}`" in listed, key
    for name, protocol in PROTOCOLS.items():
        assert f"`[{name}]`" in listed
        for key in vars(protocol):
            assert key == "name" or f"`{key}`" in listed, key


def run_script(name: str, folder: Path, failing: str = "none") -> tuple[int, list[list[str]]]:
    """Run a script of pipeline/ with a command line that only writes down its words; return its exit code and the commands."""
    log, stub = folder / "commands", folder / "python"
    stub.write_text(f'#!/bin/sh\nshift\nprintf "%s\\t" "$@" >> "{log}"\necho >> "{log}"\necho store\n[ "$1" != {failing} ]\n')
    stub.chmod(0o755)
    (folder / "images").mkdir()
    words = [str(stub)] if name == "science.sh" else [str(folder / "images"), str(stub)]
    folders = {"POSENET_SCIENCE_STORES": str(folder / "my stores"), "POSENET_SCIENCE_RUNS": str(folder / "my runs")}
    folders |= {"POSENET_STORES": str(folder / "my stores"), "POSENET_RUNS": str(folder / "my runs")}
    command = ["sh", str(ROOT / "pipeline" / name), *words]
    script = subprocess.run(command, env=os.environ | folders, capture_output=True, check=False)
    return script.returncode, [line.split("\t")[:-1] for line in log.read_text().splitlines()]


@pytest.mark.parametrize("name", ["science.sh", "photographs.sh"])
def test_every_command_of_a_script_parses(name: str, tmp_path: Path) -> None:
    code, commands = run_script(name, tmp_path)
    assert code == 0
    for command, *words in commands:
        assert isinstance(main.commands[command].make_context(command, words), click.Context)


@pytest.mark.parametrize("failing", ["build-store", "sweep"])
@pytest.mark.parametrize("name", ["science.sh", "photographs.sh"])
def test_a_script_ends_where_a_command_fails(name: str, failing: str, tmp_path: Path) -> None:
    code, commands = run_script(name, tmp_path, failing)
    assert code == 1
    assert [command for command, *_ in commands].index(failing) == len(commands) - 1


def test_every_experiment_is_part_of_science_or_an_exception(tmp_path: Path) -> None:
    _, commands = run_script("science.sh", tmp_path)
    swept = {Path(words[1]).stem for words in commands if words[0] == "sweep"}
    (sentence,) = re.findall(r"^# .*are not run", (ROOT / "pipeline/science.sh").read_text(), re.MULTILINE)
    exceptions = set(re.findall(r"`(\w+)` (?:and|are)", sentence))
    assert swept | exceptions == {path.stem for path in (ROOT / "pipeline/experiments").glob("*.toml")}
    assert {Path(word).name for word in commands[-1][1:-2]} == swept  # the page has all runs


def test_the_version_is_the_same_everywhere() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    newest = re.search(r"^## \[?(\d+\.\d+\.\d+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert newest is None or newest[1] == version
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["version"] == version


def test_nothing_names_a_path_of_one_machine() -> None:
    # a user's home or work folder in a document or source would work for one person only
    personal = re.compile(r"/(?:work|root|home)/")
    for path in [*DOCUMENTS, *ROOT.glob("src/**/*.py"), *ROOT.glob("pipeline/**/*.*"), ROOT / "Makefile"]:
        assert not personal.search(path.read_text(encoding="utf-8")), path


def test_workflows_are_valid_and_grant_little() -> None:
    for path in (ROOT / ".github/workflows").glob("*.yml"):
        workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert workflow["permissions"] in ({}, {"contents": "read"}), path
        for name, job in workflow["jobs"].items():
            assert job.get("timeout-minutes"), f"{path.name}: {name}"
