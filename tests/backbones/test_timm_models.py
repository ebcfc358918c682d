"""timm's networks against timm itself: stages, preprocessing and weights (all families: tests/system)."""

import errno
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from posenet_store.backbones import timm_models
from posenet_store.backbones.backbone import preprocess
from posenet_store.backbones.inference import fold_batch_norm
from posenet_store.backbones.load import check_backbone, load_backbone
from posenet_store.errors import PosenetStoreError, UsageError
from posenet_store.extraction.build import plan_store
from posenet_store.images.resize import resize_image
from posenet_store.images.sources import load_image_set
from posenet_store.specs import BackboneSpec
from tests.backbones.test_inference import assert_close, lively, norms
from tests.support.timm_networks import (
    NAMES,
    assert_stages_equal,
    list_stages,
    make_pixels,
    make_plain_network,
    make_spec,
    timm,
)

VIT = "timm:test_vit"
"""Six blocks of 64 channels and a class token, on 160x160 images with patches of 16 pixels."""


def test_the_table_has_the_families_that_users_ask_for() -> None:
    assert len(NAMES) >= 10
    families = ("resnet", "convnext", "vit_", "deit", "dinov2", "swin", "mixer", "efficientnet")
    assert all(any(family in name for name in NAMES) for family in families)


@pytest.mark.parametrize("name", ["test_vit", "test_convnext", "test_mambaout"])
def test_stages_are_what_timm_returns(name: str) -> None:
    backbone = load_backbone(make_spec(name))
    images = make_pixels(64)
    assert_stages_equal(backbone.features(images), make_plain_network(name, 64), backbone.inputs(images))


# How many norms are left: those of concatenations in DenseNet.
TIMM = {
    "tf_efficientnet_lite0": 0, "resnet18": 0, "mobilenetv3_small_050": 0, "regnety_002": 0, "densenet121": 62, "dla34": 0,
}  # fmt: skip


@pytest.mark.parametrize("name", TIMM)
@torch.inference_mode()
def test_a_folded_network_of_timm_is_the_plain_one(name: str) -> None:
    """Its normalisations have their activation inside, and some convolutions pad as TensorFlow does."""
    module, inputs = lively(make_plain_network(name, 96)), torch.randn(2, 3, 96, 96)
    expected = list_stages(module, inputs)
    fold_batch_norm(module, [])
    assert_close(list_stages(module, inputs), expected, 1e-4)
    assert norms(module) == TIMM[name]


@pytest.mark.parametrize("name", [*NAMES, "vit_base_patch16_siglip_224", "inception_v4"])
@pytest.mark.parametrize("sides", [(150, 90), (300, 301)])
def test_images_are_prepared_as_timm_does(name: str, sides: tuple[int, int]) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*sides, 3), dtype=np.uint8))
    config = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
    expected = timm.data.create_transform(**config)(image)
    spec = timm_models.find_preprocess(f"timm:{name}")
    (actual,) = preprocess(torch.from_numpy(resize_image(image, spec.resize).copy())[None], spec)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


def test_a_name_without_a_tag_is_completed() -> None:
    backbone = load_backbone(BackboneSpec("timm:vit_tiny_patch16_224", "random:0", size=64, device="cpu", taps="every:6"))
    assert backbone.name == "timm:vit_tiny_patch16_224.augreg_in21k_ft_in1k"
    assert [tap.module for tap in backbone.taps] == ["blocks.5", "blocks.11"]
    assert (backbone.preprocess.size, backbone.weights) == (64, "random0-64px")
    assert backbone.tap_set == "blocks.5,blocks.11"


