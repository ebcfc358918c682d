"""Erasing inside a running network: what its stages return, whose network it is, and files that are none."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from posenet_store.backbones.backbone import Backbone
from posenet_store.backbones.erasing import read_erasers
from posenet_store.backbones.load import check_backbone, load_backbone
from posenet_store.errors import UsageError
from posenet_store.extraction.controls import list_networks
from posenet_store.heads.targets import make_target_map
from posenet_store.images.sources import load_image_set
from posenet_store.resampling import resize_to_grid
from posenet_store.specs import BackboneSpec
from posenet_store.store.reader import Reader
from posenet_store.sweep.stage_eraser import fit_stage_eraser
from tests.support.runs import cli
from tests.support.small import built_store, folder, write_images


def load(erase: str | Path = "", weights: str = "random:0") -> Backbone:
    return load_backbone(BackboneSpec("resnet18", weights, device="cpu", size=64, erase=str(erase)))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    root = tmp_path_factory.mktemp("stores")
    backbone = load()
    return built_store(root, load_image_set(str(write_images(root / "photos", 12))), backbone, dtype="float32")


@pytest.fixture(scope="module")
def eraser(store: Reader, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("erasers") / "f3.safetensors"
    erasers = fit_stage_eraser(store, "f3", ("H", "V"))
    assert erasers.dimensions == {"f3": 2}
    erasers.save(path)
    assert read_erasers(str(path)).sha256 == erasers.sha256
    return path


def test_the_network_computes_with_erased_features(store: Reader, eraser: Path) -> None:
    """Earlier stages stay; this one is what the eraser makes of it, without covariance with H; later ones are others."""
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), dtype=np.uint8))
    plain = load()
    erased = load(eraser)
    before, after = plain.features(images), erased.features(images)
    assert torch.equal(before["f2"], after["f2"])
    parts = load_file(eraser)
    maps = before["f3"].double() - parts["f3.mean"][:, None, None]
    expected = before["f3"] - torch.einsum("cr,rd,bdhw->bchw", parts["f3.left"], parts["f3.right"], maps)
    scale = float(before["f3"].abs().max())
    torch.testing.assert_close(after["f3"].double(), expected, rtol=0, atol=1e-5 * scale)  # float32 of such numbers
    assert not torch.allclose(before["f4"], after["f4"], rtol=1e-3)
    assert erased.weights == "random0-64px-erased-H+V-f3"
    assert erased.weights_sha256 != plain.weights_sha256
    assert erased.erase == str(eraser)


def test_on_its_own_images_no_covariance_is_left(store: Reader, eraser: Path) -> None:
    """1e-9 of it: the sums of these features are float64."""
    parts = load_file(eraser)
    maps = resize_to_grid(torch.from_numpy(store.read("f3")).double(), corners=False)
    target = torch.from_numpy(make_target_map("H", 28).copy())
    change = torch.einsum("cr,rd,bdhw->bchw", parts["f3.left"], parts["f3.right"], maps - parts["f3.mean"][:, None, None])
    before, after = (((m * (target - target.mean())).mean((0, 2, 3))) for m in (maps, maps - change))
    assert after.abs().max() < 1e-9 * before.abs().max()


def test_random_directions_are_the_control(store: Reader, tmp_path: Path) -> None:
    path = tmp_path / "random.safetensors"
    erasers = fit_stage_eraser(store, "f3", ("H", "V"), seed=1)
    assert erasers.dimensions == {"f3": 2}
    erasers.save(path)
    parts = load_file(path)
    np.testing.assert_allclose(parts["f3.right"] @ parts["f3.left"], np.eye(2), atol=1e-9)  # a projection
    assert load(path).weights == "random0-64px-erased-random1-f3"
    assert fit_stage_eraser(store, "f3", ("H", "V"), seed=2).sha256 != erasers.sha256


def test_a_store_is_another_one_and_is_repaired_with_its_eraser(store: Reader, eraser: Path, tmp_path: Path) -> None:
    images = load_image_set(str(write_images(tmp_path / "photos", 3)))
    backbone = load(eraser)
    erased = built_store(tmp_path, images, backbone)
    assert erased.spec.network_key != store.spec.network_key
    assert erased.plan.find_backbone_spec().erase == str(eraser)


TEXTS = {"modules": '{"f3": 1}', "targets": "[1]", "seed": '"x"', "network": "[]"}


@pytest.mark.parametrize("harm", ["cut", "keys", "shape", "nan", "missing", *TEXTS])
def test_other_files_are_refused(eraser: Path, tmp_path: Path, harm: str) -> None:
    path, tensors = tmp_path / "eraser.safetensors", load_file(eraser)
    with safe_open(eraser, "pt") as opened:
        metadata = opened.metadata()
    if harm in metadata:
        metadata[harm] = TEXTS[harm]
    if harm == "keys":
        metadata = {}
    if harm == "shape":
        tensors["f3.left"] = tensors["f3.left"][:-1].contiguous()
    if harm == "nan":
        tensors["f3.mean"][0] = float("nan")
    if harm != "missing":
        save_file(tensors, path, metadata)
    if harm == "cut":
        path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UsageError, match=r"does not exist" if harm == "missing" else r"not a file that"):
        check_backbone(BackboneSpec("resnet18", "random:0", device="cpu", size=64, erase=str(path)))


def test_another_network_is_refused(eraser: Path) -> None:
    with pytest.raises(UsageError, match="write one from a store of this network"):
        load(eraser, "random:1")
    with pytest.raises(UsageError, match="pixels"):
        load_backbone(BackboneSpec("pixels", erase=str(eraser)))
    for change in ({"padding": "reflect"}, {"preprocess": "unit"}, {"size": 96}):  # the same weights, other features
        with pytest.raises(UsageError, match=next(iter(change))):
            load_backbone(replace(BackboneSpec("resnet18", "random:0", device="cpu", size=64, erase=str(eraser)), **change))


def test_a_module_that_is_not_there_is_named(store: Reader, tmp_path: Path) -> None:
    erasers = fit_stage_eraser(store, "f3", ("H",))
    replace(erasers, modules={"f3": "layer9"}).save(tmp_path / "e.safetensors")
    with pytest.raises(UsageError, match="'layer9'"):
        load(tmp_path / "e.safetensors")


def test_nothing_is_erased_in_controls(eraser: Path) -> None:
    networks, _ = list_networks(BackboneSpec("resnet18", "imagenet", device="cpu", erase=str(eraser)))
    assert [role for role, spec in networks.items() if spec.erase] == ["network"]
    assert {"untrained", "pixels"} <= networks.keys()


def test_the_commands_write_and_use_it(store: Reader, tmp_path: Path) -> None:
    out = tmp_path / "e.safetensors"
    result = cli("erase", folder(store), "--stage", "f2", "--out", out, "--json")
    assert json.loads(result.stdout)["dimensions"] == {"f2": 2}
    again = tmp_path / "again.safetensors"
    assert cli("erase", folder(store), "--stage", "f9", "--out", again).exit_code == 2
    assert cli("erase", folder(store), "--stage", "f2", "--target", "X", "--out", again).exit_code == 2
    assert cli("erase", folder(store), "--stage", "f2", "--out", again).stdout.strip() == str(again)
    assert read_erasers(str(again)).sha256 == read_erasers(str(out)).sha256
    words = ("build-store", "--backbone", "resnet18", "--weights", "random:0", "--size", "64", "--erase", out, "--no-probes")
    built = cli(*words, "--images", write_images(tmp_path / "photos", 2), "--stores", tmp_path / "stores")
    assert built.exit_code == 0, built.output
    assert "random0-64px-erased-H+V-f2" in cli("stores", "--stores", tmp_path / "stores").stdout


@pytest.mark.parametrize("name", ["old.safetensors", "new.txt"])
def test_a_file_that_is_there_is_not_replaced_nor_one_of_another_kind_written(store: Reader, tmp_path: Path, name: str) -> None:
    (tmp_path / "old.safetensors").write_bytes(b"of a store")
    done = cli("erase", folder(store), "--out", tmp_path / name)
    assert (done.exit_code, name in done.stderr) == (2, True)
    assert (tmp_path / "old.safetensors").read_bytes() == b"of a store"
    assert not (tmp_path / "new.txt").exists()


def test_several_stages_need_images(store: Reader, eraser: Path, tmp_path: Path) -> None:
    out, photos = tmp_path / "e.safetensors", write_images(tmp_path / "photos", 4)
    for words in ((), ("--stage", "f1", "--stage", "f2"), ("--stage", "f1", "--limit", "3")):
        refused = cli("erase", folder(store), "--out", out, *words)
        assert (refused.exit_code, "--images" in refused.stderr, out.exists()) == (2, True, False)
    stages = ("--stage", "f2", "--stage", "f1", "--images", photos, "--limit", "3")
    done = cli("erase", folder(store), "--out", out, *stages, "--target", "ramp:30", "--json")
    assert json.loads(done.stdout)["dimensions"] == {"f1": 1, "f2": 1}
    assert load(out).weights == "random0-64px-erased-ramp:30-f1+f2"


def test_a_store_of_an_erased_network_is_refused(store: Reader, eraser: Path, tmp_path: Path) -> None:
    erased = built_store(tmp_path, load_image_set(str(write_images(tmp_path / "photos", 3))), load(eraser))
    done = cli("erase", folder(erased), "--stage", "f2", "--out", tmp_path / "e.safetensors")
    assert (done.exit_code, "erased already" in done.stderr) == (2, True)


def test_a_missing_eraser_is_named_before_anything_else(tmp_path: Path) -> None:
    write_images(tmp_path / "photos", 3)
    words = ["accuracy", "nothere.safetensors", "--backbone", "resnet18", "--weights", "random:0", "--images"]
    done = cli(*words, tmp_path / "photos")
    assert (done.exit_code, "nothere.safetensors does not exist" in done.stderr) == (2, True)
