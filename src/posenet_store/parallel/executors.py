"""Running tasks here, on local Dask workers, on Slurm jobs or on a Dask scheduler at an address. The owner of dask."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar

from posenet_store.errors import PosenetStoreError, UsageError, first_line
from posenet_store.parallel.machine import SHARE, parse_memory, share_memory
from posenet_store.parallel.slurm import SLURM_FILE, load_slurm_settings, submit_slurm_jobs
from posenet_store.threads import count_cpus

if TYPE_CHECKING:
    from distributed import Client, Future
    from distributed.deploy.cluster import Cluster

Task = TypeVar("Task")
Result = TypeVar("Result")
Announce = Callable[[str], None]

ACCEPTED = "auto, local, inline, slurm, slurm:FILE, or an address such as tcp://host:8786"
START_SECONDS = 5.0
"""What local workers take to start (a scheduler, and processes that import torch): so long `auto` does without."""
LOOK = 5.0  # seconds between two looks at the workers
ANSWER = 30.0  # seconds that a scheduler may take to answer
PATIENCE = 300.0  # seconds without any worker, or any job that could become one
LOOPBACK = "127.0.0.1"
DASHBOARD = f"{LOOPBACK}:0"  # any free port
SILENT = "CRITICAL"
# A terminal's Ctrl-C reaches the workers too; this process ends them, and they need not each print a traceback.
DEAF = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"


@dataclass(frozen=True)
class _Pool:
    """Dask workers: `threads` a task may use; `look` replaces lost ones and returns whether there are any, or will be."""

    client: "Client"
    threads: int
    place: str
    look: Callable[[], bool]


def count_workers(scheduler: str, workers: int | None = None) -> int:
    """Return how many workers tasks will find; raises UsageError if no scheduler answers."""
    if (settings := _slurm_file(scheduler)) is not None:
        return workers or load_slurm_settings(settings).workers
    if "://" not in scheduler:
        return workers or count_cpus()
    with _client(scheduler) as client:
        return max(1, len(_nthreads(client)))


def share_worker_memory(scheduler: str, workers: int | None = None) -> int:
    """Return the bytes that a task may hold on a worker; raises UsageError if no scheduler answers.

    They are a share (`machine.SHARE`) of a Slurm job's memory, of the least `memory_limit` of a scheduler's workers, or of
    this machine's memory for one worker.
    """
    if (settings := _slurm_file(scheduler)) is not None:
        return int(parse_memory(load_slurm_settings(settings).memory) * SHARE)
    if "://" not in scheduler:
        return share_memory(1 if scheduler == "inline" else count_workers(scheduler, workers))
    with _client(scheduler) as client:
        limits = [worker.get("memory_limit") for worker in client.scheduler_info(n_workers=-1)["workers"].values()]
    return min([int(limit * SHARE) for limit in limits if limit], default=share_memory())


def run_tasks(
    work: Callable[[Task, int], Result],
    tasks: Sequence[Task],
    scheduler: str = "local",
    workers: int | None = None,
    announce: Announce = lambda line: None,
    resource: str | None = None,
) -> Iterator[tuple[Task, Result | PosenetStoreError]]:
    """Yield (task, result) as tasks end; `work(task, threads)` gets the threads it may use.

    `auto` does tasks in this process for as long as workers would take to start, then the others on local workers; it never
    starts any for a single task or CPU, and at once if `workers` are asked for.

    If workers of a Dask scheduler announce `resource` (`dask worker --resources GPU=1`), tasks go to those only, one for
    each unit of it.

    A task that fails with an error of this package, for want of disk or memory, or whose worker is lost for good,
    yields that error; others go on. Raises PosenetStoreError if the scheduler is lost. `announce` gets lines for people.
    """
    if scheduler == "auto" and not workers:
        waiting, ends = list(tasks), monotonic() + START_SECONDS
        while waiting and (min(len(waiting), count_cpus()) == 1 or monotonic() < ends):
            yield from _do_here(work, [waiting.pop(0)])
        if waiting:
            yield from run_tasks(work, waiting, "local", announce=announce)
        return
    if scheduler == "inline":
        yield from _do_here(work, tasks)
        return
    with _pool(scheduler, len(tasks), workers, announce) as pool:
        yield from _on_dask(work, tasks, pool, _resources(pool.client, resource))


def _do_here(work: Callable[[Task, int], Result], tasks: Iterable[Task]) -> Iterator[tuple[Task, Result | PosenetStoreError]]:
    """Do tasks one after another in this process."""
    for task in tasks:
        try:
            yield task, _attempt(work, task, count_cpus())
        except PosenetStoreError as error:
            yield task, error


def _attempt(work: Callable[[Task, int], Result], task: Task, threads: int) -> Result:
    """Do a task, on the worker: want of disk or memory fails it, a mistake of ours keeps its traceback."""
    try:
        return work(task, threads)
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        raise PosenetStoreError(f"{error.strerror or first_line(error)}{where}") from error
    except (MemoryError, RuntimeError) as error:
        # torch has no type of its own for it on a CPU
        if isinstance(error, MemoryError) or "allocate memory" in str(error) or "out of memory" in str(error):
            raise PosenetStoreError(f"out of memory ({first_line(error)}); fewer workers leave more to each") from error
        raise


def _on_dask(
    work: Callable[[Task, int], Result], tasks: Sequence[Task], pool: _Pool, resources: dict[str, float]
) -> Iterator[tuple[Task, Result | PosenetStoreError]]:
    """Yield tasks as they end and look after the workers meanwhile; raises if nothing can end any more."""
    from distributed import wait

    submit = partial(pool.client.submit, partial(_attempt, work), pure=False, resources=resources)
    futures = {submit(task, pool.threads): task for task in tasks}
    looked = alive = monotonic()
    try:
        while futures:
            with suppress(TimeoutError):  # nothing ended, or a result is not here yet
                for future in wait(list(futures), timeout=LOOK, return_when="FIRST_COMPLETED").done:
                    outcome: Result | PosenetStoreError = _outcome(future)
                    yield futures.pop(future), outcome
            if monotonic() - looked >= LOOK:
                looked = monotonic()
                alive = looked if pool.look() else alive
            if looked - alive > PATIENCE:
                raise PosenetStoreError(
                    f"no worker of {pool.place} for {PATIENCE / 60:.0f} minutes. Finished tasks are kept: "
                    "start workers and rerun the command"
                )
    except (CancelledError, OSError) as error:  # so Dask says that the scheduler went, and with it what it knew; or no answer
        raise PosenetStoreError(
            f"the Dask scheduler of {pool.place} was lost or restarted. Finished tasks are kept: "
            "check that it runs and rerun the command"
        ) from error


def _resources(client: "Client", wanted: str | None) -> dict[str, float]:
    """What a task takes of its worker: one unit of `wanted`, if any worker announces that."""
    if wanted is None or not client.run_on_scheduler(_announced, resource=wanted):
        return {}
    return {wanted: 1}


def _announced(resource: str, dask_scheduler: Any) -> bool:
    return bool(dask_scheduler.resources.get(resource))


def _outcome(future: "Future[Any]") -> Any:
    from distributed import KilledWorker

    try:
        return future.result(timeout=ANSWER)
    except PosenetStoreError as error:
        return error
    except KilledWorker as error:
        last = error.last_worker.address
        return PosenetStoreError(f"the worker died four times on this task (out of memory, or of walltime?), last at {last}")


def _pool(scheduler: str, tasks: int, workers: int | None, announce: Announce) -> AbstractContextManager[_Pool]:
    if (settings := _slurm_file(scheduler)) is not None:
        return _slurm(settings, tasks, workers, announce)
    if scheduler in ("local", "auto"):
        return _local(min(workers or count_cpus(), tasks), announce)
    if "://" in scheduler:
        return _remote(scheduler, tasks)
    raise UsageError(f"unknown scheduler {scheduler!r}; accepted: {ACCEPTED}")


def _nthreads(client: "Client") -> dict[str, int]:
    """Return the threads of each worker; raises OSError if the scheduler does not answer."""
    if client.scheduler is None:
        raise OSError("the client gave up")
    threads: dict[str, int] = client.sync(client.scheduler.ncores, callback_timeout=ANSWER)
    return threads


def _client(address: str) -> "Client":
    from distributed import Client

    try:
        return Client(address, timeout="10s")
    except (OSError, ValueError) as error:
        raise UsageError(f"no Dask scheduler answers at {address} ({error}); accepted: {ACCEPTED}") from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Dask settings of a run. Its log stays silent: a lost worker is retried, and a lost scheduler is an error of ours."""
    import dask
    from distributed.utils import silence_logging_cmgr

    with dask.config.set({"distributed.scheduler.allowed-failures": 3}), silence_logging_cmgr(SILENT):
        yield


