"""Run tasks in this process, or on the workers of a pool."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from time import monotonic
from typing import TypeVar

from posenet_store.errors import PosenetStoreError, first_line, is_out_of_memory
from posenet_store.parallel.dask_workers import read_workers
from posenet_store.parallel.dispatch import TIMEOUTS, Follow, Timeouts, dispatch_tasks, start_no_more
from posenet_store.parallel.machine import SHARE, parse_memory, share_memory
from posenet_store.parallel.pools import Announce, connect, is_remote, open_pool
from posenet_store.parallel.slurm import find_slurm_file, load_slurm_settings
from posenet_store.threads import count_cpus

Task = TypeVar("Task")
Result = TypeVar("Result")


def count_workers(scheduler: str, workers: int | None = None) -> int:
    """Return how many workers tasks will have; raises UsageError if no scheduler answers."""
    if (settings := find_slurm_file(scheduler)) is not None:
        return workers or load_slurm_settings(settings).workers
    if not is_remote(scheduler):
        return workers or count_cpus()
    with connect(scheduler) as client:
        return max(1, len(read_workers(client, TIMEOUTS.answer)))


def share_worker_memory(scheduler: str, workers: int | None = None) -> int:
    """Return the bytes that a task may hold on a worker; raises UsageError if no scheduler answers.

    They are a share (`machine.SHARE`) of a Slurm job's memory, of the least `memory_limit` of a scheduler's workers, or of
    this machine's memory for one worker, also where the others are not known.
    """
    if (settings := find_slurm_file(scheduler)) is not None:
        memory = load_slurm_settings(settings).memory
        return int(parse_memory(memory) * SHARE) if memory else share_memory()
    if not is_remote(scheduler):
        return share_memory(1 if scheduler == "inline" else count_workers(scheduler, workers))
    with connect(scheduler) as client:
        limits = [worker["memory_limit"] for worker in read_workers(client, TIMEOUTS.answer).values()]
    return min([int(limit * SHARE) for limit in limits if limit], default=share_memory())


def run_tasks(
    work: Callable[[Task, int], Result],
    tasks: Sequence[Task],
    scheduler: str = "local",
    workers: int | None = None,
    announce: Announce = lambda line: None,
    resource: str | None = None,
    *,
    folder: Path | None = None,
    count_kept: Callable[[], int] = int,
    follow: Follow[Task, Result] = start_no_more,
    timeouts: Timeouts = TIMEOUTS,
) -> Iterator[tuple[Task, Result | PosenetStoreError]]:
    """Yield (task, result) as tasks end; `work(task, threads)` gets the number of threads that it may use.

    `auto` runs tasks in this process for as long as workers would take to start, then the others on local workers. A single
    task, or all on a single CPU, run in this process; with `workers` local workers start at once. The tasks that
    `follow(task, result)` returns are run too; it is called before a task is yielded.

    A Dask worker does one task at a time. It gets none before a check: it must have this package's code and torch as they
    are here, and see the files that this process writes to `folder`. Workers may come at any time. If any announces
    `resource` (`dask worker --resources GPU=1`), only such workers get tasks.

    A task that fails with an error of this package, for lack of disk or memory, or because it lost four workers, yields that
    error, and the others continue; the workers are counted again from nothing whenever `count_kept()` has grown. A worker
    whose task raises WorkerError gets no more tasks, another repeats it. Raises PosenetStoreError if the scheduler is lost
    or no worker can do the tasks. `announce` gets lines for people.
    """
    if scheduler == "auto" and not workers:
        remaining, deadline = list(tasks), monotonic() + timeouts.start
        while remaining and (min(len(remaining), count_cpus()) == 1 or monotonic() < deadline):
            yield from _run_inline(work, [remaining.pop(0)], follow)
        if remaining:
            yield from run_tasks(work, remaining, "local", announce=announce, follow=follow, timeouts=timeouts)
        return
    if scheduler == "inline":
        yield from _run_inline(work, tasks, follow)
        return
    with open_pool(scheduler, len(tasks), workers, announce) as pool:
        yield from dispatch_tasks(
            partial(_run_task, work), tasks, pool,
            announce=announce, resource=resource, folder=folder, count_kept=count_kept, follow=follow, timeouts=timeouts,
        )  # fmt: skip


def _run_inline(
    work: Callable[[Task, int], Result], tasks: Iterable[Task], follow: Follow[Task, Result]
) -> Iterator[tuple[Task, Result | PosenetStoreError]]:
    """Run tasks, and those that follow them, one after another in this process."""
    waiting = deque(tasks)
    while waiting:
        task = waiting.popleft()
        result: Result | PosenetStoreError
        try:
            result = _run_task(work, task, count_cpus())
        except PosenetStoreError as error:
            result = error
        waiting.extend(follow(task, result))
        yield task, result


def _run_task(work: Callable[[Task, int], Result], task: Task, threads: int) -> Result:
    """Run a task, on the worker; a lack of disk or memory becomes a PosenetStoreError, a bug keeps its traceback."""
    try:
        return work(task, threads)
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        raise PosenetStoreError(f"{error.strerror or first_line(error)}{where}") from error
    except (MemoryError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise PosenetStoreError(f"out of memory ({first_line(error)}); fewer workers leave more to each") from error
        raise
