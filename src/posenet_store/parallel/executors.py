"""Run tasks in this process, on local Dask workers, in Slurm jobs or on a Dask scheduler at an address. The owner of dask."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar

from posenet_store.errors import PosenetStoreError, UsageError, first_line, is_out_of_memory
from posenet_store.parallel.dask_workers import SilentWorkers, get_threads, read_heartbeats
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
LOOPBACK = "127.0.0.1"
DASHBOARD = f"{LOOPBACK}:0"  # any free port
SILENT = "CRITICAL"
# A terminal's Ctrl-C reaches the workers too; this process ends them, so they need not print a traceback each.
IGNORE_CTRL_C = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"


@dataclass(frozen=True, kw_only=True)
class Timeouts:
    """Seconds that a run waits for its workers and for a scheduler."""

    start: float = 5.0
    """For which `auto` runs tasks in this process: about what local workers (processes that import torch) take to start."""
    check: float = 5.0
    """Between two checks of the workers."""
    answer: float = 30.0
    """For an answer of the scheduler."""
    workers: float = 300.0
    """For a worker, where there is none and no job that may bring one."""
    silence: float = 15.0
    """For a heartbeat of a worker, until it is announced as silent."""
    patience: float = 60.0
    """For a heartbeat of a worker, until its tasks go elsewhere."""


TIMEOUTS = Timeouts()


@dataclass(frozen=True)
class _Pool:
    """Dask workers: the `threads` that a task may use, and a `name` for messages.

    `renew(connected)` replaces lost workers and returns whether there are workers or will be.
    """

    client: "Client"
    threads: int
    name: str
    renew: Callable[[bool], bool] = bool


def count_workers(scheduler: str, workers: int | None = None) -> int:
    """Return how many workers tasks will have; raises UsageError if no scheduler answers."""
    if (settings := _slurm_file(scheduler)) is not None:
        return workers or load_slurm_settings(settings).workers
    if "://" not in scheduler:
        return workers or count_cpus()
    with _connect(scheduler) as client:
        return max(1, len(get_threads(client, TIMEOUTS.answer)))


def share_worker_memory(scheduler: str, workers: int | None = None) -> int:
    """Return the bytes that a task may hold on a worker; raises UsageError if no scheduler answers.

    They are a share (`machine.SHARE`) of a Slurm job's memory, of the least `memory_limit` of a scheduler's workers, or of
    this machine's memory for one worker, also where the others are not known.
    """
    if (settings := _slurm_file(scheduler)) is not None:
        memory = load_slurm_settings(settings).memory
        return int(parse_memory(memory) * SHARE) if memory else share_memory()
    if "://" not in scheduler:
        return share_memory(1 if scheduler == "inline" else count_workers(scheduler, workers))
    with _connect(scheduler) as client:
        limits = [worker.get("memory_limit") for worker in client.scheduler_info(n_workers=-1)["workers"].values()]
    return min([int(limit * SHARE) for limit in limits if limit], default=share_memory())


def run_tasks(
    work: Callable[[Task, int], Result],
    tasks: Sequence[Task],
    scheduler: str = "local",
    workers: int | None = None,
    announce: Announce = lambda line: None,
    resource: str | None = None,
    *,
    timeouts: Timeouts = TIMEOUTS,
) -> Iterator[tuple[Task, Result | PosenetStoreError]]:
    """Yield (task, result) as tasks end; `work(task, threads)` gets the number of threads that it may use.

    `auto` runs tasks in this process for as long as workers would take to start, then the others on local workers. A single
    task, or all on a single CPU, run in this process; with `workers` local workers start at once.

    If workers of a Dask scheduler announce `resource` (`dask worker --resources GPU=1`), only those get tasks, one for each
    unit of it. A task that fails with an error of this package, for lack of disk or memory, or because its worker is lost
    for good, yields that error, and the others continue. Raises PosenetStoreError if the scheduler is lost. `announce` gets
    lines for people.
    """
    if scheduler == "auto" and not workers:
        remaining, deadline = list(tasks), monotonic() + timeouts.start
        while remaining and (min(len(remaining), count_cpus()) == 1 or monotonic() < deadline):
            yield from _run_inline(work, [remaining.pop(0)])
        if remaining:
            yield from run_tasks(work, remaining, "local", announce=announce, timeouts=timeouts)
        return
    if scheduler == "inline":
        yield from _run_inline(work, tasks)
        return
    with _open_pool(scheduler, len(tasks), workers, announce, timeouts) as pool:
        yield from _run_on_dask(work, tasks, pool, _list_resources(pool.client, resource), timeouts, announce)


def _run_inline(
    work: Callable[[Task, int], Result], tasks: Iterable[Task]
) -> Iterator[tuple[Task, Result | PosenetStoreError]]:
    """Run tasks one after another in this process."""
    for task in tasks:
        try:
            yield task, _run_task(work, task, count_cpus())
        except PosenetStoreError as error:
            yield task, error


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


def _run_on_dask(
    work: Callable[[Task, int], Result],
    tasks: Sequence[Task],
    pool: _Pool,
    resources: dict[str, float],
    timeouts: Timeouts,
    announce: Announce,
) -> Iterator[tuple[Task, Result | PosenetStoreError]]:
    """Yield tasks as they end and check the workers meanwhile; raises PosenetStoreError if no task can end any more."""
    from distributed import wait

    submit = partial(pool.client.submit, partial(_run_task, work), pure=False, resources=resources)
    futures = {submit(task, pool.threads): task for task in tasks}
    checked = alive = monotonic()
    silent = SilentWorkers(pool.client, announce, silence=timeouts.silence, patience=timeouts.patience, answer=timeouts.answer)
    try:
        while futures:
            with suppress(TimeoutError):  # no task ended, or its result has not arrived yet
                for future in wait(list(futures), timeout=timeouts.check, return_when="FIRST_COMPLETED").done:
                    result: Result | PosenetStoreError = _get_result(future, timeouts.answer)
                    yield futures.pop(future), result
            if monotonic() - checked >= timeouts.check:
                checked = monotonic()
                heartbeats = read_heartbeats(pool.client, timeouts.answer)
                silent.check(heartbeats, {future.key for future in futures})
                alive = checked if pool.renew(bool(heartbeats)) else alive
            if checked - alive > timeouts.workers:
                raise PosenetStoreError(
                    f"no worker of {pool.name} for {timeouts.workers / 60:.0f} minutes. Finished tasks are kept: "
                    "start workers and rerun the command"
                )
    except (CancelledError, OSError) as error:  # Dask's errors for a scheduler that ended, restarted or does not answer
        raise PosenetStoreError(
            f"the Dask scheduler of {pool.name} was lost or restarted. Finished tasks are kept: "
            "check that it runs and rerun the command"
        ) from error


def _list_resources(client: "Client", resource: str | None) -> dict[str, float]:
    """Return the resources that a task needs: one unit of `resource` if any worker announces it."""
    if resource is None or not client.run_on_scheduler(_is_announced, resource=resource):
        return {}
    return {resource: 1}


def _is_announced(resource: str, dask_scheduler: Any) -> bool:
    return bool(dask_scheduler.resources.get(resource))


def _get_result(future: "Future[Any]", timeout: float) -> Any:
    """Return a task's result, or its error if that is one of this package or the worker died."""
    from distributed import KilledWorker

    try:
        return future.result(timeout=timeout)
    except PosenetStoreError as error:
        return error
    except KilledWorker as error:
        last = error.last_worker.address
        return PosenetStoreError(f"the worker died four times on this task (out of memory, or of walltime?), last at {last}")