@contextmanager
def _remote(address: str, tasks: int) -> Iterator[_Pool]:
    with _quiet(), _client(address) as client:
        threads = _nthreads(client).values()
        # A worker of n threads runs up to n tasks at once: the more tasks, the fewer threads each.
        share = min([*threads, max(1, sum(threads) // tasks)]) if threads else 1
        yield _Pool(client, share, address, lambda: bool(_nthreads(client)))


@contextmanager
def _local(count: int, announce: Announce) -> Iterator[_Pool]:
    from distributed import Client, LocalCluster

    with (
        _quiet(),
        # The dashboard listens on loopback only; workers are processes of one thread, torch uses more in them.
        LocalCluster(
            n_workers=count,
            threads_per_worker=1,
            host=LOOPBACK,
            dashboard_address=DASHBOARD,
            silence_logs=SILENT,
            preload=[DEAF],
        ) as cluster,
        Client(cluster) as client,
    ):
        _announce_dashboard(cluster, announce)
        yield _Pool(client, max(1, count_cpus() // count), "this machine", lambda: bool(_nthreads(client)))


def _announce_dashboard(cluster: "Cluster", announce: Announce) -> None:
    if find_spec("bokeh") is not None:  # without it Dask serves a page that asks for it
        announce(f"dashboard: http://{LOOPBACK}:{cluster.scheduler_info['services']['dashboard']}/status")


def _slurm_file(scheduler: str) -> Path | None:
    """Return the settings file that `slurm` or `slurm:FILE` means, None for anything else."""
    name, _, file = scheduler.partition(":")
    return Path(file or SLURM_FILE) if name == "slurm" else None


@contextmanager
def _slurm(path: Path, tasks: int, workers: int | None, announce: Announce) -> Iterator[_Pool]:
    from distributed import Client

    settings = load_slurm_settings(path)
    count = min(workers or settings.workers, tasks)
    with _quiet(), submit_slurm_jobs(path, settings, count, DASHBOARD) as jobs, Client(jobs.cluster) as client:
        announce(f"{count} Slurm jobs submitted (squeue --me); their output: {Path(settings.log_directory).resolve()}")
        _announce_dashboard(jobs.cluster, announce)
        yield _Pool(client, settings.cores, "Slurm", lambda: jobs.renew(bool(_nthreads(client))))
