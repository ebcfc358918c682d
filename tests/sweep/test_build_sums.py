"""Sums that a build makes: the first sweep reads no features to train, and its heads are those of one that reads them."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from posenet_store import temporaries
from posenet_store.backbones.backbone import Backbone
from posenet_store.extraction.build import BuildResult, build_store, plan_store
from posenet_store.extraction.plan import Estimate
from posenet_store.heads.protocols import GradientProtocol, RidgeProtocol
from posenet_store.images.image_set import ImageSet
from posenet_store.images.sources import load_image_set
from posenet_store.store.catalogue import StoreInfo, list_stores
from posenet_store.store.chunking import count_row_bytes
from posenet_store.store.plan import Plan, find_folder
from posenet_store.store.reader import Reader
from posenet_store.store.removal import find_leftovers
from posenet_store.store.writer import StoreWriter
from posenet_store.sweep.build_sums import BuildSums
from posenet_store.sweep.cost import estimate_cost
from posenet_store.sweep.plan import plan_sweep
from posenet_store.sweep.run import SweepResult, run_sweep
from posenet_store.sweep.spec import SweepSpec, load_sweep
from tests.support.pretend_cuda import pretend_cuda
from tests.support.runs import cli
from tests.support.small import tiny_backbone, write_images
from tests.sweep.test_cost import Millisecond

ROWS = 43
SPECS = {
    "table2": replace(load_sweep("table2"), tests=(), targets=("H",), seeds=(0,), recipes=(GradientProtocol(epochs=1),)),
    "stages": replace(load_sweep("stages"), tests=(), targets=("H",), inputs=("full:f1", "full")),
}
"""The experiments with fewer heads, which read the same."""


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    """Images, three of which can't be read; so can't be all of a twentieth."""
    folder = write_images(tmp_path_factory.mktemp("images") / "photos", ROWS)
    images = load_image_set(str(folder))
    order = plan_store(images, tiny_backbone(), "native", "float16", 4).order
    for row in (5, 17, 18):  # of which 17 and 18 are one
        (folder / images.ids[order[row]]).write_bytes(b"no image")
    return load_image_set(str(folder))


def build(
    images: ImageSet, root: Path, dtype: str = "float16", file_format: str = "zarr", network: Backbone | None = None
) -> BuildResult:
    """Build a store and its sums."""
    network = network or tiny_backbone()
    plan = plan_store(images, network, "native", dtype, 4, file_format)
    with BuildSums(describe(plan, root), root) as sums:
        outcome = build_store(images, network, plan, root, batch_size=2, max_unreadable=1.0, follow=sums.add)
        sums.finish(outcome.path, outcome.written, lambda done, total: None)
    return outcome


def describe(plan: Plan, root: Path) -> StoreInfo:
    return StoreInfo(find_folder(root, plan.spec), plan.spec, True, len(plan.bounds), 0, 0, 0)


def swept(root: Path, spec: SweepSpec, run: str) -> SweepResult:
    plan = plan_sweep(spec, list_stores(root).stores, root)
    outcome = run_sweep(spec, plan, root.parent / run, scheduler="inline")
    assert outcome.failures == ()
    return outcome


def list_sums(root: Path, by_name: bool = True) -> dict[str, dict[str, bytes]]:
    """The tensors of the kept sums by the file's name, a digest of what they are of, or by that without the id of the store."""
    tensors = {}
    for path in root.glob("moments/*/*.safetensors"):
        with safe_open(path, "np") as file:
            key = path.name if by_name else json.dumps(json.loads(file.metadata()["key"]) | {"store_id": ""})
            tensors[key] = {name: file.get_tensor(name).tobytes() for name in file.keys()}  # noqa: SIM118 - not a mapping
    return tensors


def check_sums(store: Path, copy: Path) -> None:
    """Compare the kept sums of a store with those that sweeps keep of a copy of it: same bits."""
    ours = list_sums(store.parent)
    shutil.copytree(store, copy / store.name)
    for name, spec in SPECS.items():
        swept(copy, spec, name)
    theirs = list_sums(copy)
    assert {name.partition("-")[0] for name in theirs} == {"images", "sums"}
    assert {name: {key: ours[name][key] for key in tensors} for name, tensors in theirs.items()} == theirs


@pytest.fixture
def scans(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, int]]]:
    """The spans of rows that were read."""
    seen: list[tuple[int, int]] = []
    real = Reader._scan

    def note(reader: Reader, names: tuple[str, ...], start: int, stop: int) -> object:
        seen.append((start, stop))
        return real(reader, names, start, stop)

    monkeypatch.setattr(Reader, "_scan", note)
    yield seen


@pytest.mark.parametrize(("dtype", "file_format"), [("float16", "zarr"), ("float32", "hdf5")])
def test_a_build_sums_what_sweeps_would_sum_to_the_last_bit(
    images: ImageSet, tmp_path: Path, scans: list[tuple[int, int]], dtype: str, file_format: str
) -> None:
    store = build(images, tmp_path / "stores", dtype, file_format).path
    assert scans == []
    check_sums(store, tmp_path / "copy" / "stores")
    assert not list(tmp_path.glob("stores/moments/*/.*"))


def test_the_first_sweeps_read_no_features_to_train(tmp_path: Path) -> None:
    build(load_image_set(str(write_images(tmp_path / "photos", ROWS))), tmp_path / "stores")
    (entry,) = list_stores(tmp_path / "stores").stores
    other = replace(SPECS["stages"], recipes=(RidgeProtocol(validation=0.5),))  # 17 of 34 rows: whole twentieths
    for name, spec in (SPECS | {"other": other}).items():
        plan = plan_sweep(spec, [entry], tmp_path / "stores")
        tested = count_row_bytes(entry.spec, ["aligned"] if name == "table2" else ["f1", "f2", "f3"]) * 9
        costs = [estimate_cost(task, {entry.spec.fingerprint: entry.spec}, Millisecond()) for task in plan.passes]
        assert [cost.reading for cost in costs] == [tested] * len(costs)
        assert [done.read.bytes for done in swept(tmp_path / "stores", spec, name).passes] == [tested] * len(costs)