def _open_pool(
    scheduler: str, tasks: int, workers: int | None, announce: Announce, timeouts: Timeouts
) -> AbstractContextManager[_Pool]:
    if (settings := _slurm_file(scheduler)) is not None:
        return _open_slurm_pool(settings, tasks, workers, announce)
    if scheduler in ("local", "auto"):
        return _open_local_pool(min(workers or count_cpus(), tasks), announce)
    if "://" in scheduler:
        return _open_remote_pool(scheduler, tasks, timeouts)
    raise UsageError(f"unknown scheduler {scheduler!r}; accepted: {ACCEPTED}")


def _connect(address: str) -> "Client":
    from distributed import Client

    try:
        return Client(address, timeout="10s")
    except (OSError, ValueError) as error:
        raise UsageError(f"no Dask scheduler answers at {address} ({error}); accepted: {ACCEPTED}") from None


@contextmanager
def _configure_dask() -> Iterator[None]:
    """Set up Dask for a run, and silence its log: lost workers are retried, a lost scheduler is an error of this package."""
    import dask
    from distributed.utils import silence_logging_cmgr

    with dask.config.set({"distributed.scheduler.allowed-failures": 3}), silence_logging_cmgr(SILENT):
        yield


@contextmanager
def _open_remote_pool(address: str, tasks: int, timeouts: Timeouts) -> Iterator[_Pool]:
    with _configure_dask(), _connect(address) as client:
        threads = get_threads(client, timeouts.answer).values()
        # A worker of n threads runs up to n tasks at once: the more tasks, the fewer threads for each.
        yield _Pool(client, min([*threads, max(1, sum(threads) // tasks)]) if threads else 1, address)


@contextmanager
def _open_local_pool(count: int, announce: Announce) -> Iterator[_Pool]:
    from distributed import Client, LocalCluster

    with (
        _configure_dask(),
        # The dashboard listens on loopback only. A worker runs one task at a time; torch uses more threads in it.
        LocalCluster(
            n_workers=count,
            threads_per_worker=1,
            host=LOOPBACK,
            dashboard_address=DASHBOARD,
            silence_logs=SILENT,
            preload=[IGNORE_CTRL_C],
        ) as cluster,
        Client(cluster) as client,
    ):
        _announce_dashboard(cluster, announce)
        yield _Pool(client, max(1, count_cpus() // count), "this machine")


def _announce_dashboard(cluster: "Cluster", announce: Announce) -> None:
    if find_spec("bokeh") is not None:  # without it Dask's page only asks to install it
        announce(f"dashboard: http://{LOOPBACK}:{cluster.scheduler_info['services']['dashboard']}/status")


def _slurm_file(scheduler: str) -> Path | None:
    """Return the settings file that `slurm` or `slurm:FILE` means, None for anything else."""
    name, _, file = scheduler.partition(":")
    return Path(file or SLURM_FILE) if name == "slurm" else None


@contextmanager
def _open_slurm_pool(path: Path, tasks: int, workers: int | None, announce: Announce) -> Iterator[_Pool]:
    from distributed import Client

    settings = load_slurm_settings(path)
    count = min(workers or settings.workers, tasks)
    with _configure_dask(), submit_slurm_jobs(path, settings, count, DASHBOARD) as jobs, Client(jobs.cluster) as client:
        announce(f"{count} Slurm jobs submitted (squeue --me); their output: {Path(settings.log_directory).resolve()}")
        _announce_dashboard(jobs.cluster, announce)
        yield _Pool(client, settings.cores, "Slurm", jobs.renew)
