"""On a real GPU: what `make bench NAME=gpu` checks, and stores as the command line builds them."""

from pathlib import Path

import pytest
import torch

from gpu import prepare_lab
from gpu_sections import SECTIONS
from posenet_store.backbones.device import find_cuda_fault
from posenet_store.backbones.load import load_backbone
from posenet_store.extraction.build import build_store, plan_store
from posenet_store.images.sources import load_image_set
from posenet_store.specs import BackboneSpec
from tests.support.small import contents, write_images

FAULT = find_cuda_fault()
CHECKS = [name for name, (work, _) in SECTIONS.items() if work.__name__.startswith("check_")]
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(FAULT is not None, reason=str(FAULT))]


@pytest.mark.parametrize("name", CHECKS)
def test_what_the_benchmark_checks(tmp_path: Path, name: str) -> None:
    lab = prepare_lab(torch.device("cuda"), tmp_path, 48)
    SECTIONS[name][0](lab)


def test_a_store_is_the_same_to_the_last_bit_whatever_the_interruption(tmp_path: Path) -> None:
    images = load_image_set(str(write_images(tmp_path / "photos", 14)))
    backbone = load_backbone(BackboneSpec("resnet18", "random:0", "report", "cuda"))
    plan = plan_store(images, backbone, "native", "float16", 4)
    for part in ((2, 2), (1, 2)):
        parts = build_store(images, backbone, plan, tmp_path / "parts", part=part).path
    assert contents(parts) == contents(build_store(images, backbone, plan, tmp_path / "whole").path)
