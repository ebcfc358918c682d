"""A sweep with a map of the user's own as its target: from the file beside the sweep to the report of a copied run."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from posenet_store.errors import UsageError
from posenet_store.heads import own_maps
from posenet_store.heads.protocols import RidgeProtocol
from posenet_store.heads.targets import make_native_map, make_target_map
from posenet_store.report.run import open_run
from posenet_store.store.catalogue import list_stores
from posenet_store.store.reader import open_store
from posenet_store.sweep.evaluate import evaluate_head
from posenet_store.sweep.plan import plan_sweep
from posenet_store.sweep.results import RunFiles
from posenet_store.sweep.run import run_sweep
from posenet_store.sweep.run_pass import run_pass
from posenet_store.sweep.spec import SweepSpec, load_sweep
from tests.support.runs import cli
from tests.support.small import store_with_probes

TEXT = 'title = "own"\ntrain = ["photos"]\ntargets = ["map:maps/own.png", "V"]\nprotocols = ["ridge"]\nkernels = [1]\n'


def forget_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Know no map, as a new process does."""
    monkeypatch.setattr(own_maps, "_known", {})
    make_target_map.cache_clear()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store, and a sweep whose target lies beside it."""
    store_with_probes(tmp_path / "stores", tmp_path / "photos", 20)
    (tmp_path / "question/maps").mkdir(parents=True)
    Image.fromarray(make_native_map("V")).save(tmp_path / "question/maps/own.png")
    (tmp_path / "question/own.toml").write_text(TEXT)
    forget_maps(monkeypatch)
    return tmp_path


def test_heads_of_the_same_map_are_the_same_heads(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    swept = cli("sweep", "question/own.toml", "--run", "run")
    assert swept.exit_code == 0, swept.output
    own, published = open_run("run").results
    assert own.cell.target.startswith("map:own-")
    assert own.scores == published.scores
    forget_maps(monkeypatch)
    assert "0 heads trained, 2 were finished before" in cli("sweep", "question/own.toml", "--run", "run").stderr


def test_a_copied_run_needs_the_file_no_more(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = load_sweep(home / "question/own.toml")
    run_sweep(spec, plan_sweep(spec, list_stores(home / "stores").stores, home), home / "run", scheduler="inline")
    shutil.copytree(home / "run", home / "elsewhere")
    shutil.rmtree(home / "question")
    shutil.rmtree(home / "run")
    forget_maps(monkeypatch)
    own = open_run(home / "elsewhere").results[0]
    assert own.cell.target in open_run(home / "elsewhere").table2().markdown()
    forget_maps(monkeypatch)
    store = open_store(next(home.glob("stores/tiny-photos-*")))
    head = RunFiles(home / "elsewhere").head(own.id)
    assert evaluate_head(head, store).rows()[0]["target"] == own.cell.target
    forget_maps(monkeypatch)
    shutil.copy(head, home / "alone.safetensors")
    with pytest.raises(UsageError, match="is not here"):
        evaluate_head(home / "alone.safetensors", store)


def test_another_map_under_the_same_name_makes_other_cells(home: Path) -> None:
    stores = list_stores(home / "stores").stores
    before = plan_sweep(load_sweep(home / "question/own.toml"), stores, home).cells
    Image.fromarray(make_native_map("G")).save(home / "question/maps/own.png")
    after = plan_sweep(load_sweep(home / "question/own.toml"), stores, home).cells
    assert before[0].id != after[0].id
    assert before[1].id == after[1].id
    moved = (home / "question").rename(home / "moved")
    assert plan_sweep(load_sweep(moved / "own.toml"), stores, home).cells == after


def test_python_users_name_a_file_too(home: Path) -> None:
    spec = SweepSpec("python", train=("photos",), targets=(f"map:{home}/question/maps/own.png",), protocols=("ridge",))
    (cell,) = plan_sweep(spec, list_stores(home / "stores").stores, home).cells
    assert cell.target.startswith("map:own-")


ERASE = 'protocols = ["ridge"]\ntargets = ["V", "G", "ramp:30"]\nkernels = [1]\ntrain = ["photos"]\n[erase]\ntargets = {}\n'


def test_own_and_numbered_maps_are_erased(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the file beside the sweep to another process: what is erased has no rank order left, the other map stays."""
    monkeypatch.chdir(home)
    (home / "question/erase.toml").write_text(ERASE.format(["map:maps/own.png", "ramp:30"]))
    swept = cli("sweep", "question/erase.toml", "--run", "run")
    assert swept.exit_code == 0, swept.output
    results = open_run("run").results
    erased = [result for result in results if result.cell.maps != (result.cell.target,)]
    (maps,) = {result.cell.maps[1:] for result in erased}
    assert (maps[0].startswith("map:own-"), maps[1]) == (True, "ramp:30")
    spc = {result.cell.target: result.scores["held-out"].spc for result in erased}
    assert (spc["V"], spc["ramp:30"]) == (None, None)
    assert spc["G"] is not None
    assert {result.fit["erased"] for result in erased} == {2}
    assert "+".join(maps) in cli("table", "run", "--where", f"erase={'+'.join(maps)}", "--by", "erase").stdout
    forget_maps(monkeypatch)
    spec = load_sweep("question/erase.toml")
    plan = plan_sweep(spec, list_stores("stores").stores, home)
    forget_maps(monkeypatch)
    task = next(task for task in plan.passes if any(len(cell.maps) > 1 for cell in task.cells))
    assert set(run_pass(task, home / "run", 1).cells) <= {result.id for result in results}


