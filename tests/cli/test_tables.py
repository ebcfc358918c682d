"""Every table that a command prints, in terminals of 80 and 160 columns and in a pipe: no cell is ever cut."""

import re
from itertools import takewhile
from pathlib import Path

import pytest

from posenet_store.cli.output import print_table
from posenet_store.store.catalogue import list_stores
from posenet_store.sweep.plan import plan_sweep
from posenet_store.sweep.run import run_sweep
from posenet_store.sweep.spec import SweepSpec
from tests.support.runs import cell, cli, write
from tests.support.small import store_with_probes
from tests.support.terminal import show_in_terminal

SPEC = SweepSpec("tables", train=("photos",), targets=("H", "V"), kernels=(1, 3), protocols=("ridge",))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of the tiny network on photographs and probes, and its spec in a file."""
    root = tmp_path_factory.mktemp("tables")
    store_with_probes(root / "stores", root / "photos", 20)
    plan = plan_sweep(SPEC, list_stores(root / "stores")[0], root)
    assert not run_sweep(SPEC, plan, root / "run", scheduler="inline").failures
    (root / "tables.toml").write_text(
        'title = "t"\ntrain = ["photos"]\ntargets = ["H"]\nprotocols = ["ridge"]\nkernels = [5]\n'
    )
    return root


def list_commands(root: Path) -> dict[str, list[str | Path]]:
    store = next(root.glob("stores/tiny-photos-*"))
    return {
        "table": ["table", root / "run"],
        "table --by": ["table", root / "run", "--by", "network,target,kernel", "--test", "natural", "--test", "black"],
        "compare": ["compare", root / "run", "--between", "kernel=1,3"],
        "stores": ["stores", "--stores", root / "stores"],
        "inspect": ["inspect", store],
        "evaluate": ["evaluate", "--head", next(root.glob("run/heads/*")), "--store", store],
        "sweep --plan": ["sweep", root / "tables.toml", "--stores", root / "stores", "--run", root / "new", "--plan"],
    }


HEADINGS = {
    "table": "target", "table --by": "network", "compare": "target", "stores": "name", "inspect": "array", "evaluate": "target",
    "sweep --plan": "store",
}  # fmt: skip


def cut_table(text: str, heading: str) -> list[str]:
    """Return the lines of the table that begins with a heading."""
    lines = text.splitlines()
    start = next(number for number, line in enumerate(lines) if re.match(rf"{heading}( {{2,}}|$)", line))
    return list(takewhile(lambda line: "  " in line or line.startswith("--"), lines[start:]))


@pytest.mark.parametrize("name", HEADINGS)
@pytest.mark.parametrize("columns", [80, 160])
def test_no_cell_is_cut(root: Path, name: str, columns: int) -> None:
    words = list_commands(root)[name]
    piped, shown = cut_table(cli(*words).stdout, HEADINGS[name]), show_in_terminal(columns, *words)
    cells = {cell for line in piped for cell in re.split(r" {2,}", line.strip()) if "--" not in cell}
    times = re.compile(r"[\d.]+ (s|GB|MB|min.*)$")  # a plan measures anew
    assert {cell for cell in cells if cell not in shown and not times.match(cell)} == set()
    assert all(len(line) <= columns for line in cut_table(shown, HEADINGS[name]) if "  " in line.strip())
    assert (max(map(len, piped)) > columns) == (f"({columns} columns are too few for a row" in shown)


def test_large_and_small_numbers_are_whole_at_80_columns(tmp_path: Path) -> None:
    columns = {test: ([0.259, 0.2591], [5.2e4, 5.2e4]) for test in ("held-out", "photos", "black", "white", "noise")}
    run = write(tmp_path / "run", [cell(columns, network="resnet152-random0-padding-none")])
    shown = show_in_terminal(80, "table", run)
    assert shown.count("/ 5.2e+04") == 5
    assert shown.count(".259 [") == 5
    assert "H       best constant" in shown


def test_a_name_wider_than_the_terminal_is_whole(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["name", "size"], [["n" * 300, "1"], ["写真", "2"]])
    head, rule, first, second = capsys.readouterr().out.splitlines()
    assert first == "n" * 300 + "  1"
    assert second == "写真" + " " * 296 + "  2"  # each sign is two columns wide
    assert (head.split(), len(rule)) == (["name", "size"], 306)


def test_a_name_cannot_move_the_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["name"], [["\x1b[2Ja\nb"]])
    assert capsys.readouterr().out.splitlines()[-1] == "\\x1b[2Ja\\nb"
