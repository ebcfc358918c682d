"""Running tasks in this process, on a local Dask cluster, or on one at an address. The owner of dask."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, TypeVar

from posenet_store.errors import PosenetStoreError, UsageError
from posenet_store.threads import processors

if TYPE_CHECKING:
    from distributed import Client

Task = TypeVar("Task")
Result = TypeVar("Result")
ACCEPTED = "local, inline, or an address such as tcp://host:8786"


def workers_at(scheduler: str, workers: int | None = None) -> int:
    """Return how many workers tasks will find; raises UsageError if no scheduler answers."""
    if "://" not in scheduler:
        return workers or processors()
    with _client(scheduler) as client:
        return max(1, len(client.scheduler_info()["workers"]))


def _client(scheduler: str) -> "Client":
    from distributed import Client

    try:
        return Client(scheduler, timeout="10s")
    except (OSError, ValueError) as error:
        raise UsageError(f"no Dask scheduler answers at {scheduler} ({error}); accepted: {ACCEPTED}") from None


def run_tasks(
    work: Callable[[Task, int], Result], tasks: Sequence[Task], scheduler: str = "local", workers: int | None = None
) -> Iterator[tuple[Task, Result | PosenetStoreError]]:
    """Yield (task, result) as tasks end; `work(task, threads)` gets the threads it may use.

    A task that fails with an error of this package, or whose worker is lost for good, yields that error; others go on.
    """
    if scheduler == "inline":
        for task in tasks:
            try:
                yield task, work(task, processors())
            except PosenetStoreError as error:
                yield task, error
        return
    if scheduler != "local" and "://" not in scheduler:
        raise UsageError(f"unknown scheduler {scheduler!r}; accepted: {ACCEPTED}")
    yield from _on_dask(work, tasks, scheduler, workers)


def _on_dask(
    work: Callable[[Task, int], Result], tasks: Sequence[Task], scheduler: str, workers: int | None
) -> Iterator[tuple[Task, Result | PosenetStoreError]]:
    import dask
    from distributed import Client, KilledWorker, LocalCluster, as_completed

    with ExitStack() as stack:
        stack.enter_context(dask.config.set({"distributed.scheduler.allowed-failures": 3}))
        if scheduler == "local":
            count = min(workers or processors(), len(tasks))
            threads = max(1, processors() // count)
            # The dashboard listens on loopback only; workers are processes of one thread, torch uses `threads` in them.
            cluster = LocalCluster(
                n_workers=count,
                threads_per_worker=1,
                host="127.0.0.1",
                dashboard_address="127.0.0.1:0",
                silence_logs="CRITICAL",
            )
            client = stack.enter_context(Client(stack.enter_context(cluster)))
        else:
            client = stack.enter_context(_client(scheduler))
            threads = max(1, min((w["nthreads"] for w in client.scheduler_info()["workers"].values()), default=1))
        futures = {client.submit(work, task, threads, pure=False): task for task in tasks}
        for future in as_completed(futures):
            result: Result | PosenetStoreError
            try:
                result = future.result()
            except PosenetStoreError as error:
                result = error
            except KilledWorker as error:
                result = PosenetStoreError(f"the worker died four times on this task (memory?): {error}")
            yield futures[future], result
