"""Tasks run in this process, on local workers, or on a scheduler at an address; every fault ends, and is told."""

import errno
import json
import os
import shutil
import signal
import time
import traceback
import urllib.request
from collections import Counter
from pathlib import Path

import distributed
import pytest

import posenet_store
from posenet_store.errors import PosenetStoreError, UsageError, WorkerError
from posenet_store.parallel import pools
from posenet_store.parallel.dispatch import Timeouts
from posenet_store.parallel.executors import count_workers, run_tasks
from tests.support.processes import DaskProcesses, waited

REAL_AND_HERE = pytest.mark.parametrize("scheduler", ["inline", "local"])


def double(task: int, threads: int) -> int:
    if task == 3:
        raise PosenetStoreError("three is broken")
    assert threads >= 1
    return 2 * task


def process(task: int, threads: int) -> int:
    return os.getpid()


def given(task: int, threads: int) -> int:
    return threads


def die(task: int, threads: int) -> int:
    os._exit(1)


def die_once(task: Path, threads: int) -> int:
    """Leave a mark at each try; the first one loses the worker."""
    with task.open("a") as marks:
        marks.write("x")
    if task.stat().st_size == 1:
        os._exit(1)
    return task.stat().st_size


def stop_once(task: Path, threads: int) -> int:
    """Leave a mark at each try; the first one stops the worker for good."""
    with task.open("a") as marks:
        marks.write("x")
    if task.stat().st_size == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
    return task.stat().st_size


def nap(task: tuple[int, float], threads: int) -> int:
    time.sleep(task[1])
    return task[0]


def cards(task: int, threads: int) -> dict[str, float]:
    return dict(distributed.get_worker().state.total_resources)


def where(task: float, threads: int) -> str:
    time.sleep(task)
    return str(distributed.get_worker().address)


def refuse_on_odd(task: int, threads: int) -> str:
    name = str(distributed.get_worker().name)
    if name == "odd":
        raise WorkerError("it finds other images")
    time.sleep(0.5)
    return name


def die_after_a_step(task: Path, threads: int) -> int:
    """Five workers die, each after one more step is kept."""
    if task.stat().st_size == 6:
        return 6
    with task.open("a") as steps:
        steps.write("x")
    os._exit(1)


def count_connected(dask: DaskProcesses) -> int:
    with distributed.Client(dask.address) as client:
        return len(client.scheduler_info()["workers"])


WITHOUT_PACKAGE = """
import sys
sys.path[:] = [path for path in sys.path if not path.endswith("src")]
sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in str(finder)]
"""


def trouble(task: str, threads: int) -> str:
    if task == "disk":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/runs/x.json")
    if task == "memory":
        raise MemoryError("no room for 9 GB")
    if task == "torch":
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
    if task == "bug":
        raise RuntimeError("shapes differ")
    return task


@REAL_AND_HERE
def test_results_come_with_their_task_and_one_failure_stops_nothing(scheduler: str) -> None:
    results = dict(run_tasks(double, [1, 2, 3, 4], scheduler, workers=2))
    assert {task: value for task, value in results.items() if task != 3} == {1: 2, 2: 4, 4: 8}
    assert isinstance(results[3], PosenetStoreError)
    assert str(results[3]) == "three is broken"


@REAL_AND_HERE
def test_want_of_disk_or_memory_fails_its_task_only(scheduler: str) -> None:
    results = dict(run_tasks(trouble, ["disk", "memory", "torch", "fine"], scheduler, workers=2))
    assert results.pop("fine") == "fine"
    assert {type(result) for result in results.values()} == {PosenetStoreError}
    assert str(results["disk"]) == "No space left on device (/runs/x.json)"
    assert str(results["memory"]) == "out of memory (no room for 9 GB); fewer workers leave more to each"
    assert "can't allocate" in str(results["torch"])


@REAL_AND_HERE
def test_a_bug_keeps_its_traceback(scheduler: str) -> None:
    with pytest.raises(RuntimeError, match="shapes differ") as caught:
        list(run_tasks(trouble, ["bug"], scheduler, workers=1))
    assert "trouble" in [frame.name for frame in traceback.extract_tb(caught.tb)]


def test_a_bug_does_not_wait_for_other_tasks() -> None:
    began = time.monotonic()
    with pytest.raises(ValueError, match="non-negative"):
        list(run_tasks(nap, [(1, 100.0), (2, -1.0)], "local", workers=2))
    assert time.monotonic() - began < 30


def test_a_lost_worker_is_reported_not_raised() -> None:
    results = dict(run_tasks(die, [1], "local", workers=1))
    assert isinstance(results[1], PosenetStoreError)
    assert "the worker died four times on this task" in str(results[1])


