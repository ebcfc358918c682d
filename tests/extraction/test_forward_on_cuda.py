"""The way of a batch over a GPU, on a pretend one: nothing is copied before it is computed, whatever is in flight."""

import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from numpy.typing import NDArray

from posenet_store.backbones.backbone import Backbone
from posenet_store.extraction.build import BuildResult, build_store, plan_store
from posenet_store.extraction.commit import Committer
from posenet_store.extraction.forward import Forward, describe_rows
from posenet_store.extraction.plan import estimate_build
from posenet_store.extraction.timing import StageTimer
from posenet_store.images.image_set import ImageSet
from posenet_store.images.sources import load_image_set
from posenet_store.store.reader import open_store
from posenet_store.store.writer import EncodedBlock, QuarantinedImage, StoreWriter
from tests.support.pretend_cuda import NAME, PretendCuda, pretend_cuda
from tests.support.small import contents, tiny_backbone, write_images

ROWS = 14


@pytest.fixture
def images(tmp_path: Path) -> ImageSet:
    """Fourteen images, two of which can't be read."""
    folder = write_images(tmp_path / "photos", ROWS)
    (folder / "image003.png").write_bytes(b"no image")
    (folder / "image011.png").write_bytes(b"")
    return load_image_set(str(folder))


def on_gpu(device: str) -> Backbone:
    return replace(tiny_backbone(), device=torch.device(device))


def data_of(store: Path) -> dict[str, str]:
    """Digests of the features; records say what computed them."""
    return {name: digest for name, digest in contents(store).items() if name.startswith(("data.zarr", "parts"))}


def build(
    images: ImageSet, backbone: Backbone, root: Path, block: int = 4, batch: int | None = None, **options: Any
) -> BuildResult:
    plan = plan_store(images, backbone, "native", "float16", block)
    return build_store(images, backbone, plan, root, batch_size=batch, max_unreadable=1.0, **options)


@pytest.mark.parametrize(
    ("device", "block", "batch"),
    [("cuda", 4, None), ("cuda:0", 8, 3), ("cuda:1", 4, None), ("cuda:1", 16, 5), ("cuda:2", 2, 1)],
)
def test_a_store_from_any_gpu_holds_what_the_cpu_computes(
    images: ImageSet, tmp_path: Path, device: str, block: int, batch: int | None
) -> None:
    with pretend_cuda(device) as cuda:
        built = build(images, on_gpu(device), tmp_path / "gpu", block, batch)
    assert cuda.races == []
    assert cuda.calls["spinning"] == 0
    assert data_of(built.path) == data_of(build(images, tiny_backbone(), tmp_path / "cpu", block, batch or block).path)
    reader = open_store(built.path)
    computed_on = {"device": NAME, "capability": "9.0", "precision": "float32", "batch_size": batch or block}
    for record in (reader.plan.provenance, *(reader.read_record(number) for number in range(len(reader.bounds)))):
        assert record["computed_on"].items() >= computed_on.items()
    assert built.speed["stages"]["forward"] > 0


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_gpu_computes_the_statistics_of_rows(
    images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    backbone = tiny_backbone()
    plan = plan_store(images, backbone, "native", dtype, 4)
    reference = open_store(build_store(images, backbone, plan, tmp_path / "cpu", max_unreadable=1.0).path)
    monkeypatch.setattr("posenet_store.store.writer.compute_statistics", None)  # nothing is left to the CPU
    with pretend_cuda() as cuda:
        reader = open_store(build_store(images, on_gpu("cuda"), plan, tmp_path / "gpu", batch_size=3, max_unreadable=1.0).path)
    assert cuda.races == []
    for block in range(len(reader.bounds)):
        for name, expected in reference.read_record(block)["statistics"].items():
            assert reader.read_record(block)["statistics"][name] == pytest.approx(expected, rel=1e-6)


def test_large_squares_of_rows_do_not_overflow() -> None:
    values = torch.tensor([[[[3e20, -4e20]]], [[[0.0, -0.0]]]])
    assert describe_rows(values)[:, 3].tolist() == pytest.approx([1.25e41, 0.0])
    assert describe_rows(values)[:, 4].tolist() == [0.0, 1.0]


def test_events_on_another_gpu_would_be_seen(images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pretend GPU notices what once went wrong: `cuda:1` copied features before they were computed."""
    monkeypatch.setattr(PretendCuda, "finish", lambda *_: None)
    with pretend_cuda("cuda:1") as cuda:
        backbone, valid = on_gpu("cuda:1"), torch.ones(4, dtype=torch.bool)
        arrays = {tap.name: tap.shape for tap in backbone.taps}
        targets = {name: torch.zeros(4, *shape) for name, shape in arrays.items()}
        forward = Forward(backbone, arrays, StageTimer())
        forward._run_on_cuda(torch.zeros(4, 32, 32, 3, dtype=torch.uint8), valid, targets, {})  # not on the network's own GPU
    assert cuda.races


def test_memory_that_runs_out_is_recorded_with_the_block(
    images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = Backbone.features

    def run_out(backbone: Backbone, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        if len(pixels) > 2:
            raise RuntimeError("GET was unable to find an engine to execute this computation")
        return features(backbone, pixels)

    monkeypatch.setattr(Backbone, "features", run_out)
    with pretend_cuda() as cuda:
        reader = open_store(build(images, on_gpu("cuda"), tmp_path / "gpu", 8).path)
    assert (cuda.races, cuda.calls["empty_cache"]) == ([], 2)
    assert reader.plan.provenance["computed_on"]["batch_size"] == 8
    assert reader.read_record(0)["computed_on"]["batch_size"] == 2


def test_a_finished_block_is_encoded_while_its_predecessor_holds_the_next_buffer(
    images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    second, in_time, encode, submit = threading.Event(), [], StoreWriter.encode, Committer.submit

    def wait_for_the_second(
        writer: StoreWriter, block: int, arrays: dict[str, NDArray[Any]], images: Sequence[QuarantinedImage], *rest: Any
    ) -> EncodedBlock:
        in_time.append(block > 0 or second.wait(5))
        return encode(writer, block, arrays, images, *rest)

    def note(committer: Committer, block: int, *rest: Any) -> None:
        submit(committer, block, *rest)
        if block == 1:
            second.set()

    monkeypatch.setattr(StoreWriter, "encode", wait_for_the_second)
    monkeypatch.setattr(Committer, "submit", note)
    with pretend_cuda():
        build(images, on_gpu("cuda"), tmp_path / "gpu")
    assert all(in_time)


def test_a_plan_counts_the_memory_of_a_gpu_and_the_slowest_of_what_overlaps(images: ImageSet) -> None:
    with pretend_cuda():
        backbone = on_gpu("cuda")
        expected = estimate_build(images, backbone, plan_store(images, backbone, "native", "float16", 8), 8)
    assert expected.gpu_memory == 3 << 30
    assert 0 < expected.seconds < 60
    assert (
        estimate_build(images, tiny_backbone(), plan_store(images, tiny_backbone(), "native", "float16", 8), 8).gpu_memory == 0
    )
