"""A network at its best gives what the plain one gives; other precisions are other stores, and say so."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from posenet_store.backbones.backbone import run_taps
from posenet_store.backbones.inference import check_compute, fold_batch_norm, prepare_network
from posenet_store.backbones.load import load_backbone
from posenet_store.backbones.taps import list_tap_modules
from posenet_store.errors import PosenetStoreError, UsageError
from posenet_store.extraction.build import build_store, plan_store
from posenet_store.images.sources import load_image_set
from posenet_store.specs import COMPUTES, BackboneSpec, StoreSpec
from tests.backbones.test_backbone import pixels, plain_network
from tests.support.small import tiny_backbone, write_images
from tests.test_specs import SPEC

FAMILIES = (
    "vgg11_bn", "resnet18", "resnext50_32x4d", "densenet121", "regnet_x_400mf", "regnet_y_400mf", "convnext_tiny",
    "efficientnet_b0", "efficientnet_v2_s", "mobilenet_v2", "mobilenet_v3_small", "mnasnet0_5", "shufflenet_v2_x0_5",
)  # fmt: skip
UNFOLDED = {
    # what a convolution does not stand before: DenseNet's norms of concatenations, ConvNeXt has none at all
    "densenet121": 62,
}


def lively(module: nn.Module) -> nn.Module:
    """Batch normalisation with statistics as training leaves them: folding must use all four parameters."""
    torch.manual_seed(1)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            for values, low, high in ((part.running_mean, -0.1, 0.1), (part.running_var, 0.5, 2.0), (part.bias, -0.1, 0.1)):
                assert values is not None
                nn.init.uniform_(values, low, high)
            nn.init.uniform_(part.weight, 0.7, 1.3)
    return module.eval()


def norms(module: nn.Module) -> int:
    return sum(isinstance(part, nn.BatchNorm2d) for part in module.modules())


def assert_close(actual: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    for name, value in expected.items():
        error = (actual[name] - value).square().mean().sqrt() / value.square().mean().sqrt()
        assert error < tolerance, name


@pytest.mark.parametrize("name", FAMILIES)
@torch.inference_mode()
def test_a_folded_network_is_the_plain_one(name: str) -> None:
    """To 1e-4 of the root mean square: rounding of some hundred layers in another order."""
    module, inputs = lively(plain_network(name)), torch.randn(2, 3, 96, 96)
    named = [(path, path) for path in list_tap_modules(name)]
    expected = {path: value.clone() for path, value in run_taps(module, named, inputs).items()}
    prepare_network(module, list_tap_modules(name), "float32")
    assert_close(run_taps(module, named, inputs), expected, 1e-4)
    assert norms(module) == UNFOLDED.get(name, 0)


class _Standardised(nn.Conv2d):
    """Changes its weights in every pass, as `timm.layers.StdConv2d` does."""

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.conv2d(images, self.weight / self.weight.norm(), self.bias)


@torch.inference_mode()
def test_a_convolution_that_changes_its_weights_is_not_folded() -> None:
    module, inputs = lively(nn.Sequential(_Standardised(3, 4, 1), nn.BatchNorm2d(4))), torch.randn(2, 3, 8, 8)
    expected = module(inputs)
    fold_batch_norm(module, ["1"])
    assert torch.equal(module(inputs), expected) and norms(module) == 1


class _Branches(nn.Module):
    """Convolutions whose outputs are read by others, or twice, or whose weights are shared."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.two, self.again = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.stem = nn.Sequential(nn.Conv2d(4, 4, 1))
        self.last = nn.BatchNorm2d(4)

    def forward(self, images: Tensor) -> Tensor:
        first = self.one(images)
        second = self.two(self.norm(first) + first)
        third: Tensor = self.last(self.stem(self.two(self.again(second))))
        return third


@pytest.mark.parametrize(("taps", "left"), [(["last"], 2), (["stem", "last"], 3), (["stem.0", "last"], 3)])
@torch.inference_mode()
def test_what_others_read_is_not_folded(taps: list[str], left: int) -> None:
    module, inputs = lively(_Branches()), torch.randn(2, 3, 9, 9)
    named = [(path, path) for path in taps]
    expected = {path: value.clone() for path, value in run_taps(module, named, inputs).items()}
    fold_batch_norm(module, taps)
    assert norms(module) == left
    assert_close(run_taps(module, named, inputs), expected, 1e-5)


