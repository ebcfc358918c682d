"""Hand tasks to Dask workers as these come: one task at a time each, after a check, and again where a worker is lost."""

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from posenet_store.errors import PosenetStoreError, WorkerError
from posenet_store.parallel.dask_workers import SilentWorkers, Workers, read_workers
from posenet_store.parallel.pools import Announce, Pool
from posenet_store.parallel.worker_check import Facts, describe_fault, make_check, make_runner, write_token

if TYPE_CHECKING:
    from distributed import Future

Task = TypeVar("Task")
Result = TypeVar("Result")
Follow = Callable[[Task, Result | PosenetStoreError], Sequence[Task]]
"""Returns the tasks that can start now that a task has ended with a result or an error."""


def start_no_more(task: object, result: object) -> Sequence[Any]:
    """Return that no task follows another."""
    return ()


MAX_LOSSES = 4
"""Workers that a task may lose, one after another, before it is given up."""


@dataclass(frozen=True, kw_only=True)
class Timeouts:
    """Seconds that a run waits for its workers and for a scheduler."""

    start: float = 5.0
    """For which `auto` runs tasks in this process: about what local workers (processes that import torch) take to start."""
    check: float = 1.0
    """Between two looks at the workers."""
    answer: float = 30.0
    """For an answer of the scheduler."""
    workers: float = 300.0
    """For a worker, where there is none and no job that may bring one."""
    silence: float = 15.0
    """For a heartbeat of a worker, until it is announced as silent."""
    patience: float = 60.0
    """For a heartbeat of a worker, until its task goes elsewhere."""


TIMEOUTS = Timeouts()


class _Crew:
    """The workers of a pool: which of them passed the check, and the number of the task that each does."""

    def __init__(
        self, pool: Pool, *, resource: str | None, token: str, folder: Path | None, announce: Announce, timeouts: Timeouts
    ) -> None:
        self._pool, self._resource, self._folder, self._announce = pool, resource, folder, announce
        self._timeouts = timeouts
        self._silent = SilentWorkers(
            pool.client, announce, silence=timeouts.silence, patience=timeouts.patience, answer=timeouts.answer
        )
        self._check, self._runner = make_check(token), make_runner()
        self._here = self._check()
        self._workers: Workers = {}
        self._passed: set[str] = set()
        self._unfit: dict[str, str] = {}
        self._checks: dict[Future[Facts], str] = {}
        self._tasks: dict[Future[Any], tuple[int, str]] = {}

    @property
    def is_busy(self) -> bool:
        """Whether a worker has a task."""
        return bool(self._tasks)

    def update(self) -> list[tuple[int, str]]:
        """Ask for the workers and start to check new ones; return the tasks of lost ones, with what was lost.

        Raises PosenetStoreError if there are workers and all of them failed the check.
        """
        before, self._workers = self._workers, read_workers(self._pool.client, self._timeouts.answer)
        self._silent.check(self._workers, {address for _, address in self._tasks.values()})
        if self._workers and self._workers.keys() <= self._unfit.keys():
            reasons = "; ".join(f"{address}: {self._unfit[address]}" for address in self._workers)
            raise PosenetStoreError(f"no worker of {self._pool.name} can do the tasks ({reasons})")
        for check in [check for check, address in self._checks.items() if address not in self._workers]:
            check.cancel()
            del self._checks[check]
        self._passed &= self._workers.keys()
        known = {*self._passed, *self._unfit, *self._checks.values()}
        self._checks |= {self._submit(address, self._check): address for address in self._workers if address not in known}
        lost = [future for future, (_, address) in self._tasks.items() if address not in self._workers]
        return [self._take_back(future, before) for future in lost]

    def _take_back(self, future: "Future[Any]", workers: Workers) -> tuple[int, str]:
        """Forget the task of a lost worker; return it, and the worker with its memory limit."""
        future.cancel()
        task, address = self._tasks.pop(future)
        limit = workers[address]["memory_limit"]
        return task, f"{address} (memory limit {limit / 1e9:.1f} GB)" if limit else address

    @property
    def has_workers(self) -> bool:
        """Whether there is any worker."""
        return bool(self._workers)

    def list_free(self) -> list[str]:
        """Return the workers that may get a task; if any announces the resource that tasks use, only such workers."""
        fit = [address for address in self._workers if address not in self._unfit]
        equipped = [address for address in fit if self._list_resources(address)]
        busy = {address for _, address in self._tasks.values()}
        ready = {address for address in self._passed - busy if self._workers[address]["status"] == "running"}
        return [address for address in equipped or fit if address in ready]

    def start(self, address: str, number: int, work: Callable[[Any, int], Any], task: object) -> None:
        """Give a worker a task; it does one at a time, on all its threads, because each may take the memory planned."""
        from distributed.protocol.pickle import dumps

        threads = self._pool.threads or int(self._workers[address]["nthreads"])
        payload = dumps((work, (task, threads)))
        future = self._submit(address, self._runner, payload, resources=self._list_resources(address))
        self._tasks[future] = (number, address)

    def refuse(self, address: str, reason: str) -> None:
        """Give a worker no tasks any more."""
        self._unfit[address] = reason
        self._passed.discard(address)
        self._announce(f"the worker {address} gets no tasks: {reason}")

    def wait(self) -> Iterator[tuple[int, str, Any]]:
        """Wait for something to end, for a while; yield tasks that ended, with their worker and their result or error."""
        from distributed import wait

        futures = [*self._tasks, *self._checks]
        if not futures:
            sleep(min(self._timeouts.check, 0.2))
            return
        try:
            ended = wait(futures, timeout=self._timeouts.check, return_when="FIRST_COMPLETED").done
        except TimeoutError:
            return
        for future in ended:
            if future in self._checks:
                self._record_check(future)
                continue
            try:
                result = _get_result(future, self._timeouts.answer)
            except TimeoutError:  # its worker was lost before it handed the result over
                continue
            number, address = self._tasks.pop(future)
            yield number, address, result

    def _record_check(self, check: "Future[Facts]") -> None:
        address = self._checks.pop(check)
        try:
            fault = describe_fault(check.result(timeout=self._timeouts.answer), self._here, self._folder)
        except CancelledError:
            raise
        except Exception as error:  # whatever keeps a worker from saying what it has
            fault = f"it can't be checked ({type(error).__name__}: {error})"
        self._passed.add(address) if fault is None else self.refuse(address, fault)

    def _list_resources(self, address: str) -> dict[str, float]:
        announced = self._workers[address]["resources"]
        return {self._resource: 1} if self._resource and announced.get(self._resource) else {}

    def _submit(self, address: str, function: Callable[..., Any], *arguments: Any, **options: Any) -> "Future[Any]":
        return self._pool.client.submit(function, *arguments, workers=[address], pure=False, **options)