def test_python_users_erase_a_map_of_a_file(home: Path) -> None:
    recipe = RidgeProtocol(erase=(f"map:{home}/question/maps/own.png",))
    spec = SweepSpec("python", train=("photos",), targets=("G",), protocols=("ridge",), recipes=(recipe,))
    (cell,) = plan_sweep(spec, list_stores(home / "stores").stores, home).cells
    assert cell.maps[1].startswith("map:own-")


@pytest.mark.parametrize(
    ("targets", "sentence"),
    [([], "at least one"), (["H", "H"], "twice"), (["map:none.png"], "none.png"), (["ramp:x"], "ramp:x")],
)
def test_what_can_not_be_erased_is_said(home: Path, targets: list[str], sentence: str) -> None:
    (home / "question/erase.toml").write_text(ERASE.format(targets))
    with pytest.raises(UsageError, match=sentence):
        load_sweep(home / "question/erase.toml")


@pytest.mark.parametrize("name", ["missing.png", "flat.npy"])
def test_a_bad_map_stops_the_sweep_with_a_sentence(home: Path, name: str) -> None:
    np.save(home / "question/flat.npy", np.ones((9, 9)))
    (home / "question/bad.toml").write_text(f'targets = ["map:{name}"]')
    result = cli("sweep", home / "question/bad.toml", "--stores", home / "stores", "--run", home / "run")
    assert result.exit_code == 2
    assert name in result.stderr
    assert not (home / "run").exists()


def test_one_map_twice_is_refused(home: Path) -> None:
    (home / "question/twice.toml").write_text('targets = ["map:maps/own.png", "map:maps/../maps/own.png"]')
    with pytest.raises(UsageError, match="one map twice"):
        load_sweep(home / "question/twice.toml")


def test_an_external_head_predicts_a_map_of_the_users_own(home: Path) -> None:
    import torch

    torch.save(torch.nn.Conv2d(9, 1, 3).state_dict(), home / "head.pth")
    words = ("evaluate", "--head", home / "head.pth", "--store", next(home.glob("stores/tiny-photos-*")))
    shown = cli(*words, "--target", f"map:{home}/question/maps/own.png")
    assert shown.exit_code == 0, shown.output
    assert "map:own-" in shown.stdout
