"""A network that no longer gives what a store holds is noticed: by `verify --probe`, and when a build resumes."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from posenet_store.errors import BuildError
from posenet_store.extraction import build as extract
from posenet_store.extraction.build import build_store, plan_store
from posenet_store.extraction.reference_check import TOLERANCE, compare_samples, describe_drift, sample_taps
from posenet_store.images.image_set import ImageSet
from posenet_store.images.sources import load_image_set
from tests.support.small import tiny_backbone, write_images


def test_the_same_network_does_not_drift() -> None:
    assert compare_samples(sample_taps(tiny_backbone()), sample_taps(tiny_backbone())) == {"f1": 0.0, "f2": 0.0, "f3": 0.0}


def test_rounding_of_the_weights_is_within_the_tolerance_and_other_weights_are_not() -> None:
    recorded = sample_taps(tiny_backbone())
    rounded = tiny_backbone()
    with torch.no_grad():
        for parameter in rounded.module.parameters():
            parameter.copy_(parameter.half().float())
    assert describe_drift(compare_samples(recorded, sample_taps(rounded))) == ""
    assert max(compare_samples(recorded, sample_taps(rounded)).values()) > 0
    assert set(describe_drift(compare_samples(recorded, sample_taps(tiny_backbone(seed=1)))).split()) >= {"f1", "f2", "f3"}


def test_other_preprocessing_is_noticed() -> None:
    """Even in a field that a fingerprint would miss: how an image is resized."""
    backbone = tiny_backbone()
    other = replace(backbone, preprocess=replace(backbone.preprocess, mean=(0.45, 0.5, 0.5)))
    assert max(compare_samples(sample_taps(backbone), sample_taps(other)).values()) > TOLERANCE


def test_bfloat16_on_another_device_is_no_drift() -> None:
    """Its seven bits, summed in another order, differ by up to 3.5 % after 152 layers."""
    assert describe_drift({"f5": 0.035}, "bfloat16+compile") == ""
    assert describe_drift({"f5": 0.035}, "tf32") == describe_drift({"f5": 0.035}) == "f5 by 3.5 %"
    assert describe_drift({"f5": 0.24}, "bfloat16") == "f5 by 24.0 %"  # another resize filter


def test_values_are_judged_together_not_by_the_one_that_differs_most() -> None:
    before = {"f1": {"mean": 1.0, "rms": 2.0, "values": [1.0] * 16}}
    now = {"f1": {"mean": 1.0, "rms": 2.0, "values": [1.04, *[1.0] * 15]}}
    assert compare_samples(before, now)["f1"] == pytest.approx(0.02 / 4)
    assert compare_samples(before, {"f1": before["f1"] | {"values": [1.04] * 16}})["f1"] == pytest.approx(0.02)
    assert compare_samples(before, {"f1": before["f1"] | {"rms": 2.5}})["f1"] == pytest.approx(0.25)


def test_features_that_overflow_are_not_blamed_on_the_weights_alone() -> None:
    backbone = tiny_backbone()
    with torch.no_grad():
        next(backbone.module.parameters()).fill_(torch.inf)
    with pytest.raises(BuildError, match="overflow there: --precision bfloat16"):
        sample_taps(backbone)


def test_a_dead_tap_is_compared_too() -> None:
    dead = {"f1": {"mean": 0.0, "rms": 0.0, "values": [0.0]}}
    alive = {"f1": {"mean": 0.5, "rms": 1.0, "values": [0.0]}}
    assert compare_samples(dead, dead) == {"f1": 0.0}
    assert compare_samples(dead, alive) == {"f1": 1.0}


@pytest.fixture
def images(tmp_path: Path) -> ImageSet:
    return load_image_set(str(write_images(tmp_path / "photos", 10)))


def test_a_resumed_build_refuses_to_mix_features(images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = tiny_backbone()
    first = plan_store(images, backbone, "native", "float32", 4)
    build_store(images, backbone, first, tmp_path, part=(1, 2))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.json")}
    monkeypatch.setattr(extract, "sample_taps", lambda _: sample_taps(tiny_backbone(scale=1.1)))  # what a library might do
    drifted = plan_store(images, backbone, "native", "float32", 4)
    with pytest.raises(BuildError, match=r"no longer gives .* f1 by .* made with .*torch"):
        build_store(images, backbone, drifted, tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.json")} == before
    assert build_store(images, backbone, first, tmp_path).missing == 0


def test_a_store_without_a_probe_on_record_resumes(images: ImageSet, tmp_path: Path) -> None:
    """Somebody edited its plan.json."""
    backbone = tiny_backbone()
    plan = plan_store(images, backbone, "native", "float32", 4)
    build_store(images, backbone, plan, tmp_path, part=(1, 2))
    (written,) = tmp_path.glob("*/plan.json")
    content = json.loads(written.read_text())
    del content["provenance"]["probe"]
    written.write_text(json.dumps(content))
    assert build_store(images, backbone, plan, tmp_path).missing == 0


def test_features_that_float16_would_lose_are_refused_before_the_build(tmp_path: Path) -> None:
    images, backbone = load_image_set(str(write_images(tmp_path / "photos", 4))), tiny_backbone(scale=1e-4)
    with pytest.raises(BuildError, match=r"f3 .*--dtype float32"):
        plan_store(images, backbone, "native", "float16")
    assert plan_store(images, backbone, "native", "float32").spec.dtype == "float32"
