"""Sweeps on a device: scores are the CPU's, memory may run out, `auto` says why it takes the CPU, records name a GPU."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from posenet_store.errors import UsageError
from posenet_store.heads.protocols import GradientProtocol
from posenet_store.images.sources import load_image_set
from posenet_store.specs import StoreSpec
from posenet_store.store.catalogue import list_stores
from posenet_store.sweep import device as devices
from posenet_store.sweep.cost import estimate_cost
from posenet_store.sweep.device import choose_device, set_device
from posenet_store.sweep.plan import SweepPlan, plan_sweep
from posenet_store.sweep.results import RunFiles, read_result, read_scores
from posenet_store.sweep.run import run_sweep
from posenet_store.sweep.spec import SweepSpec
from posenet_store.sweep.stopwatch import Stopwatch
from tests.support.pretend_cuda import NAME, pretend_cuda
from tests.support.runs import cli
from tests.support.small import built_store, tiny_backbone, write_images

SPEC = SweepSpec(
    title="t", train=("photos",), tests=(), targets=("H", "G"), inputs=("full", "aligned"), kernels=(1, 3), seeds=(0,),
    protocols=("ridge", "report-2020"), recipes=(GradientProtocol(epochs=2),),
)  # fmt: skip


@pytest.fixture(scope="module", params=[("float16", 1.0), ("float32", 300.0)], ids=["float16", "float32 of 1e7"])
def root(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    lab = tmp_path_factory.mktemp("device")
    dtype, scale = request.param
    built_store(lab / "stores", load_image_set(str(write_images(lab / "photos", 36))), tiny_backbone(scale=scale), dtype=dtype)
    return lab / "stores"


def plan(root: Path, spec: SweepSpec = SPEC) -> SweepPlan:
    return plan_sweep(spec, list_stores(root).stores, root, keep_moments=False)


def list_specs(root: Path) -> dict[str, StoreSpec]:
    return {entry.spec.fingerprint: entry.spec for entry in list_stores(root).stores}


def scores(planned: SweepPlan, run: Path, spec: SweepSpec = SPEC) -> dict[str, np.ndarray]:
    assert run_sweep(spec, planned, run, scheduler="inline").failures == ()
    files = RunFiles(run)
    return {cell.id: read_scores(files.scores(cell.id))["spc/held-out"] for cell in planned.cells}


def test_scores_on_a_device_are_those_of_the_cpu(root: Path, tmp_path: Path) -> None:
    on_cpu, on_device = scores(plan(root), tmp_path / "cpu"), scores(set_device(plan(root), "cpu"), tmp_path / "device")
    assert on_cpu.keys() == on_device.keys()
    for cell, spc in on_cpu.items():
        np.testing.assert_allclose(on_device[cell], spc, atol=1e-4)


def test_a_record_names_the_gpu(root: Path, tmp_path: Path) -> None:
    spec = replace(SPEC, protocols=("ridge",), targets=("H",))
    planned = set_device(plan(root, spec), "cuda:1")
    with pretend_cuda("cuda:1") as cuda:
        costs = [estimate_cost(task, list_specs(root), Stopwatch()) for task in planned.passes]
        scores(planned, tmp_path / "gpu", spec)
    assert cuda.races == []
    assert {cost.way for cost in costs} == {"exact, on cuda:1"}
    results = [read_result(RunFiles(tmp_path / "gpu"), cell.id) for cell in planned.cells]
    assert {result.provenance["computed_on"]["device"] for result in results} == {NAME}


def test_a_worker_without_the_gpu_says_so(root: Path, tmp_path: Path) -> None:
    failures = run_sweep(SPEC, set_device(plan(root), "cuda"), tmp_path, scheduler="inline").failures
    assert all("CUDA" in line for line in failures)
    assert len(failures) == len(plan(root).passes)


@pytest.mark.parametrize(("capability", "worthwhile", "reason"), [
    ((9, 0), 0.0, None), ((9, 0), 1e30, "small"), ((8, 9), 0.0, "float64"), ((12, 0), 0.0, "float64"),
])  # fmt: skip
def test_auto_takes_the_faster_one(
    root: Path, monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], worthwhile: float, reason: str | None
) -> None:
    monkeypatch.setattr(devices, "WORTHWHILE", worthwhile)
    with pretend_cuda():
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
        monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["compute_75"])
        device, why = choose_device("auto", plan(root).passes, list_specs(root))
        assert choose_device("cuda:3", (), {}) == ("cuda:3", None)
        assert choose_device("cpu", (), {}) == (None, None)
        with pytest.raises(UsageError, match="cuda:7"):
            choose_device("cuda:8", (), {})
    assert (device is None, reason is None) == (reason is not None, why is None)
    assert reason is None or reason in str(why)


def test_without_a_gpu_auto_is_silent_and_cuda_a_usage_error(root: Path, tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text('train = ["photos"]\nprotocols = ["ridge"]\ntests = []\n')
    words = ("sweep", tmp_path / "s.toml", "--stores", root, "--run", tmp_path / "run", "--plan")
    assert "note:" not in cli(*words).stderr
    for device in ("cuda", "cuda:3", "gpu", "cuda:all"):
        done = cli(*words, "--device", device)
        assert (done.exit_code, "Traceback" in done.output) == (2, False)
