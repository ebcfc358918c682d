"""What a sweep shows while it runs: numbers that are true, from files that nothing depends on."""

import json
import re
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from posenet_store.heads.protocols import GradientProtocol
from posenet_store.store.catalogue import list_stores
from posenet_store.store.chunking import count_row_bytes
from posenet_store.store.read_counter import ReadCounter
from posenet_store.store.reader import open_store
from posenet_store.sweep import progress
from posenet_store.sweep.cost import estimate_seconds
from posenet_store.sweep.plan import Pass, SweepPlan, plan_sweep
from posenet_store.sweep.progress import ProgressMonitor, SweepProgress, read_progress, report_progress
from posenet_store.sweep.results import PassResult, RunFiles
from posenet_store.sweep.run import run_sweep
from posenet_store.sweep.spec import SweepSpec
from tests.support.runs import cli
from tests.support.small import store_with_probes

SPEC = SweepSpec(
    title="t", train=("photos",), targets=("H",), protocols=("ridge", "report-2020"), recipes=(GradientProtocol(epochs=2),)
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("live")
    store_with_probes(folder / "stores", folder / "photos")
    return folder / "stores"


def planned(root: Path) -> SweepPlan:
    return plan_sweep(SPEC, list_stores(root)[0], root, keep_moments=False)


def until(path: Path, expected: ReadCounter) -> bool:
    end = time.monotonic() + 20
    while read_progress(path) != expected and time.monotonic() < end:
        time.sleep(0.01)
    return read_progress(path) == expected


def test_a_running_pass_tells_what_it_has_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "INTERVAL", 0.01)
    path, counts = tmp_path / "progress" / "x", [ReadCounter(), ReadCounter(1, 10)]
    assert read_progress(path) is None
    threads = threading.active_count()
    with report_progress(path, counts):
        assert until(path, ReadCounter(1, 10))
        counts[0].images, counts[0].bytes = 4, 90
        assert until(path, ReadCounter(5, 100))
    assert threading.active_count() == threads


@pytest.mark.parametrize("harm", ["folder in its place", "no folder can be made", "garbage", "other"])
def test_what_cannot_be_told_or_read_is_nobodys_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: str) -> None:
    monkeypatch.setattr(progress, "INTERVAL", 0.01)
    path = tmp_path / "progress" / "x"
    if harm == "folder in its place":
        path.mkdir(parents=True)
    elif harm == "no folder can be made":
        path.parent.touch()
    else:
        path.parent.mkdir()
        path.write_text({"garbage": "}{", "other": "{}"}[harm])
    assert read_progress(path) is None
    with report_progress(path, [ReadCounter(1, 2)]):
        time.sleep(0.05)


def test_what_is_read_is_counted_once(root: Path) -> None:
    reader = open_store(planned(root).passes[0].train)
    for _ in reader.scan(["aligned"], 0, 11):
        pass
    assert reader.counter == ReadCounter(11, 11 * count_row_bytes(reader.spec, ["aligned"]))
    for _ in reader.batches(["f1", "f2"], 0, 5, batch_size=2, seed=0, epoch=0):
        pass
    assert reader.counter.images == 16
    assert reader.counter.bytes >= 11 * count_row_bytes(reader.spec, ["aligned"]) + 5 * count_row_bytes(
        reader.spec, ["f1", "f2"]
    )


@pytest.mark.parametrize("scheduler", ["inline", pytest.param("local", marks=pytest.mark.system)])
def test_a_sweep_shows_how_it_stands_and_leaves_nothing_behind(
    root: Path, tmp_path: Path, scheduler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "INTERVAL", 0.002)
    plan, shown, files = planned(root), list[SweepProgress](), RunFiles(tmp_path / "run")
    files.progress.mkdir(parents=True)
    (files.progress / plan.passes[0].id).write_text(json.dumps({"images": 10**9, "bytes": 1}))  # of a driver that was killed
    outcome = run_sweep(SPEC, plan, files.root, scheduler=scheduler, workers=2, show=shown.append)
    assert shown == sorted(shown, key=lambda state: (state.passes, state.seconds))
    last = shown[-1]
    size = count_row_bytes(open_store(plan.passes[0].train).spec, ["aligned"])
    # either pass reads 14 photographs once, to train or to test, and three probes
    assert (last.passes, last.cells, last.read) == (2, 4, ReadCounter(2 * 17, 2 * 17 * size))
    assert max(state.read.images for state in shown) == 2 * 17
    assert not files.progress.exists()
    assert [len(result.cells) for result in outcome.passes] in ([1, 3], [3, 1])
    assert all(0 < result.seconds < 60 for result in outcome.passes)


def test_the_time_left_is_the_plan_at_the_pace_so_far(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    first = planned(root).passes[0]
    passes: list[Pass] = [replace(first, cells=(replace(first.cells[0], seed=number),)) for number in range(4)]
    monitor = ProgressMonitor(tmp_path, passes, {task.id: 10.0 for task in passes})
    assert monitor.state().left is None  # no pass has begun: jobs may wait in a queue
    for task in passes[:2]:  # two workers, as it turns out
        (tmp_path / task.id).write_text(json.dumps({"images": 3, "bytes": 30}))
    assert monitor.state().left == 20
    clock[0] += 5
    state = monitor.state()
    assert (state.left, state.seconds, state.read) == (15, 5, ReadCounter(6, 60))
    monitor.record_end(passes[0], PassResult((passes[0].id,), ReadCounter(7, 70), 0.0, 20.0))
    assert monitor.state().left == (15 + 20 + 20) / 2  # twice as slow as planned
    monitor.record_end(passes[1], None)
    assert monitor.state().left == 20
    unplanned = ProgressMonitor(tmp_path, passes, {})
    assert unplanned.state().left is None
    unplanned.record_end(passes[0], PassResult((passes[0].id,), ReadCounter(7, 70), 0.0, 20.0))
    assert unplanned.state().left == (20 + 20 + 20) / 2  # of two workers, by their files
    for task in passes[2:]:
        monitor.record_end(task, None)
    assert monitor.state().left == 0


def test_a_pass_whose_store_is_gone_has_no_seconds_and_fails_no_sweep(root: Path) -> None:
    plan = planned(root)
    specs = {entry.spec.fingerprint: entry.spec for entry in list_stores(root)[0]}
    gone = replace(plan.passes[0], train=root / "gone", cells=(replace(plan.passes[0].cells[0], seed=9),))
    seconds = estimate_seconds((*plan.passes, gone), specs)
    assert set(seconds) == {task.id for task in plan.passes}
    assert min(seconds.values()) > 0


def test_the_terminal_sums_up(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("posenet_store.cli.output.SECONDS_A_LINE", 0.0)  # lines as a log of a long sweep has them
    (tmp_path / "s.toml").write_text('train = ["photos"]\ntargets = ["H"]\nprotocols = ["ridge"]\n')
    words = (
        "sweep",
        tmp_path / "s.toml",
        "--stores",
        root,
        "--run",
        tmp_path / "run",
        "--no-keep-moments",
        "--scheduler",
        "inline",
    )
    result = cli(*words)
    assert result.exit_code == 0, result.output
    assert re.search(r"^1 passes, 1 heads, 17 images, \d+\.\d .B read in \d+ s$", result.stderr, re.MULTILINE)
    assert re.search(r"s: 1/1 passes: 1 of 1 heads  [\d,]+ images/s  .* read; .* so far, 0 s left", result.stderr)
