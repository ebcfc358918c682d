"""A network of one's own, and taps of one's own choice in torchvision's."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from posenet_store.backbones.load import load_backbone, wrap_backbone
from posenet_store.backbones.measure import order_modules
from posenet_store.errors import UsageError
from posenet_store.images.image_set import load_folder
from posenet_store.specs import BackboneSpec, Preprocess
from tests.support.small import built_store, write_images

SMALL = Preprocess(32, 1 / 255, (0.5, 0.4, 0.3), (0.25, 0.25, 0.2))


class Branching(nn.Module):
    """A network whose code depends on its input, which no tracer can follow."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, 6, 3, stride=2)
        self.unused = nn.Conv2d(4, 6, 3)

    def forward(self, images: Tensor) -> Tensor:
        values = self.norm(self.first(images))
        if float(values.mean().detach()) > 1e9:
            values = values * 0
        result: Tensor = self.second(values).flatten(1).mean(1)
        return result


def test_features_are_those_of_the_module_itself() -> None:
    torch.manual_seed(0)
    module = Branching()
    module(torch.randn(8, 3, 32, 32))  # moves the running statistics; still in training mode
    backbone = wrap_backbone(module, "mine", ["second", "norm"], SMALL, device="cpu")
    pixels = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    actual = backbone.features(pixels)
    assert [(tap.name, tap.module) for tap in backbone.taps] == [("f1", "norm"), ("f2", "second")]
    assert module.training
    with torch.no_grad():
        values = module.eval().norm(module.first(backbone.inputs(pixels)))
        torch.testing.assert_close(actual["f1"], values, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(actual["f2"], module.second(values), rtol=1e-5, atol=1e-6)


def test_its_store_is_built_and_found_again(tmp_path: Path) -> None:
    torch.manual_seed(0)
    images, module = load_folder(write_images(tmp_path / "photos", 5)), Branching()
    reader = built_store(tmp_path / "stores", images, wrap_backbone(module, "mine", ["norm"], SMALL))
    assert reader.read("f1", 0, 5).shape == (5, 4, 32, 32)
    assert reader.name.startswith("mine-photos-")
    again = built_store(tmp_path / "stores", images, wrap_backbone(module, "mine", ["norm"], SMALL))
    assert again.name == reader.name
    nn.init.zeros_(module.first.weight)
    assert built_store(tmp_path / "stores", images, wrap_backbone(module, "mine", ["norm"], SMALL)).name != reader.name


@pytest.mark.parametrize(
    ("taps", "message"),
    [
        (["thrid"], r"unknown tap set, or module of the network, 'thrid'"),
        ([""], "unknown tap set, or module"),
        (["unused"], "unused is named twice or not passed once"),
        (["norm", "norm"], "norm is named twice"),
    ],
)
def test_a_tap_that_is_none_is_refused(taps: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        wrap_backbone(Branching(), "mine", taps, SMALL)


def test_a_name_becomes_a_folder_and_never_leaves_it() -> None:
    with pytest.raises(UsageError, match="become a folder's"):
        wrap_backbone(Branching(), "../mine", ["norm"], SMALL)


def test_taps_of_ones_choice_in_a_torchvision_network() -> None:
    chosen = load_backbone(BackboneSpec("resnet18", "random:0", "layer2.0,maxpool", "cpu"))
    usual = load_backbone(BackboneSpec("resnet18", "random:0", device="cpu"))
    assert [tap.module for tap in chosen.taps] == ["maxpool", "layer2.0"]
    pixels = torch.zeros(1, 224, 224, 3, dtype=torch.uint8)
    torch.testing.assert_close(chosen.features(pixels)["f1"], usual.features(pixels)["f1"])
    assert chosen.tap_set == load_backbone(BackboneSpec("resnet18", "random:0", "maxpool,layer2.0", "cpu")).tap_set


def test_modules_are_sorted_by_the_forward_pass() -> None:
    assert order_modules(Branching().eval(), ["second", "first", "norm"], 32) == ("first", "norm", "second")


def test_its_store_records_whether_its_weights_were_trained(tmp_path: Path) -> None:
    images = load_folder(write_images(tmp_path / "photos", 5))
    backbone = wrap_backbone(Branching(), "mine", ["norm"], SMALL, weights_kind="random")
    assert built_store(tmp_path / "stores", images, backbone).spec.weights_kind == "random"
    with pytest.raises(UsageError, match="unknown kind of weights 'untrained'"):
        wrap_backbone(Branching(), "mine", ["norm"], SMALL, weights_kind="untrained")
