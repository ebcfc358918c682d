"""Each path that a command takes, given something that it is not: a mistake in what was typed exits 2, damage exits 1."""

import shutil
from pathlib import Path

import click
import pytest
import torch
import torchvision

from posenet_store.backbones.load import load_backbone
from posenet_store.cli import main
from posenet_store.images.sources import load_image_set
from posenet_store.specs import BackboneSpec
from posenet_store.store.catalogue import list_stores
from posenet_store.store.reader import open_store
from posenet_store.sweep.plan import plan_sweep
from posenet_store.sweep.run import run_sweep
from posenet_store.sweep.spec import SweepSpec
from posenet_store.sweep.stage_eraser import fit_stage_eraser
from tests.support.runs import cli
from tests.support.small import built_store, folder, write_images

PIXELS = "--backbone pixels --images {images}"
TEMPLATES = (
    "run {images} --backbone pixels --sweep {spec} --stores {root} --out {output} --data-root {data}",
    "run {images} --backbone resnet18 --weights {weights} --erase {eraser}",
    f"build-store {PIXELS} --stores {{root}} --data-root {{data}}",
    "build-store --images {images} --extend {store}",
    "build-store --images {images} --backbone resnet18 --weights {weights} --erase {eraser}",
    "stores --stores {root}",
    "prune --stores {root}",
    "inspect {store}",
    "inspect {store} --card --out {file}",
    "verify {store} --data-root {data}",
    "verify {store} --probe --weights {weights}",
    "verify {store} --repair --images {repair}",
    "convert {store} --format hdf5 --stores {root}",
    "sweep {spec} --stores {root} --run {output}",
    "evaluate --head {head} --store {store} --maps {output}",
    f"evaluate --head {{head}} --target H {PIXELS} --stores {{root}} --data-root {{data}}",
    "evaluate --head {head} --images {images} --backbone resnet18 --weights {weights} --erase {eraser}",
    "variance {store} --figures {output}",
    "erase {store} --out {file}",
    "erase {store} --images {images} --data-root {data} --out {file}",
    "accuracy {eraser} --backbone resnet18 --weights {weights} --images {images} --labels {labels} --data-root {data}",
    "accuracy --backbone resnet18 --weights {weights} --images {images} --labels {labels} --erase {eraser}",
    "table {run}",
    "compare {run} --between target=H,V",
    "leaderboard {run}",
    "stage-shares {run}",
    "report {run} --out {file} --figures {output}",
    "rings {run} --stores {root} --figures {output}",
    "symmetry resnet18 --weights {weights}",
    f"pooling {PIXELS} --stores {{root}} --data-root {{data}}",
    "pooling --images {images} --backbone resnet18 --weights {weights} --erase {eraser}",
    "channels {store} {mirrored}",
    "fetch duts-te --url http://127.0.0.1:9/x.zip --data-root {data}",
)
TEXTS = {"source", "erase", "weights", "extend", "store", "stores", "mirrored", "patterns", "erasers", "spec", "experiment"}
"""Parameters that are paths, or texts that may be one."""
STORE = {"missing": 2, "note.txt": 2, "empty": 2, "pictures": 2, "run": 2, "damaged-store": 1, "store-without-plan": 1}
FILE = {"missing.safetensors": 2, "note.toml": 2, "empty": 2, "stores": 2}
WRONG = {
    "store": STORE,
    "mirrored": STORE,
    "run": {"missing": 2, "note.txt": 2, "empty": 2, "pictures": 2, "store": 2, "damaged-run": 1, "run-without-record": 1},
    "images": {"missing": 2, "missing.txt": 2, "missing/*.jpg": 2, "missing.tar": 2, "empty": 2, "note.txt": 2},
    "repair": {"missing": 2, "missing.txt": 2, "missing/*.jpg": 2, "missing.tar": 2, "note.txt": 2},
    "head": FILE,
    "eraser": FILE,
    "weights": FILE,
    "labels": {"missing": 2, "empty": 2},
    "spec": {"missing.toml": 2, "missing": 2, "empty": 2, "note.txt": 2},
    "root": {"note.txt": 2, "note.txt/below": 2},
    "output": {"note.txt": 2, "note.txt/below": 2},
    "file": {"empty": 2, "note.txt/below": 2},
    "data": {"note.txt": 2},
}
"""What a path is not -> the exit code, by what it should be."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stores of 20 images and of their mirror images, a run, and what is none of these or damaged."""
    home = tmp_path_factory.mktemp("home")
    write_images(home / "pictures", 20)
    (home / "empty").mkdir()
    (home / "note.txt").write_text("no such image\n")
    (home / "note.toml").write_text("note = 1\n")
    (home / "labels.csv").write_text("image000.png,1\n")
    (home / "sweep.toml").write_text('train = ["pictures"]\ntargets = ["H", "V"]\nprotocols = ["ridge"]\n')
    (home / "stores").mkdir()
    network = load_backbone(BackboneSpec("resnet18", "random:0", device="cpu", size=64))
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), home / "weights.pth")
    for name, change in (("store", ""), ("mirrored", "@mirrored")):
        reader = built_store(home / "built" / name, load_image_set(f"{home}/pictures{change}"), network, "readout")
        shutil.move(folder(reader), home / name)
    fit_stage_eraser(open_store(home / "store"), "f2", ["H"], None).save(home / "eraser.safetensors")
    shutil.rmtree(home / "moments")
    spec = SweepSpec("paths", train=("pictures",), targets=("H", "V"), protocols=("ridge",))
    plan = plan_sweep(spec, [info for info in list_stores(home)[0] if info.path.name == "store"], home)
    assert not run_sweep(spec, plan, home / "run", scheduler="inline").failures
    for source, copy, lost, cut in (
        ("store", "damaged-store", None, "plan.json"), ("store", "store-without-plan", "plan.json", None),
        ("run", "damaged-run", None, "run.json"), ("run", "run-without-record", "run.json", None),
    ):  # fmt: skip
        shutil.copytree(home / source, home / copy)
        if lost:
            (home / copy / lost).unlink()
        if cut:
            (home / copy / cut).write_text("{")
    return home


