"""The table of taps against torchvision's own networks."""

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
import torchvision
from torch import Tensor, nn

from posenet_store.backbones.backbone import run_taps
from posenet_store.backbones.load import load_backbone, wrap_backbone
from posenet_store.backbones.measure import measure_taps
from posenet_store.backbones.taps import list_tap_modules
from posenet_store.backbones.torchvision_models import build_network
from posenet_store.errors import UsageError
from posenet_store.specs import BackboneSpec, Tap

VGGS = [f"vgg{depth}{norm}" for depth in (11, 13, 16, 19) for norm in ("", "_bn")]
FIVE = (112, 56, 28, 14, 7)
RESNET = (56, 56, 28, 14, 7)  # maxpool and layer1 share a size
SIZES = {
    "vgg11": FIVE,
    "vgg16": FIVE,
    "vgg16_bn": FIVE,
    "resnet18": RESNET,
    "resnet152": RESNET,
    "resnext50_32x4d": RESNET,
    "wide_resnet50_2": RESNET,
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
    "swin_t": (56, 28, 14, 7),
    "vit_b_16": (14,) * 12,
}
# of the stages' outputs, from the papers: two layers of one size differ in these
CHANNELS = {
    "vgg11": (64, 128, 256, 512, 512),
    "vgg16": (64, 128, 256, 512, 512),
    "vgg16_bn": (64, 128, 256, 512, 512),
    "resnet18": (64, 64, 128, 256, 512),
    "resnet152": (64, 256, 512, 1024, 2048),
    "resnext50_32x4d": (64, 256, 512, 1024, 2048),
    "wide_resnet50_2": (64, 256, 512, 1024, 2048),
    "densenet121": (64, 256, 512, 1024, 1024),
    "regnet_y_400mf": (32, 48, 104, 208, 440),
    "convnext_tiny": (96, 192, 384, 768),
    "efficientnet_b0": (16, 24, 40, 112, 320),
    "efficientnet_v2_s": (24, 48, 64, 160, 256),
    "efficientnet_v2_m": (24, 48, 80, 176, 512),
    "mobilenet_v2": (16, 24, 32, 96, 320),
    "mobilenet_v3_large": (16, 24, 40, 112, 160),
    "mobilenet_v3_small": (16, 16, 24, 48, 96),
    "mnasnet1_0": (16, 24, 40, 96, 320),
    "shufflenet_v2_x1_0": (24, 24, 116, 232, 464),
    "swin_t": (96, 192, 384, 768),
    "vit_b_16": (768,) * 12,
}
WITHOUT = ("alexnet", "googlenet", "inception", "maxvit", "squeezenet")
PREFIXES = (
    "vgg",
    "resnet",
    "resnext",
    "wide_resnet",
    "densenet",
    "convnext",
    "efficientnet",
    "mobilenet",
    "mnasnet",
    "shufflenet",
)
LISTED = [name for name in torchvision.models.list_models(module=torchvision.models) if name.startswith(PREFIXES)]


def network(name: str) -> nn.Module:
    """The network without memory for its parameters; RegNet computes its widths with tensors and can't start there."""
    with torch.device("cpu" if name.startswith("regnet") else "meta"):
        module = build_network(name).eval()
    return module.to("meta")


def taps_at_224(name: str, tap_set: str = "report") -> tuple[Tap, ...]:
    with torch.device("meta"):
        return measure_taps(network(name), list_tap_modules(name, tap_set), 224)[0]


@pytest.mark.parametrize("name", SIZES)
def test_taps_exist_and_shrink_as_stages_do(name: str) -> None:
    taps = taps_at_224(name)
    assert [tap.name for tap in taps] == [f"f{number}" for number in range(1, len(taps) + 1)]
    assert tuple(tap.shape[0] for tap in taps) == CHANNELS[name]
    assert tuple(tap.shape[1] for tap in taps) == SIZES[name]
    assert all(tap.shape[1] == tap.shape[2] for tap in taps)


@pytest.mark.parametrize("name", SIZES)
def test_nothing_writes_into_a_tap_after_it_was_kept(name: str) -> None:
    assert not overwritten(name, list_tap_modules(name))


def test_an_in_place_operation_behind_a_tap_would_be_seen() -> None:
    # features.0 is a convolution, and VGG's ReLU behind it works in place: why no tap may be there
    assert overwritten("vgg11", ("features.0", "features.2")) == {"features.0"}


@pytest.mark.parametrize("inplace", [True, False])
def test_a_tap_before_an_operation_in_place_is_what_its_module_returned(inplace: bool) -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=inplace), nn.MaxPool2d(2))
    backbone = wrap_backbone(module, "own", ["0", "2"], device="cpu")
    images = torch.randint(0, 256, (1, 224, 224, 3), dtype=torch.uint8)
    features = backbone.features(images)
    with torch.no_grad():
        expected = module[0](backbone.inputs(images))
    assert expected.min() < 0
    torch.testing.assert_close(features["f1"], expected)
    assert features["f2"].min() >= 0


