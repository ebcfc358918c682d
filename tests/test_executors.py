"""Tasks run in this process, on local workers, or on a scheduler at an address."""

import os

import pytest
from distributed import LocalCluster

from posenet_store.errors import PosenetStoreError, UsageError
from posenet_store.executors import run_tasks


def double(task: int, threads: int) -> int:
    if task == 3:
        raise PosenetStoreError("three is broken")
    assert threads >= 1
    return 2 * task


def process(task: int, threads: int) -> int:
    return os.getpid()


@pytest.mark.parametrize("scheduler", ["inline", "local"])
def test_results_come_with_their_task_and_one_failure_stops_nothing(scheduler: str) -> None:
    results = dict(run_tasks(double, [1, 2, 3, 4], scheduler, workers=2))
    assert {task: value for task, value in results.items() if task != 3} == {1: 2, 2: 4, 4: 8}
    assert isinstance(results[3], PosenetStoreError)
    assert str(results[3]) == "three is broken"


def test_an_address_is_used() -> None:
    with LocalCluster(
        n_workers=1, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0", silence_logs="ERROR"
    ) as cluster:
        pids = {value for _, value in run_tasks(process, [1, 2], cluster.scheduler_address)}
    assert os.getpid() not in pids
    assert len(pids) == 1


def test_a_lost_worker_is_reported_not_raised() -> None:
    results = dict(run_tasks(_die, [1], "local", workers=1))
    assert isinstance(results[1], PosenetStoreError)
    assert "died" in str(results[1])


def _die(task: int, threads: int) -> int:
    os._exit(1)


@pytest.mark.parametrize(("scheduler", "message"), [("slrum", "accepted: local, inline"), ("tcp://127.0.0.1:1", "no Dask")])
def test_a_scheduler_that_is_not_there_is_a_usage_error(scheduler: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        list(run_tasks(double, [1], scheduler))