def fill(home: Path, template: str, **given: str) -> list[str]:
    """Return the words of a command, with paths that are what they should be but for those that are given."""
    names = {
        "root": "stores", "images": "pictures", "repair": "pictures", "spec": "sweep.toml", "labels": "labels.csv",
        "data": "empty", "file": "new.safetensors", "weights": "weights.pth", "eraser": "eraser.safetensors",
    }  # fmt: skip
    paths = {kind: str(home / names.get(kind, kind)) for kind in WRONG}
    paths["head"] = str(next((home / "run/heads").iterdir()))
    paths |= {kind: str(home / path) for kind, path in given.items()}
    return [word.format(**paths) for word in template.split()]


CASES = [
    (template, kind, path, code)
    for template in TEMPLATES
    for kind, paths in WRONG.items() if f"{{{kind}}}" in template
    for path, code in paths.items()
]  # fmt: skip


@pytest.mark.parametrize(("template", "kind", "path", "code"), CASES)
def test_a_wrong_path_is_one_sentence_and_an_exit_code(
    home: Path, monkeypatch: pytest.MonkeyPatch, template: str, kind: str, path: str, code: int
) -> None:
    monkeypatch.chdir(home)
    monkeypatch.delenv("POSENET_DATA", raising=False)
    before = sorted(home.rglob("*"))
    result = cli(*fill(home, template, **{kind: path}))
    assert result.exit_code == code, result.output
    assert path.partition("/")[0].removesuffix(".txt") in result.stderr
    assert result.stdout == ""
    assert " computes in " not in result.stderr
    assert len(result.stderr.splitlines()) <= 5
    assert sorted(home.rglob("*")) == before


def test_every_path_of_every_command_is_tried() -> None:
    tried = set[tuple[str, str | None]]()
    for template in TEMPLATES:
        command, *words = template.split()
        with click.Context(main) as parent:
            context = main.commands[command].make_context(command, words, parent=parent, resilient_parsing=True)
        tried |= {(command, name) for name, value in context.params.items() if "{" in str(value)}
    paths = {
        (name, param.name)
        for name, command in main.commands.items()
        for param in command.params
        if isinstance(param.type, click.Path) or (param.name in TEXTS and not getattr(param, "is_flag", False))
    }
    assert paths - tried == set()
