"""Connect to Dask workers: local processes, Slurm jobs, or those of a scheduler at an address. The owner of distributed."""

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from posenet_store.errors import UsageError, first_line
from posenet_store.parallel.slurm import find_slurm_file, load_slurm_settings, submit_slurm_jobs
from posenet_store.threads import count_cpus

if TYPE_CHECKING:
    from distributed import Client
    from distributed.deploy.cluster import Cluster

Announce = Callable[[str], None]

ACCEPTED = "auto, local, inline, slurm, slurm:FILE, an address such as tcp://host:8786, or a scheduler file such as dask.json"
LOOPBACK = "127.0.0.1"
DASHBOARD = f"{LOOPBACK}:0"  # any free port
SILENT = "CRITICAL"
# A terminal's Ctrl-C reaches the workers too; this process ends them, so they need not print a traceback each.
IGNORE_CTRL_C = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"


@dataclass(frozen=True)
class Pool:
    """Dask workers: the `threads` that a task may use (None: those of its worker), and a `name` for messages.

    `renew(connected)` replaces lost workers and returns whether there are workers or will be.
    """

    client: "Client"
    threads: int | None
    name: str
    renew: Callable[[bool], bool] = bool


def open_pool(scheduler: str, tasks: int, workers: int | None, announce: Announce) -> AbstractContextManager[Pool]:
    """Return a context with the workers that `scheduler` means; raises UsageError if it means none."""
    if (settings := find_slurm_file(scheduler)) is not None:
        return _open_slurm_pool(settings, tasks, workers, announce)
    if scheduler in ("local", "auto"):
        return _open_local_pool(min(workers or count_cpus(), tasks), announce)
    if is_remote(scheduler):
        return _open_remote_pool(scheduler)
    raise UsageError(f"unknown scheduler {scheduler!r}; accepted: {ACCEPTED}")


def is_remote(scheduler: str) -> bool:
    """Return whether `scheduler` is the address of a Dask scheduler or the file that it wrote."""
    return "://" in scheduler or scheduler.endswith(".json")


def connect(scheduler: str) -> "Client":
    """Return a client of the scheduler at an address, or of the one that wrote a file; raises UsageError if none answers."""
    from distributed import Client

    address = scheduler if "://" in scheduler else _read_address(Path(scheduler))
    try:
        return Client(address, timeout="10s")
    except (OSError, ValueError) as error:
        raise UsageError(f"no Dask scheduler answers at {address} ({error}); accepted: {ACCEPTED}") from None
    except TypeError as error:  # Dask's way to say that it needs certificates
        if not address.startswith("tls://"):
            raise
        raise UsageError(
            f"{address} needs certificates ({error}): set DASK_DISTRIBUTED__COMM__TLS__CA_FILE and, both with CERT and KEY, "
            "DASK_DISTRIBUTED__COMM__TLS__CLIENT__CERT"
        ) from None


def _read_address(file: Path) -> str:
    """Return the address in the file that `dask scheduler --scheduler-file FILE` wrote."""
    try:
        return str(json.loads(file.read_text(encoding="utf-8"))["address"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{file} is no scheduler file ({first_line(error)}); `dask scheduler --scheduler-file {file}` writes one"
        ) from None


@contextmanager
def _configure_dask() -> Iterator[None]:
    """Set up Dask for a run, and silence its log: lost workers are survived, a lost scheduler is an error of this package."""
    import dask
    from distributed.utils import silence_logging_cmgr

    with dask.config.set({"distributed.scheduler.allowed-failures": 3}), silence_logging_cmgr(SILENT):
        yield


@contextmanager
def _open_remote_pool(scheduler: str) -> Iterator[Pool]:
    with _configure_dask(), connect(scheduler) as client:
        yield Pool(client, None, scheduler)


@contextmanager
def _open_local_pool(count: int, announce: Announce) -> Iterator[Pool]:
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
        yield Pool(client, max(1, count_cpus() // count), "this machine")


def _announce_dashboard(cluster: "Cluster", announce: Announce) -> None:
    if find_spec("bokeh") is not None:  # without it Dask's page only asks to install it
        announce(f"dashboard: http://{LOOPBACK}:{cluster.scheduler_info['services']['dashboard']}/status")


@contextmanager
def _open_slurm_pool(path: Path, tasks: int, workers: int | None, announce: Announce) -> Iterator[Pool]:
    from distributed import Client

    settings = load_slurm_settings(path)
    count = min(workers or settings.workers, tasks)
    with (
        _configure_dask(),
        submit_slurm_jobs(path, settings, count, DASHBOARD, announce) as jobs,
        Client(jobs.cluster) as client,
    ):
        announce(f"{count} Slurm jobs submitted (squeue --me); their output: {Path(settings.log_directory).resolve()}")
        _announce_dashboard(jobs.cluster, announce)
        yield Pool(client, settings.cores, "Slurm", jobs.renew)