@pytest.fixture(scope="module")
def trained() -> dict[str, Tensor]:
    """The parameters of `VIT` at its own size, from seed 3."""
    return dict(make_plain_network("test_vit", 160).state_dict())


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_and_timms_download_are_the_same_network(
    tmp_path: Path, trained: dict[str, Tensor], suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = save(tmp_path / f"mine{suffix}", trained)
    own = load_backbone(BackboneSpec(VIT, str(file), device="cpu"))
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", lambda *_, **__: trained)
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", lambda _url: None)
    generator = torch.random.get_rng_state()
    downloaded = load_backbone(BackboneSpec(VIT, device="cpu"))
    assert torch.equal(generator, torch.random.get_rng_state())
    assert (own.weights, downloaded.weights, own.weights_kind) == ("mine", "pretrained", "trained")
    assert own.weights_sha256 == downloaded.weights_sha256 == load_backbone(make_spec("test_vit", size=160)).weights_sha256
    images = make_pixels(160)
    assert_stages_equal(own.features(images), make_plain_network("test_vit", 160), own.inputs(images))


def save(file: Path, state: dict[str, Tensor]) -> Path:
    if file.suffix == ".safetensors":
        save_file({name: value.contiguous() for name, value in state.items()}, file)
    else:
        torch.save({"state_dict": state}, file)
    return file


def test_position_embeddings_are_interpolated_for_another_size_as_timm_does(tmp_path: Path, trained: dict[str, Tensor]) -> None:
    file = save(tmp_path / "mine.safetensors", trained)
    backbone = load_backbone(BackboneSpec(VIT, str(file), size=64, device="cpu"))
    overlay = {"file": str(file), "hf_hub_id": None}
    plain = timm.create_model("test_vit", img_size=64, pretrained=True, pretrained_cfg_overlay=overlay).eval()
    assert_stages_equal(backbone.features(make_pixels(64)), plain, backbone.inputs(make_pixels(64)))


def test_a_checkpoint_of_other_classes_or_without_a_classifier_fits(tmp_path: Path, trained: dict[str, Tensor]) -> None:
    ten = trained | {"head.weight": torch.zeros(10, 64), "head.bias": torch.zeros(10)}
    none = {name: value for name, value in trained.items() if not name.startswith("head.")}
    digests = {
        load_backbone(BackboneSpec(VIT, str(save(tmp_path / "mine.pth", state)), device="cpu")).weights_sha256
        for state in (trained, ten, none)
    }
    assert len(digests) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"blocks.0.mlp.fc1.weight": torch.zeros(3, 3)}, "another shape: blocks.0.mlp.fc1.weight"),
        ({"blocks.99.norm1.weight": torch.zeros(64)}, "foreign entries: blocks.99.norm1.weight"),
        ({"blocks.3.norm1.weight": None}, "lacks: blocks.3.norm1.weight"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_with_what_differs(
    tmp_path: Path, trained: dict[str, Tensor], change: dict[str, Tensor | None], message: str
) -> None:
    state = {name: value for name, value in (trained | change).items() if value is not None}
    with pytest.raises(UsageError, match=message):
        load_backbone(BackboneSpec(VIT, str(save(tmp_path / "mine.pth", state)), device="cpu"))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (BackboneSpec("timm:resnet19"), "no network 'resnet19'.*did you mean 'resnet1"),
        (BackboneSpec("timm:resnet18.a9"), "tag of timm's resnet18 'a9'.*a1_in1k"),
        (BackboneSpec("timm:mixer_s32_224"), "no trained weights for timm:mixer_s32_224.*random:SEED"),
        (BackboneSpec("timm:test_vit", "random:0", size=100), "multiple of 16 pixels.*--size 160"),
        (BackboneSpec("timm:levit_128s", "random:0", size=40), "--size 224"),
        (BackboneSpec("timm:hrnet_w18_small", "random:0"), "stages of timm:hrnet_w18_small.*--taps MODULES"),
        (BackboneSpec("timm:pit_ti_224", "random:0"), "module transformers.0 returns a tuple"),
        (BackboneSpec("timm:resnet10t", "random:0", padding="none"), "--padding none is not possible"),
        (BackboneSpec("timm:resnet10t", "hed"), "`hed` are for vgg16"),
        (BackboneSpec("timm:test_vit", "random:0", positions="none"), "unknown position embeddings 'none'.*learned, zero"),
    ],
)
def test_a_mistake_is_one_sentence(spec: BackboneSpec, message: str) -> None:
    with pytest.raises(UsageError, match=message) as raised:
        load_backbone(spec)
    assert "\n" not in str(raised.value)


