"""evaluate: many heads in one table, what is assumed of a state dict, and mirrored images."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from posenet_store.heads.file import load_head
from posenet_store.heads.model import Heads
from posenet_store.report.run import open_run
from posenet_store.store.catalogue import find_equivalent, list_stores
from tests.support.runs import cli
from tests.support.small import write_images
from tests.support.terminal import show_in_terminal

PIXELS = ("--backbone", "pixels", "--device", "cpu")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, state dicts as the report's authors published them, and a sweep of two heads on the pixels."""
    home = tmp_path_factory.mktemp("home")
    write_images(home / "photos", 40)
    (home / "weights").mkdir()
    for kernel, target in ((1, "hor"), (3, "hor"), (3, "ver")):
        module = nn.Sequential()
        module.add_module("conv", nn.Conv2d(3, 1, kernel))
        path = home / f"weights/model_{kernel}_0_{target}.weights"
        torch.save(module.state_dict(), path, _use_new_zipfile_serialization=False)  # torch 1.4 wrote so
    (home / "mine.toml").write_text('targets = ["H", "ramp:30"]\nprotocols = ["ridge"]\nkernels = [1]\n')
    assert cli("build-store", *PIXELS, "--images", home / "photos", "--stores", home / "stores").exit_code == 0
    assert cli("sweep", home / "mine.toml", "--stores", home / "stores", "--run", home / "run").exit_code == 0
    return home


def evaluate(home: Path, *words: str | Path) -> list[dict[str, object]]:
    shown = cli("evaluate", *words, "--stores", home / "stores", "--json")
    assert shown.exit_code == 0, shown.output
    rows: list[dict[str, object]] = json.loads(shown.stdout)
    return rows


def test_each_head_has_its_target_or_all_have_one(home: Path) -> None:
    names = ["model_3_0_hor.weights", "model_3_0_ver.weights"]
    paths = [home / "weights" / name for name in names]
    each = evaluate(
        home, *PIXELS, "--images", home / "photos", "--head", paths[0], "--target", "H", "--head", paths[1], "--target", "V"
    )
    assert [(row["head"], row["target"]) for row in each] == [(names[0], "H"), (names[1], "V")]
    alone = evaluate(home, *PIXELS, "--images", home / "photos", "--head", paths[1], "--target", "V")
    assert alone == [{name: value for name, value in each[1].items() if name != "head"}]
    shared = evaluate(home, *PIXELS, "--images", home / "photos", "--head", home / "weights/*_hor.weights", "--target", "H")
    assert [(row["head"], row["target"], row["kernel"]) for row in shared] == [
        ("model_1_0_hor.weights", "H", 1), ("model_3_0_hor.weights", "H", 3),
    ]  # fmt: skip


def test_what_a_state_dict_does_not_say_is_shown(home: Path) -> None:
    words: list[str | Path] = ["evaluate", "--head", home / "weights/model_3_0_hor.weights", "--target", "H", *PIXELS]
    words += ["--images", home / "photos", "--stores", home / "stores"]
    assumed, given = cli(*words), cli(*words, "--head-padding", "1")
    assert "0 is assumed (--head-padding)" in assumed.stderr
    assert "assumed" not in given.stderr
    assert json.loads(cli(*words, "--head-padding", "1", "--json").stdout)[0]["padding"] == 1
    assert "aligned" in assumed.stdout
    shown = show_in_terminal(80, *words)
    assert all(len(line) <= 80 for line in shown.splitlines() if "  " in line.strip())


def test_without_a_target_the_error_lists_them(home: Path) -> None:
    result = cli("evaluate", "--head", home / "weights/model_3_0_hor.weights", *PIXELS, "--images", home / "photos")
    assert result.exit_code == 2
    assert "--target" in result.stderr
    assert "ramp:ANGLE" in result.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["--head", "weights/*.none", "--target", "H"],
        ["--head", "weights", "--target", "H"],
        ["--head", "weights/*", "--target", "H", "--target", "V"],
        ["--head", "weights/*", "--target", "HH"],
        ["--head", "weights/*", "--target", "map:none.png"],
        ["--head", "weights/*", "--target", "H", "--mirrored", "--store", "stores"],
    ],
)
def test_wrong_words_are_one_sentence(home: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]) -> None:
    monkeypatch.chdir(home)
    images = [] if "--store" in words else ["--images", "photos", *PIXELS]
    result = cli("evaluate", *words, *images)
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output


def test_all_heads_of_a_run_are_scored_with_and_without_mirrors(home: Path) -> None:
    rows = evaluate(home, "--head", home / "run/heads/*.safetensors", "--images", home / "photos", "--mirrored")
    results = {f"{result.id}.safetensors": result for result in open_run(home / "run").results}
    assert {row["head"] for row in rows} == set(results)
    assert {row["test"] for row in rows} == {"photos", "photos, mirrored", "photos, both ways"}
    for row in rows:
        cell = results[str(row["head"])].cell
        assert (row["target"], row["kernel"], row["padding"], row["input"]) == (
            cell.target,
            cell.kernel,
            cell.padding,
            cell.input,
        )
        assert row["images"] == 40


