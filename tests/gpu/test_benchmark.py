"""`make bench NAME=gpu` runs: on the CPU, and on a pretend GPU, so that no time of a real one is lost to a slip."""

from functools import cache
from pathlib import Path

import pytest
import torch

import gpu
import gpu_lab
import gpu_sections
from gpu import run_sections
from gpu_lab import Lab
from gpu_sections import SECTIONS
from posenet_store.backbones.load import load_backbone
from posenet_store.images.sources import load_image_set
from tests.support.pretend_cuda import pretend_cuda
from tests.support.small import write_images


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """A lab of tiny sizes; nothing is compiled, and each network is loaded once."""
    monkeypatch.setattr("torch.compile", lambda module: module)
    monkeypatch.setattr(gpu_lab, "load_backbone", cache(load_backbone))
    images = load_image_set(str(write_images(tmp_path / "photos", 6)))
    names = {"small": "resnet18", "deep": "resnet18", "vgg": "resnet18"}
    return Lab(torch.device("cpu"), tmp_path, images, **names, size=32, checked=6, batches=(2, 3), channels=16, seconds=0)  # type: ignore[arg-type]


@pytest.mark.system  # takes half a minute
@pytest.mark.parametrize("device", ["cpu", "cuda:1"])
def test_every_section_runs(lab: Lab, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_sections, "LIMITS", dict.fromkeys(gpu_lab.LIMITS, 0.1))  # what is right is not the question here
    lab.device = torch.device(device)
    saved: list[int] = []
    if lab.cuda:
        with pretend_cuda(device) as cuda:
            failed = run_sections(lab, list(SECTIONS), 600, lambda: saved.append(1))
        assert cuda.races == []
    else:
        failed = run_sections(lab, list(SECTIONS), 600, lambda: saved.append(1))
    assert failed == [], lab.figures
    assert len(saved) == len(SECTIONS)
    assert {"rows_wrong", "bytes_differ", "compiled_vs_eager", "error_float32_resnet18"} <= set(lab.ratios)
    assert (lab.ratios["rows_wrong"], lab.ratios["bytes_differ"]) == (0, 0)


def test_a_section_that_fails_or_has_no_time_does_not_end_the_others(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Lab) -> None:
        raise RuntimeError("no kernel image")

    monkeypatch.setattr(gpu, "SECTIONS", {"bad": (fail, 0), "long": (fail, 900), "environment": SECTIONS["environment"]})
    assert run_sections(lab, ["bad", "long", "environment"], 60) == ["bad"]
    assert lab.figures["bad: failed"] == "RuntimeError: no kernel image"
    assert lab.figures["long: skipped"] == "out of time"
    assert "torch" in lab.figures