def test_a_task_whose_worker_is_lost_is_tried_again(tmp_path: Path) -> None:
    """Each ends once, at its second try; or at its third, if the worker was lost again before it handed the result over."""
    tasks = [tmp_path / "a", tmp_path / "b"]
    results = list(run_tasks(die_once, tasks, "local", workers=1))
    assert sorted(task for task, _ in results) == tasks
    assert all(tries in (2, 3) for _, tries in results)


STOPPED = Timeouts(check=0.2, silence=2.0, patience=5.0)


def test_a_stopped_worker_is_named_and_started_again(tmp_path: Path) -> None:
    lines: list[str] = []
    began = time.monotonic()
    results = list(run_tasks(stop_once, [tmp_path / "a"], "local", workers=1, announce=lines.append, timeouts=STOPPED))
    assert results == [(tmp_path / "a", 2)]
    assert time.monotonic() - began < 60
    assert next(line for line in lines if "has not answered for 2 s" in line).startswith("the worker tcp://127.0.0.1:")


def test_the_task_of_a_stopped_worker_goes_to_another(tmp_path: Path) -> None:
    lines: list[str] = []
    with DaskProcesses() as dask:
        for _ in range(2):
            dask.worker("--no-nanny")
        assert waited(lambda: count_workers(dask.address) == 2, 60)
        (result,) = run_tasks(stop_once, [tmp_path / "a"], dask.address, announce=lines.append, timeouts=STOPPED)
    assert result == (tmp_path / "a", 2)
    assert len(lines) == 2
    assert "its task starts again elsewhere" in lines[1]


def test_the_dashboard_is_announced_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr(pools, "find_spec", lambda name: None)
    list(run_tasks(double, [1], "local", workers=1, announce=lines.append))
    assert lines == []
    monkeypatch.setattr(pools, "find_spec", lambda name: name == "bokeh")
    for _ in run_tasks(double, [1], "local", workers=1, announce=lines.append):
        (line,) = lines
        assert line.startswith("dashboard: http://127.0.0.1:")
        with urllib.request.urlopen(line.removeprefix("dashboard: "), timeout=10) as answer:
            assert answer.status == 200