def test_heads_of_several_runs_are_told_apart(home: Path, tmp_path: Path) -> None:
    """By each setting in which they differ, by the store that trained them, and by their files where the names are equal."""
    write_images(tmp_path / "others", 20)
    assert cli("build-store", *PIXELS, "--images", tmp_path / "others", "--stores", home / "stores").exit_code == 0
    text = 'targets = ["H"]\nprotocols = ["ridge"]\nkernels = [1]\ntrain = ["photos", "others"]\n[erase]\ntargets = ["V"]\n'
    (tmp_path / "erased.toml").write_text(text)
    assert cli("sweep", tmp_path / "erased.toml", "--stores", home / "stores", "--run", tmp_path / "run").exit_code == 0
    results = {f"{result.id}.safetensors": result for result in open_run(tmp_path / "run").results}
    store = next(info.path for info in list_stores(home / "stores").stores if info.spec.images == "others")
    rows = evaluate(home, "--head", tmp_path / "run/heads/*.safetensors", "--store", store)
    stores = {info.spec.fingerprint: info.path.name for info in list_stores(home / "stores").stores}
    for row in rows:
        cell = results[str(row["head"])].cell
        assert row["erase"] == ("+".join(getattr(cell.protocol, "erase", ())) or "none")
        assert row["trained_on"] == stores[cell.store]
    assert len({(row["erase"], row["trained_on"]) for row in rows}) == 4
    copy = shutil.copytree(tmp_path / "run", tmp_path / "copy") / "heads" / str(rows[0]["head"])
    both = [tmp_path / "run/heads" / copy.name, copy]
    assert [row["head"] for row in evaluate(home, "--head", both[0], "--head", copy, "--store", store)] == list(map(str, both))
    words = ("evaluate", "--head", both[0], "--head", copy, "--store", store, "--maps", tmp_path / "maps")
    refused = cli(*words)
    assert (refused.exit_code, str(copy) in refused.stderr, (tmp_path / "maps").exists()) == (2, True, False)
    assert len(evaluate(home, "--head", both[0], "--head", both[0], "--store", store)) == 1


@pytest.mark.parametrize(
    "option", ["--head-padding=0", "--input=aligned", "--backbone=pixels", "--size=64", "--batch-size=2", "--data-root=photos"]
)
def test_an_option_that_changes_nothing_is_refused(home: Path, option: str) -> None:
    store = next(info.path for info in list_stores(home / "stores").stores)
    result = cli("evaluate", "--head", home / "run/heads/*.safetensors", "--store", store, option)
    assert (result.exit_code, option.partition("=")[0] in result.stderr) == (2, True)


def test_each_head_is_read_once(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []

    def load(path: Path) -> tuple[Heads, dict[str, Any]]:
        read.append(path.name)
        return load_head(path)

    monkeypatch.setattr("posenet_store.sweep.head_files.load_head", load)
    rows = evaluate(home, "--head", home / "run/heads/*.safetensors", "--images", home / "photos")
    assert sorted(read) == sorted(str(row["head"]) for row in rows)


def test_a_figure_a_head_is_written(home: Path, tmp_path: Path) -> None:
    heads = home / "weights/model_3_*.weights"
    evaluate(home, "--head", heads, "--target", "H", *PIXELS, "--images", home / "photos", "--maps", tmp_path)
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["model_3_0_hor.png", "model_3_0_ver.png"]


def test_a_store_of_another_layout_is_used_before_one_is_built(home: Path) -> None:
    before = sorted((home / "stores").iterdir())
    evaluate(home, "--head", home / "run/heads/*.safetensors", "--images", home / "photos")
    evaluate(
        home, *PIXELS, "--images", home / "photos", "--input", "full", "--head", home / "weights/model_1*", "--target", "H"
    )
    assert sorted((home / "stores").iterdir()) == before


def test_a_store_without_all_channels_is_no_substitute(tmp_path: Path) -> None:
    folder, root = write_images(tmp_path / "photos", 3), tmp_path / "stores"
    words = ("build-store", *PIXELS, "--images", folder, "--stores", root, "--no-probes")
    specs = {}
    for layout in ("aligned", "readout", "native"):
        assert cli(*words, "--layout", layout, "--dtype", "float32").exit_code == 0
        specs[layout] = next(info.spec for info in list_stores(root).stores if info.spec.layout == layout)
        assert find_equivalent(specs[layout], root) is not None
        if layout == "aligned":
            assert find_equivalent(replace(specs["aligned"], layout="native"), root) is None
    assert find_equivalent(replace(specs["native"], images_sha256="0" * 64), root) is None
    assert find_equivalent(replace(specs["native"], padding="reflect"), root) is None