def test_bfloat16_is_near_and_float32_on_the_outside() -> None:
    plain, lower = (
        load_backbone(BackboneSpec("resnet18", "random:0", "report", "cpu", compute)) for compute in ("float32", "bfloat16")
    )
    expected, actual = plain.features(pixels()), lower.features(pixels())
    assert {value.dtype for value in actual.values()} == {torch.float32}
    assert_close(actual, expected, 0.05)
    assert any(not torch.equal(actual[name], expected[name]) for name in expected)


def test_float16_is_refused_on_a_processor() -> None:
    for compute in ("float16", "tf32"):
        with pytest.raises(UsageError, match=f"{compute} needs a CUDA device; on a CPU use bfloat16"):
            load_backbone(BackboneSpec("resnet18", "random:0", "report", "cpu", compute))
        check_compute(f"{compute}+compile", torch.device("cuda"))


@pytest.mark.system
def test_a_compiled_network_is_the_plain_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Through dynamo alone: code generation is torch's own, and takes a minute."""
    compiler = torch.compile
    monkeypatch.setattr("torch.compile", lambda module: compiler(module, backend="eager"))
    for name in ("resnet18", "mobilenet_v2"):
        actual = load_backbone(BackboneSpec(name, "random:0", "report", "cpu", "float32+compile")).features(pixels())
        assert_close(actual, load_backbone(BackboneSpec(name, "random:0", device="cpu")).features(pixels()), 1e-4)


@pytest.mark.system
def test_a_network_is_compiled_once_for_batches_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    compiler, graphs = torch.compile, list[torch.fx.GraphModule]()

    def count(graph: torch.fx.GraphModule, _inputs: object) -> object:
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr("torch.compile", lambda module: compiler(module, backend=count))
    images = pixels()[:1]
    backbone = load_backbone(BackboneSpec("resnet18", "random:0", "report", "cpu", "float32+compile", size=images.shape[1]))
    for batch in (1, 4, 3, 1):
        assert {len(value) for value in backbone.features(images.repeat(batch, 1, 1, 1)).values()} == {batch}
    assert len(graphs) == 1


def test_no_compiler_is_an_error_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(module: nn.Module) -> nn.Module:
        def call(inputs: Tensor) -> Tensor:
            raise RuntimeError("no C++ compiler found")

        module.forward = call
        return module

    monkeypatch.setattr("torch.compile", broken)
    with pytest.raises(PosenetStoreError, match=r"can't compile .*no C\+\+ compiler found.*leave --compile out"):
        load_backbone(BackboneSpec("resnet18", "random:0", "report", "cpu", "float32+compile"))


def test_the_way_to_compute_is_part_of_a_stores_identity_and_of_its_label() -> None:
    specs = [replace(SPEC, compute=compute) for compute in COMPUTES]
    assert len({spec.fingerprint for spec in specs}) == len({spec.network_key for spec in specs}) == len(COMPUTES)
    assert {spec.compute: spec.network for spec in specs[:3]} == {
        "float32": "vgg16-imagenet",
        "float32+compile": "vgg16-imagenet-float32+compile",
        "bfloat16": "vgg16-imagenet-bfloat16",
    }
    assert all(StoreSpec.from_dict(spec.to_dict()) == spec for spec in specs)
    assert SPEC.to_dict()["compute"] == "float32"  # a spec writes every field, defaults too
    with pytest.raises(UsageError, match="unknown way to compute 'float8'"):
        replace(SPEC, compute="float8")


def test_a_store_in_another_precision_stands_beside_the_first(tmp_path: Path) -> None:
    images = load_image_set(str(write_images(tmp_path / "photos", 6)))
    for compute in ("float32", "bfloat16"):
        backbone = replace(tiny_backbone(), compute=compute)
        build_store(images, backbone, plan_store(images, backbone, "native", "float16", 4), tmp_path / "stores")
    assert len(list((tmp_path / "stores").iterdir())) == 2