@pytest.mark.parametrize(
    ("scheduler", "message"), [("slrum", "accepted: auto, local, inline, slurm"), ("tcp://127.0.0.1:1", "no Dask")]
)
def test_a_scheduler_that_is_not_there_is_a_usage_error(scheduler: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        list(run_tasks(double, [1], scheduler))


def test_an_address_is_used_and_a_task_has_all_threads() -> None:
    with DaskProcesses() as dask:
        dask.worker("--nthreads", "4")
        pids = {value for _, value in run_tasks(process, [1, 2], dask.address)}
        assert os.getpid() not in pids
        assert len(pids) == 1
        assert count_workers(dask.address) == 1
        # each task may take the memory that was planned, so a worker does one at a time, on all its threads
        assert dict(run_tasks(given, [1, 2], dask.address)) == {1: 4, 2: 4}


def test_workers_that_announce_a_card_get_the_tasks_that_ask_for_one() -> None:
    with DaskProcesses() as dask:
        dask.worker()
        assert waited(lambda: count_workers(dask.address) == 1 and list(run_tasks(cards, [0], dask.address)) == [(0, {})], 60)
        assert list(run_tasks(cards, [0], dask.address, resource="GPU")) == [(0, {})]  # nobody has one
        dask.worker("--resources", "GPU=1")
        with distributed.Client(dask.address) as client:
            client.wait_for_workers(2, timeout=30)
        resources = [value for _, value in run_tasks(cards, list(range(6)), dask.address, resource="GPU")]
    assert resources == [{"GPU": 1.0}] * 6


def test_workers_whose_time_is_over_are_survived() -> None:
    """As on a cluster with a walltime: each worker lives for eight seconds, loading included, then another comes."""
    tasks = [(number, 0.4) for number in range(48)]
    with DaskProcesses() as dask:
        for _ in range(2):
            dask.worker("--lifetime", "8s", "--lifetime-restart")
        results = list(run_tasks(nap, tasks, dask.address))
    assert Counter(results) == Counter((task, task[0]) for task in tasks)


@pytest.mark.parametrize("fault", ["killed", "frozen"])
def test_a_lost_scheduler_is_one_sentence_in_time(fault: str) -> None:
    timeouts = Timeouts(check=0.2, answer=12.0)  # a scheduler that loads its dashboard does not answer for a while
    with DaskProcesses() as dask:
        dask.worker()
        results = run_tasks(nap, [(1, 0.0), (2, 100.0)], dask.address, timeouts=timeouts)
        assert next(results) == ((1, 0.0), 1)
        dask.running[0].send_signal(signal.SIGSTOP if fault == "frozen" else signal.SIGKILL)
        began = time.monotonic()
        with pytest.raises(PosenetStoreError, match=f"scheduler of {dask.address} was lost"):
            next(results)
        assert time.monotonic() - began < 40


def test_a_restarted_scheduler_gets_the_unfinished_tasks_again() -> None:
    with DaskProcesses() as dask:
        dask.worker()
        results = run_tasks(nap, [(1, 0.0), (2, 4.0)], dask.address, timeouts=Timeouts(answer=12.0))
        assert next(results) == ((1, 0.0), 1)
        dask.running[0].kill()
        dask.running[0].wait()
        dask.scheduler()
        dask.worker()
        assert list(results) == [((2, 4.0), 2)]


def test_a_worker_that_comes_late_gets_tasks_too() -> None:
    """None is there when the run begins; the second one comes when the first has begun."""
    with DaskProcesses() as dask:
        dask.worker()
        results = run_tasks(where, [0.3] * 40, dask.address, timeouts=Timeouts(check=0.2))
        first = next(results)[1]
        dask.worker()
        others = {worker for _, worker in results}
    assert len(others) == 2
    assert first in others


def test_a_worker_of_other_code_is_named_left_out_and_lives(tmp_path: Path) -> None:
    """One worker has another commit of the package, one has none of it; the third does all tasks."""
    lines: list[str] = []
    shutil.copytree(Path(posenet_store.__file__).parent, tmp_path / "other/posenet_store")
    (tmp_path / "other/posenet_store/extra.py").touch()
    (tmp_path / "none").mkdir()
    (tmp_path / "none/sitecustomize.py").write_text(WITHOUT_PACKAGE)
    with DaskProcesses() as dask:
        other, none = dask.worker(path=tmp_path / "other"), dask.worker(path=tmp_path / "none")
        assert waited(lambda: count_workers(dask.address) == 2, 60)
        with pytest.raises(PosenetStoreError, match="can do the tasks") as caught:
            list(run_tasks(where, [0.0], dask.address, announce=lines.append))
        assert "posenet_store is not installed there" in str(caught.value)
        assert "its posenet_store has other code" in str(caught.value)
        dask.worker()
        assert waited(lambda: count_workers(dask.address) == 3, 60)
        assert len(set(dict(run_tasks(where, [0.1, 0.2, 0.3], dask.address, announce=lines.append)).values())) == 1
        assert other.poll() is None
        assert none.poll() is None
    assert sum("gets no tasks" in line for line in lines) == 4


def test_a_worker_that_sees_another_disk_gets_no_task(tmp_path: Path) -> None:
    lines: list[str] = []
    with DaskProcesses() as dask:
        own_disk = ("unshare", "--mount", "sh", "-c", f'mount -t tmpfs none {tmp_path} && exec "$@"', "sh")
        stranger = dask.worker(prefix=own_disk)
        if not waited(lambda: stranger.poll() is not None or count_connected(dask) == 1, 60) or stranger.poll() is not None:
            pytest.skip("only root may give a process disks of its own")
        with pytest.raises(PosenetStoreError, match=f"does not see what the command writes to {tmp_path}"):
            list(run_tasks(where, [0.0], dask.address, announce=lines.append, folder=tmp_path))
        dask.worker()
        assert waited(lambda: count_workers(dask.address) == 2, 60)
        assert len(list(run_tasks(where, [0.1, 0.2], dask.address, announce=lines.append, folder=tmp_path))) == 2
    assert not list(tmp_path.iterdir())


def test_a_worker_that_finds_other_images_gives_its_task_back() -> None:
    lines: list[str] = []
    with DaskProcesses() as dask:
        dask.worker("--name", "odd")
        dask.worker("--name", "even")
        assert waited(lambda: count_workers(dask.address) == 2, 60)
        results = list(run_tasks(refuse_on_odd, [1, 2, 3], dask.address, announce=lines.append))
    assert sorted(results) == [(1, "even"), (2, "even"), (3, "even")]
    assert sum("other images" in line for line in lines) == 1


def test_losses_count_only_while_nothing_is_kept(tmp_path: Path) -> None:
    """A task whose worker ends after each step, as at a walltime, is done in the end, however often that is."""
    steps = tmp_path / "steps"
    steps.touch()
    results = list(run_tasks(die_after_a_step, [steps], "local", workers=1, count_kept=lambda: steps.stat().st_size))
    assert results == [(steps, 6)]


def test_a_scheduler_file_and_certificates(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is no scheduler file"):
        list(run_tasks(double, [1], str(tmp_path / "dask.json")))
    with pytest.raises(UsageError, match="needs certificates"):
        list(run_tasks(double, [1], "tls://127.0.0.1:1"))
    with DaskProcesses() as dask:
        (tmp_path / "dask.json").write_text(json.dumps({"address": dask.address}))
        dask.worker()
        assert list(run_tasks(double, [1], str(tmp_path / "dask.json"))) == [(1, 2)]


def test_a_scheduler_without_workers_is_given_up() -> None:
    with DaskProcesses() as dask, pytest.raises(PosenetStoreError, match=r"no worker of tcp://.*start workers"):
        list(run_tasks(double, [1], dask.address, timeouts=Timeouts(check=0.1, workers=0.6)))
