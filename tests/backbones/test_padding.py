"""Other paddings of trained networks, against torch's own convolutions and against shifted images."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.resnet import BasicBlock, Bottleneck

from posenet_store.backbones import timm_models, torchvision_models
from posenet_store.backbones.backbone import run_taps
from posenet_store.backbones.load import check_backbone, load_backbone
from posenet_store.backbones.padding import SameConv2d, check_no_zeros, check_padding, replace_padding
from posenet_store.backbones.taps import list_tap_modules
from posenet_store.errors import UsageError
from posenet_store.specs import PADDINGS, TAP_SETS, BackboneSpec
from tests.backbones.test_backbone import imagenet_inputs, pixels, plain_hooks, plain_network

MODES = [mode for mode in PADDINGS if mode not in ("zeros", "none")]


def plain_padded(name: str, mode: str) -> nn.Module:
    """torchvision's network with every convolution built anew with torch's own `padding_mode`; all of it in float64."""
    module = plain_network(name).double()
    for parent in list(module.modules()):
        for child_name, old in list(parent.named_children()):
            if isinstance(old, nn.Conv2d):
                new = nn.Conv2d(
                    old.in_channels, old.out_channels, old.kernel_size, old.stride, old.padding, bias=old.bias is not None,  # type: ignore[arg-type]
                    padding_mode=mode, dtype=torch.float64,  # type: ignore[arg-type]
                )  # fmt: skip
                new.load_state_dict(old.state_dict())
                setattr(parent, child_name, new)
    return module.eval()


def by_hand(mode: str) -> Callable[[nn.Module, tuple[Tensor]], Tensor]:
    """A hook that pads the max-pool's input by copying rows and columns: what lies beyond the border, by index."""

    def hook(_pool: nn.Module, inputs: tuple[Tensor]) -> Tensor:
        side = inputs[0].shape[-1]
        first, last = {"reflect": (1, side - 2), "replicate": (0, side - 1), "circular": (side - 1, 0)}[mode]
        places = torch.tensor([first, *range(side), last])
        return inputs[0][..., places, :][..., places]

    return hook


@pytest.mark.parametrize("mode", MODES)
def test_vgg_is_the_network_of_torchs_own_padded_convolutions(mode: str) -> None:
    expected = plain_hooks(plain_padded("vgg11", mode), list_tap_modules("vgg11"), imagenet_inputs(pixels()).double())
    network = load_backbone(BackboneSpec("vgg11", "random:0", device="cpu", padding=mode))
    for actual, wanted in zip(network.features(pixels()).values(), expected, strict=True):
        torch.testing.assert_close(actual.double(), wanted, rtol=1e-4, atol=1e-5 * wanted.abs().max().item())


@pytest.mark.parametrize("mode", MODES)
def test_resnet_is_the_network_of_torchs_own_padded_convolutions_and_a_pool_padded_alike(mode: str) -> None:
    plain = plain_padded("resnet18", mode)
    pool = plain.get_submodule("maxpool")
    pool.padding = 0  # type: ignore[assignment]
    pool.register_forward_pre_hook(by_hand(mode))
    expected = plain_hooks(plain, list_tap_modules("resnet18"), imagenet_inputs(pixels()).double())
    network = load_backbone(BackboneSpec("resnet18", "random:0", device="cpu", padding=mode))
    for actual, wanted in zip(network.features(pixels()).values(), expected, strict=True):
        torch.testing.assert_close(actual.double(), wanted, rtol=1e-4, atol=1e-5 * wanted.abs().max().item())


def test_the_stages_of_unpadded_vgg_have_the_published_sizes() -> None:
    """220/106/47/17/2 at 224: the official taps, before pooling (computed from the paper's description of Table 4)."""
    network = load_backbone(BackboneSpec("vgg16", "random:0", "official", "cpu", padding="none"))
    assert [tap.shape[1:] for tap in network.taps] == [(side, side) for side in (220, 106, 47, 17, 2)]
    assert [tap.shape[0] for tap in network.taps] == [64, 128, 256, 512, 512]