def test_blocks_of_another_build_are_read_for_their_twentieths(
    images: ImageSet, tmp_path: Path, scans: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process commits block 5, rows 20 to 24, first."""
    real = StoreWriter.list_written
    monkeypatch.setattr(StoreWriter, "list_written", lambda writer: [block for block in real(writer) if block != 5])
    store = build(images, tmp_path / "stores").path
    assert set(scans) == {(19, 21), (21, 24)}
    check_sums(store, tmp_path / "copy" / "stores")


def test_a_resumed_build_reads_what_it_has_not_seen(
    images: ImageSet, tmp_path: Path, scans: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = StoreWriter.write

    def end(writer: StoreWriter, encoded: object) -> None:
        if encoded.block == 6:  # type: ignore[attr-defined]
            raise KeyboardInterrupt
        real(writer, encoded)  # type: ignore[arg-type]

    monkeypatch.setattr(StoreWriter, "write", end)
    with pytest.raises(KeyboardInterrupt):
        build(images, tmp_path / "stores")
    assert not list(tmp_path.glob("stores/moments/*/.*"))
    monkeypatch.setattr(StoreWriter, "write", real)
    resumed = build(images, tmp_path / "stores")
    assert 0 < resumed.extracted < ROWS
    assert scans and max(stop for _, stop in scans) <= 26  # the twentieth that the interruption cut, and those before
    check_sums(resumed.path, tmp_path / "copy" / "stores")
    scans.clear()
    build(images, tmp_path / "stores")
    assert scans == []


def test_a_block_that_is_computed_twice_is_read(images: ImageSet, tmp_path: Path, scans: list[tuple[int, int]]) -> None:
    network, root = tiny_backbone(), tmp_path / "stores"
    plan = plan_store(images, network, "native", "float16", 4)

    def add_twice(start: int, *block: Any) -> None:
        for _ in range(1 + (start == 40)):
            sums.add(start, *block)

    with BuildSums(describe(plan, root), root) as sums:
        outcome = build_store(images, network, plan, root, max_unreadable=1.0, follow=add_twice)
        sums.finish(outcome.path, outcome.written, lambda done, total: None)
    assert {start for start, _ in scans} == {39, 41}


def test_a_gpu_builds_the_same_sums(images: ImageSet, tmp_path: Path, scans: list[tuple[int, int]]) -> None:
    with pretend_cuda() as cuda:
        build(images, tmp_path / "gpu", network=replace(tiny_backbone(), device=torch.device("cuda")))
    assert (scans, cuda.races) == ([], [])
    build(images, tmp_path / "cpu")
    assert list_sums(tmp_path / "gpu", by_name=False) == list_sums(tmp_path / "cpu", by_name=False)


@pytest.mark.parametrize("name", ["damaged", "gone"])
def test_sums_that_are_lost_before_the_store_is_sealed_are_read(
    images: ImageSet, tmp_path: Path, scans: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    real = BuildSums.finish

    def harm(sums: BuildSums, *words: object) -> None:
        for path in tmp_path.glob("stores/moments/*/.*.tmp/sums-*"):
            path.unlink() if name == "gone" else path.write_bytes(b"no sums")
        real(sums, *words)  # type: ignore[arg-type]

    monkeypatch.setattr(BuildSums, "finish", harm)
    store = build(images, tmp_path / "stores").path
    assert scans
    check_sums(store, tmp_path / "copy" / "stores")


def test_what_a_killed_build_left_is_removed(images: ImageSet, tmp_path: Path) -> None:
    path = build(images, tmp_path / "stores").path
    left = tmp_path / "stores/moments" / path.name / f".sums.{temporaries._identify_machine()}-999999999-1-00000000.tmp"
    left.mkdir()
    assert [removal.path for removal in find_leftovers(tmp_path / "stores")] == [left]
    with BuildSums(
        describe(plan_store(images, tiny_backbone(), "native", "float16", 4), tmp_path / "stores"), tmp_path / "stores"
    ):
        pass
    assert not left.exists()


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("posenet_store.extraction.build.choose_block_rows", lambda layout: 8)
    write_images(tmp_path / "photos", 33)
    words = (
        "build-store",
        "--images",
        tmp_path / "photos",
        "--stores",
        tmp_path / "stores",
        "--backbone",
        "pixels",
        "--no-probes",
    )
    with monkeypatch.context() as patch:  # the memory that other tests have held would count
        patch.setattr("posenet_store.extraction.plan.estimate_build", lambda *_: Estimate(1.0, 1000, 10))
        plain, planned = (json.loads(cli(*words, *more, "--plan", "--json").stdout) for more in ((), ("--moments",)))
    assert planned["memory"] > plain["memory"] + (32 << 20)
    assert planned["seconds"] >= plain["seconds"] == 1
    assert not (tmp_path / "stores").exists()
    for part in ("1/2", "2/2"):
        done = cli(*words, "--moments", "--part", part)
        assert done.exit_code == 0, done.output
        assert bool(list_sums(tmp_path / "stores")) == (part == "2/2")
    again = cli(*words, "--moments")
    assert "complete; nothing to do" in again.stderr
    few = cli(*words, "--moments", "--limit", "12")
    assert (few.exit_code, "sums nothing" in few.stderr) == (0, True)