def _get_result(future: "Future[Any]", timeout: float) -> Any:
    """Return a task's result, or its error if that is one of this package or the worker died again and again."""
    from distributed import KilledWorker

    try:
        return future.result(timeout=timeout)
    except PosenetStoreError as error:
        return error
    except KilledWorker as error:
        return _describe_losses(error.last_worker.address)


def _describe_losses(worker: str) -> PosenetStoreError:
    return PosenetStoreError(f"the worker died four times on this task (out of memory, or of walltime?), last at {worker}")


class _Losses:
    """Counts the workers that each task has lost; from nothing again whenever more work is kept than before."""

    def __init__(self, count_kept: Callable[[], int]) -> None:
        self._count_kept, self._kept = count_kept, count_kept()
        self._counts = Counter[int]()

    def record(self, number: int) -> bool:
        """Count a lost worker; return whether the task should be tried again."""
        if (count := self._count_kept()) > self._kept:
            self._kept = count
            self._counts.clear()
        self._counts[number] += 1
        return self._counts[number] < MAX_LOSSES


class _Queue(Generic[Task, Result]):
    """The tasks of a run, which others may follow, and the numbers of those that wait for a worker."""

    def __init__(self, tasks: Sequence[Task], follow: Follow[Task, Result]) -> None:
        self.tasks, self.waiting, self._follow = list(tasks), deque(range(len(tasks))), follow

    def end(self, number: int, result: Result | PosenetStoreError) -> tuple[Task, Result | PosenetStoreError]:
        """Add what follows a task, and return it with its result."""
        following = self._follow(self.tasks[number], result)
        self.waiting.extend(range(len(self.tasks), len(self.tasks) + len(following)))
        self.tasks.extend(following)
        return self.tasks[number], result


@contextmanager
def _report_lost_scheduler(pool: Pool) -> Iterator[None]:
    """Turn Dask's errors for a scheduler that ended, restarted or does not answer into one of this package."""
    try:
        yield
    except (CancelledError, OSError) as error:
        raise PosenetStoreError(
            f"the Dask scheduler of {pool.name} was lost or restarted. Finished tasks are kept: "
            "check that it runs and rerun the command"
        ) from error


def dispatch_tasks(
    work: Callable[[Task, int], Result],
    tasks: Sequence[Task],
    pool: Pool,
    *,
    announce: Announce,
    resource: str | None = None,
    folder: Path | None = None,
    count_kept: Callable[[], int] = int,
    follow: Follow[Task, Result] = start_no_more,
    timeouts: Timeouts = TIMEOUTS,
) -> Iterator[tuple[Task, Result | PosenetStoreError]]:
    """Yield tasks with their results or errors of this package as they end; the arguments are those of `run_tasks`.

    Raises PosenetStoreError if no task can end any more: no worker comes or fits, or the scheduler is lost.
    """
    queue, losses, alive, due = _Queue(tasks, follow), _Losses(count_kept), monotonic(), 0.0
    waiting = queue.waiting
    with write_token(folder) as token, _report_lost_scheduler(pool):
        crew = _Crew(pool, resource=resource, token=token, folder=folder, announce=announce, timeouts=timeouts)
        while waiting or crew.is_busy:
            if monotonic() >= due:
                for number, worker in crew.update():
                    if losses.record(number):
                        announce(f"the worker {worker} was lost; its task starts again elsewhere")
                        waiting.appendleft(number)
                    else:
                        yield queue.end(number, _describe_losses(worker))
                due = monotonic() + timeouts.check
                alive = monotonic() if pool.renew(crew.has_workers) else alive
                if monotonic() - alive > timeouts.workers:
                    raise _describe_absence(pool, timeouts)
            for address in crew.list_free()[: len(waiting)]:
                number = waiting.popleft()
                crew.start(address, number, work, queue.tasks[number])
            for number, address, result in crew.wait():
                if isinstance(result, WorkerError):
                    crew.refuse(address, str(result))
                    waiting.appendleft(number)
                else:
                    yield queue.end(number, result)


def _describe_absence(pool: Pool, timeouts: Timeouts) -> PosenetStoreError:
    return PosenetStoreError(
        f"no worker of {pool.name} for {timeouts.workers / 60:.0f} minutes. Finished tasks are kept: "
        "start workers and rerun the command"
    )