@pytest.mark.parametrize(("name", "padding"), [("vgg11_bn", "none"), ("resnet50", "none"), ("resnet18", "circular")])
def test_trained_weights_are_kept(name: str, padding: str) -> None:
    network = load_backbone(
        BackboneSpec(name, "random:0", device="cpu", padding=padding, size=448 if padding == "none" else None)
    )
    plain = load_backbone(BackboneSpec(name, "random:0", device="cpu"))
    assert network.weights_sha256 == plain.weights_sha256
    own, theirs = network.module.state_dict(), plain.module.state_dict()
    assert list(own) == list(theirs)
    assert all(torch.equal(own[key], theirs[key]) for key in own)


def block_of(kind: type[BasicBlock | Bottleneck], stride: int) -> nn.Module:
    """A residual block with weights and statistics of its own; with stride 1 and equal widths its skip is the identity."""
    torch.manual_seed(0)
    into, width = 8, 8 // kind.expansion
    skip = None
    if stride > 1:
        skip = nn.Sequential(nn.Conv2d(into, 8, 1, stride, bias=False), nn.BatchNorm2d(8))
    block: nn.Module = kind(into, width, stride, skip)
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean = torch.randn(module.num_features)
    return block.double().eval()


@pytest.mark.parametrize("side", [15, 16])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kind", [BasicBlock, Bottleneck])
@torch.no_grad()
def test_an_unpadded_block_is_the_inside_of_a_padded_one(kind: type[BasicBlock | Bottleneck], stride: int, side: int) -> None:
    """Off the border a padded block sees no zero, so it must agree there, once its image begins where a centre lies.

    The first centre of the unpadded block is `margin` pixels inside; the padded one's is its first pixel.
    """
    margin = 1 if kind is Bottleneck else 1 + stride
    images = torch.randn(2, 8, side, side, dtype=torch.float64)
    padded = block_of(kind, stride)(images[..., margin:, margin:].clone())
    unpadded = replace_padding(nn.Sequential(block_of(kind, stride)), "none")(images.clone())
    assert torch.isfinite(unpadded).all()
    inner = slice(2, unpadded.shape[-1])  # its first two rows and columns look beyond the shifted image
    torch.testing.assert_close(unpadded[..., inner, inner], padded[..., inner, inner], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", [BasicBlock, Bottleneck])
@torch.no_grad()
def test_an_unpadded_block_is_its_formula_with_a_cropped_skip(kind: type[BasicBlock | Bottleneck]) -> None:
    """Stride 1: the sum of the bare convolutions and of the input without its border, written out."""
    block, images = block_of(kind, 1), torch.randn(1, 8, 9, 9, dtype=torch.float64)
    value, margin = images, 0
    names = ("1", "2") if kind is BasicBlock else ("1", "2", "3")
    for name in names:
        conv, norm = block.get_parameter(f"conv{name}.weight"), block.get_submodule(f"bn{name}")
        value = norm(functional.conv2d(value, conv))
        value = value.relu() if name != names[-1] else value
        margin += conv.shape[-1] // 2
    expected = (value + images[..., margin:-margin, margin:-margin]).relu()
    torch.testing.assert_close(replace_padding(nn.Sequential(block), "none")(images.clone()), expected, rtol=1e-12, atol=1e-12)


SHIFTS = pytest.mark.parametrize(
    ("name", "tap", "step", "size"), [("vgg11", "f3", 8, 96), ("resnet18", "f2", 4, 96), ("resnet50", "f3", 8, 192)]
)


def shifted(name: str, tap: str, step: int, size: int, padding: str) -> tuple[Tensor, Tensor]:
    """Features of two crops of one image, `step` pixels apart, at the places that both see, float64."""
    torch.manual_seed(1)
    scene = torch.randn(1, 3, size + step, size + step, dtype=torch.float64)
    module = replace_padding(plain_network(name).double(), padding)
    path = list_tap_modules(name)[int(tap[1]) - 1]
    outputs = []
    for start in (0, step):
        with torch.no_grad():
            outputs.append(run_taps(module, [(tap, path)], scene[..., start : start + size, start : start + size])[tap])
    return outputs[0][..., 1:, 1:], outputs[1][..., :-1, :-1]


@SHIFTS
def test_without_padding_a_shifted_image_has_shifted_features(name: str, tap: str, step: int, size: int) -> None:
    first, second = shifted(name, tap, step, size, "none")
    assert first.shape[-1] >= 3
    torch.testing.assert_close(first, second, rtol=1e-9, atol=1e-9 * first.abs().max().item())


@SHIFTS
def test_with_zeros_it_does_not_near_the_border(name: str, tap: str, step: int, size: int) -> None:
    first, second = shifted(name, tap, step, size, "zeros")
    difference = (first - second).abs().amax((0, 1)) / first.abs().max()
    assert difference[0].max() > 1e-3
    assert difference[:, -1].max() > 1e-3


@pytest.mark.parametrize(("name", "least"), [("resnet18", 435), ("resnet50", 427), ("vgg19", 268)])
def test_a_network_that_leaves_nothing_of_an_image_says_which_size_it_takes(name: str, least: int) -> None:
    with pytest.raises(UsageError, match=f"{name}: nothing is left of a 224x224 image"):
        load_backbone(BackboneSpec(name, "random:0", device="cpu", padding="none"))
    network = load_backbone(BackboneSpec(name, "random:0", device="cpu", padding="none", size=least))
    assert network.taps[-1].shape[1:] == (1, 1)
    assert network.weights == f"random0-{least}px"


@pytest.mark.parametrize("name", ["densenet121", "mobilenet_v2", "regnet_y_400mf"])
def test_padding_can_not_be_removed_from_other_families(name: str) -> None:
    check_padding(name, "zeros")
    accepted = "only for vgg\\*, resnet\\*, .*; accepted for it: zeros, replicate, reflect, circular"
    with pytest.raises(UsageError, match=f"--padding none is not possible for {name}, {accepted}"):
        load_backbone(BackboneSpec(name, "random:0", device="cpu", padding="none"))


@pytest.mark.parametrize("name", ["densenet121", "mobilenet_v2", "regnet_y_400mf", "convnext_tiny"])
@pytest.mark.parametrize("padding", MODES)
def test_padding_can_be_replaced_in_any_network_of_convolutions(name: str, padding: str) -> None:
    check_backbone(BackboneSpec(name, "random:0", device="cpu", padding=padding))


@pytest.mark.parametrize(
    ("name", "padding", "reason"),
    [
        ("pixels", "none", "pixels, which have no padding"),
        ("pixels", "circular", "pixels, which have no padding"),
        ("vit_b_32", "reflect", "changes nothing of vit_b_32: its convolutions have no padding"),
    ],
)
def test_a_network_without_padding_has_none_to_replace(name: str, padding: str, reason: str) -> None:
    with pytest.raises(UsageError, match=f"--padding {padding} .*{reason}"):
        check_backbone(BackboneSpec(name, "random:0" if name != "pixels" else "imagenet", device="cpu", padding=padding))


class PaddedByHand(nn.Module):
    """A network with zeros that no convolution or max-pool adds."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.conv, self.kind = nn.Conv2d(3, 2, 3, padding=1), kind

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return functional.pad(x, (1, 1, 1, 1)) if self.kind == "constant_pad_nd" else functional.avg_pool2d(x, 3, 2, 1)


@pytest.mark.parametrize("kind", ["constant_pad_nd", "avg_pool2d"])
def test_zeros_that_are_not_replaced_are_found(kind: str) -> None:
    network = replace_padding(PaddedByHand(kind), "reflect")
    with pytest.raises(UsageError, match=f"--padding reflect is not possible for mine: zeros remain in {kind}"):
        check_no_zeros(network, 16, "mine", "reflect")


def _draw_statistics(module: nn.Module) -> nn.Module:
    """Give batch normalisations statistics and parameters of their own, so that nothing is 0 or symmetric by chance."""
    draw = torch.Generator().manual_seed(0)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            for values in (part.weight.data, part.bias.data, part.running_mean, part.running_var):
                assert values is not None
                values.copy_(torch.rand(values.shape, generator=draw) + 0.5)
    return module.double().eval()


@pytest.mark.parametrize(
    "name", ["densenet121", "mobilenet_v3_small", "timm:tf_efficientnet_lite0", "timm:tf_mobilenetv3_small_075"]
)
def test_with_circular_padding_a_turned_image_has_turned_features(name: str) -> None:
    """Columns that leave at one side come in at the other: no position is special, so none of the paddings is zeros."""
    size, step = 96, 32
    images = torch.randn(1, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    zoo = timm_models if name.startswith("timm:") else torchvision_models
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = zoo.build_network(name, size)
    changes = {}
    for padding in ("zeros", "circular"):
        module = replace_padding(_draw_statistics(deepcopy(network)), padding)
        path = zoo.list_taps(name, module, TAP_SETS[0])[-1] if zoo is timm_models else list_tap_modules(name)[-1]
        with torch.no_grad():
            plain, turned = (
                run_taps(module, [("f5", path)], torch.roll(images, (shift, shift), (2, 3)))["f5"] for shift in (0, step)
            )
        changes[padding] = float((torch.roll(plain, (1, 1), (2, 3)) - turned).abs().max() / plain.abs().max())
    assert changes["circular"] < 1e-9 and changes["zeros"] > 1e-3, changes


@pytest.mark.parametrize(("mode", "numpy_mode"), [("reflect", "reflect"), ("replicate", "edge"), ("circular", "wrap")])
@pytest.mark.parametrize(("side", "kernel", "stride"), [(8, 3, 2), (9, 3, 2), (7, 5, 2), (8, 5, 1)])
def test_uneven_padding_is_tensorflows_with_another_border(
    mode: str, numpy_mode: Any, side: int, kernel: int, stride: int
) -> None:
    """SAME by its definition: ceil(n / stride) windows; of an odd number of missing pixels the larger half is at the end."""
    images = torch.randn(1, 2, side, side, generator=torch.Generator().manual_seed(0))
    conv = nn.Conv2d(2, 3, kernel, stride)
    missing = max((-(-side // stride) - 1) * stride + kernel - side, 0)
    ends = (missing // 2, missing - missing // 2)
    padded = np.pad(images.numpy(), ((0, 0), (0, 0), ends, ends), mode=numpy_mode)
    torch.testing.assert_close(SameConv2d(conv, mode)(images), conv(torch.from_numpy(padded)))


def test_an_unknown_padding_is_refused() -> None:
    with pytest.raises(UsageError, match="unknown padding 'mirror'; accepted: zeros, none, reflect, replicate, circular"):
        load_backbone(BackboneSpec("vgg11", "random:0", device="cpu", padding="mirror"))


def test_unit_input_is_totensor_alone() -> None:
    network = load_backbone(BackboneSpec("resnet18", "random:0", device="cpu", preprocess="unit"))
    torch.testing.assert_close(network.inputs(pixels()), pixels().permute(0, 3, 1, 2) / 255, rtol=1e-6, atol=1e-7)
    assert network.weights == "random0-unit"
    with pytest.raises(UsageError, match="unknown preprocessing 'none'; accepted: weights, unit"):
        load_backbone(BackboneSpec("resnet18", "random:0", device="cpu", preprocess="none"))
