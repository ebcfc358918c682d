"""Which device a name means, and what is said where no GPU can be used."""

import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from posenet_store.backbones import device as devices
from posenet_store.backbones.device import explain_cpu, find_cuda_fault, parse_device
from posenet_store.backbones.inference import set_precision
from posenet_store.backbones.load import load_backbone
from posenet_store.errors import UsageError
from posenet_store.extraction.distributed import Part, split_build
from posenet_store.specs import BackboneSpec


@pytest.fixture
def cards(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Two GPUs that this torch has kernels for."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H100")
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_80", "sm_90"])
    return monkeypatch


def test_a_gpu_is_named_by_its_number(cards: pytest.MonkeyPatch) -> None:
    assert parse_device("cuda:1") == torch.device("cuda:1")
    assert parse_device("cuda").type == parse_device("auto").type == "cuda"
    with pytest.raises(UsageError, match="cuda:2: this machine has 2 CUDA devices, the last is cuda:1"):
        parse_device("cuda:2")


@pytest.mark.parametrize(
    "name", ["cuda:x", "cuda:01", "cuda:-1", "cuda:128", "cuda:256", "cuda:99999999999", "cuda:", "CUDA", "mps"]
)
def test_what_is_no_device_is_refused_before_torch_reads_it(cards: pytest.MonkeyPatch, name: str) -> None:
    with pytest.raises(UsageError, match=r"unknown device .*accepted: auto, cpu, cuda, cuda:K"):
        parse_device(name)


def test_cuda_is_refused_where_there_is_none_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def find_an_old_driver() -> bool:
        warnings.warn("The NVIDIA driver on your system is too old (found version 12020).\nPlease update", stacklevel=2)
        return False

    monkeypatch.setattr(torch.version, "cuda", "13.0")
    for available, reason in (
        (find_an_old_driver, "driver on your system is too old"),
        (lambda: False, r"torch for CUDA 13\.0"),
    ):
        monkeypatch.setattr(torch.cuda, "is_available", available)
        assert parse_device("auto").type == "cpu"
        with pytest.raises(UsageError, match=f"cuda: this machine has no usable CUDA device.*{reason}"):
            parse_device("cuda")
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(UsageError, match="built without CUDA"):
        parse_device("cuda")


def test_a_gpu_without_kernels_is_refused_and_auto_says_why_it_takes_the_cpu(cards: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert explain_cpu() is None
    cards.setattr(torch.cuda, "get_device_capability", lambda _: (7, 0))
    with pytest.raises(UsageError, match=r"no kernels for NVIDIA H100 of compute capability 7\.0, only for sm_80 sm_90"):
        parse_device("cuda:1")
    assert parse_device("auto").type == "cpu"
    assert explain_cpu() == find_cuda_fault()
    cards.setattr(torch.cuda, "is_available", lambda: False)
    for driver, silent in ((tmp_path, False), (tmp_path / "absent", True)):
        cards.setattr(devices, "NVIDIA", driver)
        assert (explain_cpu() is None) is silent


def test_pixels_need_no_gpu(cards: pytest.MonkeyPatch) -> None:
    assert load_backbone(BackboneSpec("pixels")).device.type == "cpu"


@pytest.mark.parametrize(("compute", "allowed"), [("float32", False), ("float32+compile", False), ("tf32", True)])
def test_float32_is_not_tf32(compute: str, allowed: bool) -> None:
    """torch's default allows TF32 in convolutions."""
    flags = torch.backends.cudnn, torch.backends.cuda.matmul
    before = [flag.allow_tf32 for flag in flags]
    with set_precision(compute, torch.device("cuda")):
        assert [flag.allow_tf32 for flag in flags] == [allowed, allowed]
    assert [flag.allow_tf32 for flag in flags] == before
    with set_precision(compute, torch.device("cpu")):
        assert [flag.allow_tf32 for flag in flags] == before


def test_local_gpus_get_a_part_each(cards: pytest.MonkeyPatch, tmp_path: Path) -> None:
    part = Part(source=str(tmp_path), backbone=BackboneSpec("resnet18"), layout="native", dtype="float16", file_format="zarr",
                root=tmp_path, folder=tmp_path / "store", fingerprint="00")  # fmt: skip
    for device, expected in (("auto", ["cuda:0", "cuda:1"]), ("cuda:1", ["cuda:1"]), ("cpu", ["cpu"] * 25)):
        parts = split_build(replace(part, backbone=replace(part.backbone, device=device)), 100, "local", 8)
        assert [split.backbone.device for split in parts] == expected
        assert [split.part for split in parts] == [(number, len(expected)) for number in range(1, len(expected) + 1)]


@pytest.mark.parametrize("compute", ["float16", "tf32"])
def test_a_machine_without_a_gpu_plans_what_others_compute(compute: str) -> None:
    backbone = load_backbone(BackboneSpec("resnet18", "random:0", device="cpu", compute=compute), emulate=True)
    assert backbone.compute == compute
    assert all(value.isfinite().all() for value in backbone.features(torch.zeros(1, 224, 224, 3, dtype=torch.uint8)).values())


def test_random_weights_leave_gpus_alone(cards: pytest.MonkeyPatch) -> None:
    """torch would keep the state of each GPU, and warn of it where there are several."""
    assert load_backbone(BackboneSpec("resnet18", "random:0", device="cpu")).weights == "random0"
