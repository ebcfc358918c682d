"""The table of taps against torchvision's own networks."""

import warnings

import pytest
import torch
import torchvision
from torch import nn

from posenet_store.backbones import tap_shapes
from posenet_store.errors import UsageError
from posenet_store.taps import tap_modules

VGGS = [f"vgg{depth}{norm}" for depth in (11, 13, 16, 19) for norm in ("", "_bn")]
FIVE = (112, 56, 28, 14, 7)
SIZES = {
    "vgg16": FIVE,
    "resnet18": (56, 56, 28, 14, 7),
    "resnext50_32x4d": (56, 56, 28, 14, 7),
    "wide_resnet50_2": (56, 56, 28, 14, 7),
    "densenet121": FIVE,
    "regnet_y_400mf": FIVE,
    "convnext_tiny": (56, 28, 14, 7),
    "efficientnet_b0": FIVE,
    "efficientnet_v2_s": FIVE,
    "efficientnet_v2_m": FIVE,
    "mobilenet_v2": FIVE,
    "mobilenet_v3_large": FIVE,
    "mobilenet_v3_small": FIVE,
    "mnasnet1_0": FIVE,
    "shufflenet_v2_x1_0": FIVE,
}
# VGG's last pooling halves 14 to 7 and its first 224 to 112: the same five sizes.


def network(name: str) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module: nn.Module = torchvision.models.get_model(name, weights=None).eval()
    return module


@pytest.mark.parametrize("name", SIZES)
def test_taps_exist_and_shrink_as_stages_do(name: str) -> None:
    taps = tap_shapes(network(name), tap_modules(name), 224)
    assert [tap.name for tap in taps] == [f"f{number}" for number in range(1, len(taps) + 1)]
    assert tuple(tap.shape[1] for tap in taps) == SIZES[name]
    assert all(tap.shape[1] == tap.shape[2] for tap in taps)


@pytest.mark.parametrize("name", VGGS)
def test_vgg_is_cut_after_pooling_or_at_the_relu_before(name: str) -> None:
    module = network(name)
    for path in tap_modules(name, "report"):
        assert isinstance(module.get_submodule(path), nn.MaxPool2d)
    for path in tap_modules(name, "official"):
        assert isinstance(module.get_submodule(path), nn.ReLU)
    assert len(tap_modules(name)) == 5


def test_the_official_taps_are_the_authors() -> None:
    channels = [tap.shape for tap in tap_shapes(network("vgg16"), tap_modules("vgg16", "official"), 224)]
    assert channels == [(64, 224, 224), (128, 112, 112), (256, 56, 56), (512, 28, 28), (512, 14, 14)]  # 1,472 channels
    assert tap_modules("resnet152", "official") == ("layer1", "layer2", "layer3", "layer4")


def test_every_name_of_a_listed_family_has_taps_that_exist() -> None:
    """Names and modules only: building each of the 70 networks costs memory, so parameters stay on no device."""
    small = [
        n for n in torchvision.models.list_models(module=torchvision.models) if n.startswith(("resnet", "vgg", "densenet"))
    ]
    with torch.device("meta"):
        for name in small:
            module = network(name)
            for path in tap_modules(name):
                module.get_submodule(path)
    assert len(small) >= 17


@pytest.mark.parametrize("name", ["alexnet", "inception_v3", "vit_b_16", "googlenet", "vgg61", ""])
def test_a_network_without_an_entry_is_answered_with_those_that_have_one(name: str) -> None:
    with pytest.raises(UsageError, match=r"unknown backbone.*accepted: pixels, vgg16, resnet152"):
        tap_modules(name)


def test_an_unknown_tap_set_names_the_known() -> None:
    with pytest.raises(UsageError, match="accepted: report, official"):
        tap_modules("vgg16", "papers")