def test_a_tap_that_other_code_overwrites_is_refused() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.pool = nn.Conv2d(3, 4, 3), nn.MaxPool2d(2)

        def forward(self, images: Tensor) -> Tensor:
            output: Tensor = self.pool(torch.relu_(self.conv(images)))
            return output

    with pytest.raises(UsageError, match="module conv returns is overwritten in place"):
        wrap_backbone(Net(), "own", ["conv", "pool"], device="cpu")


def overwritten(name: str, paths: tuple[str, ...]) -> set[str]:
    """Which outputs torch counts a write to, between their own hook and the last tap."""
    module, versions = network(name), dict[str, int]()

    def note(path: str) -> Callable[[nn.Module, object, Tensor], None]:
        def hook(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            versions[path] = output._version

        return hook

    for path in paths:
        module.get_submodule(path).register_forward_hook(note(path))
    with torch.no_grad():  # inference mode counts no writes
        outputs = run_taps(module, [(path, path) for path in paths], torch.zeros(1, 3, 224, 224, device="meta"))
    return {path for path in paths if outputs[path]._version != versions[path]}


@pytest.mark.parametrize("name", VGGS)
def test_vgg_is_cut_after_pooling_or_at_the_relu_before(name: str) -> None:
    module = network(name)
    for path in list_tap_modules(name, "report"):
        assert isinstance(module.get_submodule(path), nn.MaxPool2d)
    for path in list_tap_modules(name, "official"):
        assert isinstance(module.get_submodule(path), nn.ReLU)
    pools, relus = ([int(path.split(".")[1]) for path in list_tap_modules(name, tap_set)] for tap_set in ("report", "official"))
    assert [pool - 1 for pool in pools] == relus  # each block has several ReLUs; only the last is before its pooling
    assert len(pools) == 5


def test_the_official_taps_are_the_authors() -> None:
    channels = [tap.shape for tap in taps_at_224("vgg16", "official")]
    assert channels == [(64, 224, 224), (128, 112, 112), (256, 56, 56), (512, 28, 28), (512, 14, 14)]  # 1,472 channels
    assert list_tap_modules("resnet152", "official") == ("layer1", "layer2", "layer3", "layer4")


@pytest.mark.parametrize("name", LISTED)
def test_every_name_of_a_listed_family_ends_at_seven(name: str) -> None:
    sizes = [tap.shape[1] for tap in taps_at_224(name)]
    assert len(sizes) in (4, 5)
    assert sizes[-1] == 7
    # ResNet's maxpool and layer1 share a size; otherwise every tap halves
    assert [before / after for before, after in pairwise(sizes) if before != after] == [2.0] * (len(set(sizes)) - 1)


def test_every_network_of_torchvision_has_taps_or_a_sentence() -> None:
    refused = []
    for name in torchvision.models.list_models(module=torchvision.models):
        try:
            assert len(list_tap_modules(name)) in (4, 5, *(12, 24, 32) * name.startswith("vit")), name
        except UsageError:
            refused.append(name)
    assert refused
    assert all(name.startswith(WITHOUT) for name in refused), refused


def test_every_regnet_is_cut_at_its_blocks() -> None:
    regnets = [n for n in torchvision.models.list_models(module=torchvision.models) if n.startswith("regnet")]
    assert len(regnets) == 15
    assert len({list_tap_modules(name) for name in regnets}) == 1


@pytest.mark.parametrize("name", ["alexnet", "inception_v3", "maxvit_t", "googlenet", "vgg61", ""])
def test_a_network_without_an_entry_is_answered_with_those_that_have_one(name: str) -> None:
    with pytest.raises(UsageError, match=r"unknown backbone.*accepted: pixels, vgg16, resnet152"):
        list_tap_modules(name)


def test_an_unknown_tap_set_names_the_known() -> None:
    with pytest.raises(UsageError, match="accepted: report, official, features"):
        load_backbone(BackboneSpec("vgg11", "random:0", "papers", "cpu"))


@pytest.mark.parametrize("tap_set", ["every:0", "every:", "every:2.5", "every:x"])
def test_every_needs_a_number(tap_set: str) -> None:
    with pytest.raises(UsageError, match="every:3"):
        load_backbone(BackboneSpec("vgg11", "random:0", tap_set, "cpu"))


def test_every_counts_from_the_last_stage() -> None:
    assert list_tap_modules("vgg16", "every:2") == ("features.4", "features.16", "features.30")
