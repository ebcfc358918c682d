"""Backbones against plain torchvision forward hooks."""

import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import Tensor, nn

from posenet_store.backbones.backbone import Backbone, preprocess, run_taps
from posenet_store.backbones.load import load_backbone
from posenet_store.backbones.taps import list_tap_modules
from posenet_store.backbones.weights import load_weights
from posenet_store.errors import UsageError
from posenet_store.specs import BackboneSpec


@pytest.fixture(scope="module")
def resnet() -> Backbone:
    return load_backbone(BackboneSpec("resnet18", "random:0", device="cpu"))


def pixels(count: int = 2, size: int = 96) -> Tensor:
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    images = [np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC)) for image in small]
    return torch.from_numpy(np.stack(images))


def plain_network(name: str, seed: int = 0, device: str = "cpu") -> nn.Module:
    """The same parameters from torchvision itself, none of our code."""
    torch.manual_seed(seed)
    with warnings.catch_warnings(), torch.device(device):
        warnings.simplefilter("ignore")
        module: nn.Module = torchvision.models.get_model(name, weights=None).eval()
    return module


def plain_hooks(module: nn.Module, paths: tuple[str, ...], inputs: Tensor) -> list[Tensor]:
    """Every tap cloned at once, so that no later in-place operation can reach it; the whole network runs."""
    outputs: dict[str, Tensor] = {}

    def keep(path: str) -> Callable[[nn.Module, object, Tensor], None]:
        def hook(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            outputs[path] = output.clone()

        return hook

    for path in paths:
        module.get_submodule(path).register_forward_hook(keep(path))
    with torch.no_grad():
        module(inputs)
    return [outputs[path] for path in paths]


def imagenet_inputs(images: Tensor) -> Tensor:
    from torchvision import transforms

    chain = transforms.Compose([transforms.ToTensor(), transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])])
    return torch.stack([chain(Image.fromarray(image.numpy())) for image in images])


def hed_inputs(images: Tensor) -> Tensor:
    """Caffe's way: blue first, 0..255, a mean a channel and no deviation."""
    blue, green, red = (images[..., channel].float() for channel in (2, 1, 0))
    return torch.stack([blue - 104.00699, green - 116.66877, red - 122.67892], dim=1)


def assert_same(backbone: Backbone, expected: list[Tensor]) -> None:
    actual = backbone.features(pixels())
    assert list(actual) == [tap.name for tap in backbone.taps]
    for value, plain in zip(actual.values(), expected, strict=True):
        scale = plain.abs().max().item()
        torch.testing.assert_close(value, plain, rtol=1e-5, atol=1e-5 * scale)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "densenet121", "convnext_tiny"])
def test_features_equal_plain_hooks(name: str) -> None:
    expected = plain_hooks(plain_network(name, 3), list_tap_modules(name), imagenet_inputs(pixels()))
    assert_same(load_backbone(BackboneSpec(name, "random:3", device="cpu")), expected)


@pytest.mark.parametrize("tap_set", ["report", "official"])
def test_trained_vgg_features_equal_plain_hooks(tap_set: str) -> None:
    backbone = load_backbone(BackboneSpec("vgg16", "hed", tap_set, device="cpu"))
    module = plain_network("vgg16", device="meta")  # no time spent on parameters that are replaced
    trained = load_weights("hed", "vgg16").state
    assert trained is not None
    module.load_state_dict(dict(trained), strict=False, assign=True)
    module.classifier = nn.Identity()
    assert_same(backbone, plain_hooks(module, list_tap_modules("vgg16", tap_set), hed_inputs(pixels())))


def test_preprocessing_is_torchvisions(resnet: Backbone) -> None:
    assert resnet.preprocess.size == 224
    torch.testing.assert_close(resnet.inputs(pixels()), imagenet_inputs(pixels()), rtol=1e-6, atol=1e-6)


def test_preprocessing_for_hed_is_caffes() -> None:
    spec = load_weights("hed", "vgg16").preprocess
    assert spec.size == 224
    torch.testing.assert_close(preprocess(pixels(), spec), hed_inputs(pixels()), rtol=1e-6, atol=1e-6)


def test_pixels_are_the_image_itself() -> None:
    backbone = load_backbone(BackboneSpec("pixels", device="cpu"))
    images = pixels(size=28)
    assert images.min() < 64 < 192 < images.max()  # 0..255 reaches the head, not 0..1
    (actual,) = backbone.features(images).values()
    assert torch.equal(actual, images.permute(0, 3, 1, 2).float())
    assert backbone.preprocess.size == 28


def test_one_forward_pass_gives_all_taps_and_nothing_behind_the_last_runs(resnet: Backbone) -> None:
    calls: list[str] = []

    def note(name: str) -> Callable[[nn.Module, object], None]:
        return lambda _module, _inputs: calls.append(name)

    handles = [resnet.module.get_submodule(path).register_forward_pre_hook(note(path)) for path in ("", "layer4", "avgpool")]
    resnet.features(pixels())
    for handle in handles:
        handle.remove()
    assert calls == ["", "layer4"]  # torch calls the whole network ""


def test_no_hook_is_left_behind(resnet: Backbone) -> None:
    resnet.features(pixels())
    with pytest.raises(RuntimeError):  # a failed pass leaves none either
        run_taps(resnet.module, [("f1", "layer1")], torch.zeros(1, 4, 32, 32))
    assert not any(module._forward_hooks for module in resnet.module.modules())


def test_frozen_means_frozen(resnet: Backbone) -> None:
    assert not any(module.training for module in resnet.module.modules())
    assert not any(parameter.requires_grad for parameter in resnet.module.parameters())
    before = {name: value.clone() for name, value in resnet.module.state_dict().items()}
    resnet.features(pixels())
    assert all(torch.equal(value, before[name]) for name, value in resnet.module.state_dict().items())


def test_an_image_alone_has_the_features_it_has_in_a_batch(resnet: Backbone) -> None:
    together, alone = resnet.features(pixels(4)), resnet.features(pixels(4)[2:3])
    for name, value in alone.items():
        torch.testing.assert_close(together[name][2:3], value, rtol=1e-5, atol=1e-5 * value.abs().max().item())


def test_a_seed_is_a_network_and_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(9)
    before = torch.random.get_rng_state()
    digests = [load_backbone(BackboneSpec("resnet18", f"random:{seed}", device="cpu")).weights_sha256 for seed in (0, 0, 1)]
    assert torch.equal(before, torch.random.get_rng_state())
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize(
    ("name", "weights", "taps", "device", "message"),
    [
        ("resnet19", "random:0", "report", "cpu", "unknown backbone 'resnet19'.*did you mean"),
        ("alexnet", "random:0", "report", "cpu", "unknown backbone 'alexnet'; accepted: pixels"),
        ("resnet18", "random", "report", "cpu", "unknown weights 'random'.*accepted: imagenet"),
        ("resnet18", "random:0", "all", "cpu", "unknown tap set"),
        ("resnet18", "random:0", "report", "gpu", "unknown device 'gpu'.*accepted: auto, cpu, cuda"),
    ],
)
def test_a_mistake_names_what_is_accepted(name: str, weights: str, taps: str, device: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_backbone(BackboneSpec(name, weights, taps, device))