def test_without_network_a_sentence_says_what_to_fetch(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_url: str) -> None:
        raise ConnectionError("Name or service not known")

    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", fail)
    with pytest.raises(PosenetStoreError, match=r"not known.*huggingface.co/timm/test_vit.r160_in1k.*--weights FILE"):
        load_backbone(BackboneSpec(VIT))


def test_weights_in_the_cache_need_no_network(monkeypatch: pytest.MonkeyPatch, trained: dict[str, Tensor]) -> None:
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: "model.safetensors")
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", lambda _url: pytest.fail("the hub was asked"))
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", lambda *_, **__: trained)
    assert load_backbone(BackboneSpec(VIT, device="cpu")).weights == "pretrained"


def test_an_answer_of_the_hub_is_for_timm_to_judge(monkeypatch: pytest.MonkeyPatch, trained: dict[str, Tensor]) -> None:
    class NotFoundError(Exception):
        response = 404

    def answer(_url: str) -> None:
        raise NotFoundError

    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", answer)
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", lambda *_, **__: trained)
    assert load_backbone(BackboneSpec(VIT, device="cpu")).weights == "pretrained"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES])
def test_a_full_disk_is_not_called_a_missing_network(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(code, "the disk's own words")

    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", lambda _url: None)
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", fail)
    with pytest.raises(OSError, match="the disk's own words"):
        load_backbone(BackboneSpec(VIT, device="cpu"))


def test_images_that_are_prepared_otherwise_are_refused() -> None:
    with pytest.raises(UsageError, match=r"crop mode 'border'.*squash or center"):
        timm_models.find_preprocess("timm:deepseek_vit_412m")


def test_trained_weights_of_a_mixer_fit_its_own_size_only(tmp_path: Path) -> None:
    state = dict(make_plain_network("gmlp_ti16_224", 64).state_dict())
    with pytest.raises(UsageError, match="another shape: blocks"):
        load_backbone(make_spec("gmlp_ti16_224", weights=str(save(tmp_path / "mine.pth", state)), size=96))


def test_downloaded_weights_of_an_mlp_fit_its_own_size_only(monkeypatch: pytest.MonkeyPatch) -> None:
    state = make_plain_network("resmlp_12_224", 64).state_dict()
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", lambda _url: None)
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", lambda *_, **__: state)
    with pytest.raises(UsageError, match=r"does not take 96x96 images.*give --size 224"):
        load_backbone(BackboneSpec("timm:resmlp_12_224", size=96, device="cpu"))


def test_without_timm_a_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("posenet_store.backbones.checks.find_spec", lambda _name: None)
    with pytest.raises(UsageError, match=r"posenet-store\[timm\]"):
        check_backbone(BackboneSpec("timm:resnet18", "random:0"))
    check_backbone(BackboneSpec("resnet18", "random:0"))


def test_a_store_knows_its_position_embeddings_and_which_tokens_were_set_aside(tmp_path: Path) -> None:
    backbone = load_backbone(make_spec("test_vit", positions="zero"))
    learned = load_backbone(make_spec("test_vit"))
    plan = plan_store(load_image_set("probes"), backbone, "aligned", "float32")
    assert plan.spec.network == "timm:test_vit.r160_in1k-random3-64px-positions-zero"
    assert plan.spec.weights_sha256 != learned.weights_sha256
    assert plan.provenance["tokens_set_aside"] == ["class"]
    again = load_backbone(plan.find_backbone_spec(device="cpu"))
    assert plan_store(load_image_set("probes"), again, "aligned", "float32").spec.fingerprint == plan.spec.fingerprint
    assert "positions" not in plan_store(load_image_set("probes"), learned, "aligned", "float32").provenance
