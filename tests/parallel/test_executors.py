"""Where tasks run: `auto` starts no worker that does not pay."""

import os

import pytest

from posenet_store.parallel import executors
from posenet_store.parallel.dispatch import Timeouts
from posenet_store.parallel.executors import run_tasks


def get_process(task: int, threads: int) -> int:
    return os.getpid()


def test_a_small_sweep_starts_no_worker() -> None:
    assert list(run_tasks(get_process, [1, 2, 3], "auto")) == [(task, os.getpid()) for task in (1, 2, 3)]


@pytest.mark.parametrize("alone", ["task", "cpu"])
def test_a_single_task_or_cpu_starts_none_however_long_it_takes(monkeypatch: pytest.MonkeyPatch, alone: str) -> None:
    if alone == "cpu":
        monkeypatch.setattr(executors, "count_cpus", lambda: 1)
    tasks = [1] if alone == "task" else [1, 2]
    assert list(run_tasks(get_process, tasks, "auto", timeouts=Timeouts(start=0.0))) == [(task, os.getpid()) for task in tasks]


@pytest.mark.system
def test_what_takes_longer_than_workers_to_start_goes_on_in_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executors, "count_cpus", lambda: 2)
    results = dict(run_tasks(get_process, [1, 2, 3], "auto", timeouts=Timeouts(start=0.0)))
    assert set(results) == {1, 2, 3}
    assert os.getpid() not in results.values()
