"""Every table that a command prints, in a terminal of 80 columns and in a pipe: no cell is ever cut."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torchvision
from rich.cells import cell_len

from posenet_store.cli import main
from posenet_store.cli.output import print_table
from posenet_store.cli.table_layout import wrap_cell
from posenet_store.images.sources import load_image_set
from posenet_store.parallel.slurm import list_launch_files
from posenet_store.store.catalogue import list_stores
from posenet_store.sweep.plan import plan_sweep
from posenet_store.sweep.run import run_sweep
from posenet_store.sweep.spec import SweepSpec, list_experiments
from tests.support.runs import cell, cli, write
from tests.support.small import built_store, folder, store_with_probes, tiny_backbone
from tests.support.terminal import show_in_terminal

SPEC = SweepSpec("tables", train=("holidays-in-the-mountains",), targets=("H", "V"), kernels=(1, 3), protocols=("ridge",))

SHARES = ("full:f1", "full:f2", "full:f3", "full", "full:f2+f3", "full:f1+f3", "full:f1+f2")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sweeps of the tiny network on photographs and probes, the store of mirror images, spec, and weights with a classifier."""
    root = tmp_path_factory.mktemp("tables")
    reader = store_with_probes(root / "stores", root / "holidays-in-the-mountains", 40)
    built_store(root / "mirrored", load_image_set(f"{root}/holidays-in-the-mountains@mirrored"), tiny_backbone())
    infos = list_stores(folder(reader).parent)[0]
    for name, spec in (
        ("run", SPEC),
        ("stages", replace(SPEC, inputs=("full:f1", "full:f2", "full:f3", "full"), kernels=(1,))),
        ("shares", replace(SPEC, inputs=SHARES, kernels=(1,))),
    ):
        assert not run_sweep(spec, plan_sweep(spec, infos, root), root / name, scheduler="inline").failures
    (root / "tables.toml").write_text(
        'title = "t"\ntrain = ["holidays-in-the-mountains"]\ntargets = ["H"]\nprotocols = ["ridge"]\nkernels = [5]\n'
    )
    torch.save(torchvision.models.shufflenet_v2_x0_5(weights=None).state_dict(), root / "weights-of-a-trained-network.pth")
    shutil.copytree(folder(reader), root / "damaged")
    next(root.glob("damaged/commits/b*.json")).unlink()
    (root / "leftovers/moments/a-store-that-is-gone-01234567").mkdir(parents=True)
    (root / "labels.csv").write_text("".join(f"image{index:03d}.png,{index}\n" for index in range(40)))
    return root


NETWORK = ("--backbone", "resnet18", "--weights", "random:0", "--size", "64", "--device", "cpu")
WITHOUT_TABLE = {"convert", "erase", "fetch", "report", "build-store"}
"""Commands that print a path, and what a build costs."""


def list_commands(root: Path) -> dict[str, list[list[str | Path]]]:
    """Return words of each command that prints tables or facts."""
    photos, run, stages = root / "holidays-in-the-mountains", root / "run", root / "stages"
    store, mirrored = (next(root.glob(f"{parent}/tiny-holidays-*")) for parent in ("stores", "mirrored"))
    stores: tuple[str, Path] = ("--stores", root / "stores")
    weights, labels = root / "weights-of-a-trained-network.pth", root / "labels.csv"
    return {
        "run": [["run", photos, *NETWORK, *stores, "--plan"]],
        "stores": [["stores", "--stores", root / "mirrored"]],
        "prune": [["prune", "--stores", root / "leftovers"]],
        "inspect": [["inspect", store]],
        "verify": [["verify", root / "damaged"]],
        "sweep": [["sweep", root / "tables.toml", *stores, "--run", root / "new", "--plan"]],
        "evaluate": [["evaluate", "--head", f"{run}/heads/*", "--store", store]],
        "variance": [["variance", store], ["variance", store, "--channels"]],
        "accuracy": [["accuracy", "--backbone", "shufflenet_v2_x0_5", "--weights", weights, "--size", "64", "--device", "cpu",
                      "--images", photos, "--labels", labels]],
        "table": [["table", run], ["table", run, "--by", "network,target,kernel", "--test", "natural", "--test", "black"]],
        "compare": [["compare", run, "--between", "kernel=1,3"]],
        "leaderboard": [["leaderboard", stages]],
        "stage-shares": [["stage-shares", root / "shares"]],
        "rings": [["rings", run, *stores, "--rings", "3"]],
        "symmetry": [["symmetry", "resnet18", "--weights", "random:0"]],
        "pooling": [["pooling", "--images", photos, "--backbone", "pixels", *stores, "--grid", "2"]],
        "channels": [["channels", store, mirrored], ["channels", store, mirrored, "--list"]],
        "experiments": [["experiments"]],
        "launch": [["launch"]],
    }  # fmt: skip


@pytest.mark.parametrize("name", sorted({*main.commands} - WITHOUT_TABLE))
def test_at_80_columns_no_line_is_longer_and_no_cell_is_cut(root: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    pieces = set[str]()

    def wrap(text: str, width: int) -> list[str]:
        pieces.update(re.findall(r"[\w.]+", text))
        return wrap_cell(text, width)

    for module in ("output", "table_layout"):
        monkeypatch.setattr(f"posenet_store.cli.{module}.wrap_cell", wrap)
    for words in list_commands(root)[name]:
        shown = show_in_terminal(80, *words)
        assert shown
        assert max(map(cell_len, shown.splitlines())) <= 80
        assert {piece for piece in pieces if piece not in shown} == set()
        pieces.clear()


def test_rows_are_lines_in_a_pipe_unless_columns_are_asked_for(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    for name, count in (("stores", 1), ("experiments", len(list_experiments())), ("launch", len(list_launch_files()))):
        words = list_commands(root)[name][0]
        assert len(cli(*words).stdout.splitlines()) == count + 2
        monkeypatch.setenv("COLUMNS", "60")
        assert max(map(len, cli(*words).stdout.splitlines())) <= 60
        monkeypatch.delenv("COLUMNS")


def test_large_and_small_numbers_are_whole_at_80_columns(tmp_path: Path) -> None:
    columns = {test: ([0.259, 0.2591], [5.2e4, 5.2e4]) for test in ("held-out", "photos", "black", "white", "noise")}
    run = write(tmp_path / "run", [cell(columns, network="resnet152-random0-padding-none")])
    shown = show_in_terminal(80, "table", run)
    assert shown.count("/ 5.2e+04") == 5
    assert len(re.findall(r"\.259\s", shown)) == 5
    assert "best constant" in shown


def test_a_name_wider_than_the_terminal_is_whole(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["name", "size"], [["n" * 300, "1"], ["写真", "2"]])
    head, rule, first, second = capsys.readouterr().out.splitlines()
    assert first == "n" * 300 + "  1"
    assert second == "写真" + " " * 296 + "  2"  # each sign is two columns wide
    assert (head.split(), len(rule)) == (["name", "size"], 306)


def test_a_name_cannot_move_the_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["name"], [["\x1b[2Ja\nb"]])
    assert capsys.readouterr().out.splitlines()[-1] == "\\x1b[2Ja\\nb"
