"""Run Dask workers as Slurm jobs, set up by a file such as pipeline/launch/slurm.toml; jobs that end are replaced.

The owner of dask-jobqueue.
"""

import shlex
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from threading import current_thread, main_thread
from time import monotonic
from typing import TYPE_CHECKING

from posenet_store.errors import PosenetStoreError, UsageError, first_line, show_value
from posenet_store.toml_config import fill_defaults, read_toml

if TYPE_CHECKING:
    from dask_jobqueue.slurm import SLURMCluster

SLURM_FILE = Path("pipeline/launch/slurm.toml")
"""The settings in a checkout."""
LAUNCH = Path(str(files("posenet_store"))) / "launch"
"""The files that come with the package and start jobs; in a checkout this is a link to `pipeline/launch`."""
SQUEUE = ("squeue", "--me", "--noheader", "--format=%A %T %r")
SHOW_JOB = ("scontrol", "show", "job", "--oneliner")
QUEUE_PAUSE = 5.0
"""Seconds between two looks at the queue."""
MAX_FAILED_JOBS = 3  # per worker: jobs in a row that may end before any of them has brought a worker
UNUSUAL = {"TIMEOUT": "its walltime is over", "OUT_OF_MEMORY": "it took more than its memory", "NODE_FAIL": "its node failed"}
"""What states of ended jobs mean that are worth a line."""


@dataclass(frozen=True)
class SlurmSettings:
    """Settings of Slurm jobs with one worker process each; an empty text leaves the choice to Slurm or Dask."""

    partition: str = ""
    account: str = ""
    cores: int = 4
    memory: str = "16GB"
    walltime: str = "04:00:00"
    workers: int = 4
    job_extra_directives: tuple[str, ...] = ()
    local_directory: str = ""
    log_directory: str = "runs/slurm"
    interface: str = ""


def list_launch_files() -> list[Path]:
    """Return the files that come with the package and start jobs, by name."""
    return sorted(LAUNCH.glob("[!.]*.*"))


def find_slurm_file(scheduler: str) -> Path | None:
    """Return the settings file that `slurm` or `slurm:FILE` means, None for anything else.

    `slurm` means the file of the checkout in which the command runs, elsewhere the one that comes with the package.
    """
    name, _, file = scheduler.partition(":")
    if name != "slurm":
        return None
    return Path(file) if file else SLURM_FILE if SLURM_FILE.is_file() else LAUNCH / "slurm.toml"


def load_slurm_settings(path: Path) -> SlurmSettings:
    """Read the settings of Slurm jobs; raises UsageError that names the key and what is accepted."""
    table = read_toml(path, "settings file", "`launch show slurm.toml > FILE` writes one for --scheduler slurm:FILE")
    settings: SlurmSettings = fill_defaults(SlurmSettings(), table, str(path))
    texts = (*settings.job_extra_directives, *(value for value in vars(settings).values() if isinstance(value, str)))
    if lines := [text for text in texts if not text.isprintable()]:  # it would be a line of the script that Slurm runs
        raise UsageError(f"{path}: {show_value(lines[0])} is not accepted; give texts of one line")
    return settings


@contextmanager
def _keep_ctrl_c() -> Iterator[None]:
    """Put the handler of Ctrl-C back: dask-jobqueue 0.9.0 sets one, when it is imported, that ends with exit code 0."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        if current_thread() is main_thread():
            signal.signal(signal.SIGINT, handler)


def _make_cluster(path: Path, settings: SlurmSettings, dashboard: str) -> "SLURMCluster":
    try:
        with _keep_ctrl_c():
            from dask_jobqueue.slurm import SLURMCluster
    except ModuleNotFoundError:
        raise UsageError("--scheduler slurm needs dask-jobqueue; install it: pip install 'posenet-store[slurm]'") from None
    if any(sign.isspace() for sign in settings.log_directory):
        raise UsageError(f"{path}: log_directory {settings.log_directory!r} has a space, which #SBATCH lines do not take")
    try:
        return SLURMCluster(
            queue=settings.partition or None,
            account=settings.account or None,
            cores=settings.cores,
            memory=settings.memory or "0",  # 0: Dask sets workers no limit
            job_mem=None if settings.memory else "0",
            job_directives_skip=[] if settings.memory else ["--mem="],
            walltime=settings.walltime,
            processes=1,
            worker_extra_args=["--nthreads", "1"],  # one task at a time, on all cores of the job
            job_extra_directives=list(settings.job_extra_directives),
            local_directory=settings.local_directory or None,
            log_directory=settings.log_directory,
            interface=settings.interface or None,
            silence_logs=False,
            python=shlex.quote(sys.executable),
            scheduler_options={"dashboard_address": dashboard},
        )
    except (RuntimeError, ValueError, OSError) as error:
        raise UsageError(f"the settings of {path} are not accepted: {first_line(error)}") from None


@dataclass
class Jobs:
    """Slurm jobs with one worker each; jobs that end (walltime, scancel, a lost node) are replaced."""

    cluster: "SLURMCluster"
    count: int
    announce: Callable[[str], None]
    failed: int = 0  # jobs in a row that ended while no worker was connected
    waiting: Counter[str] = field(default_factory=Counter)  # by the reason for which they wait, as it was announced last
    asked: float = -QUEUE_PAUSE

    def renew(self, connected: bool) -> bool:
        """Replace the jobs that left the queue; return whether there are workers or jobs.

        `connected` is whether there is a worker now. Raises PosenetStoreError if job after job ends without one.
        """
        if monotonic() - self.asked < QUEUE_PAUSE:
            return True
        self.asked = monotonic()
        jobs = {name: job.job_id for name, job in self.cluster.workers.items()}
        answer = subprocess.run(SQUEUE, capture_output=True, text=True, check=False)  # noqa: S603 - a fixed command
        if answer.returncode:  # Slurm's controller is not available at the moment
            return connected
        queue = {job: (state, reason) for job, state, reason in (line.split(" ", 2) for line in answer.stdout.splitlines())}
        gone = [name for name, job in jobs.items() if job not in queue]
        self._announce_waiting([queue[job] for job in jobs.values() if job in queue])
        for name in gone:
            if meaning := UNUSUAL.get(_read_state(jobs[name])):
                self.announce(f"Slurm job {jobs[name]} ended: {meaning}")
        self.failed = 0 if connected else self.failed + len(gone)
        if self.failed > MAX_FAILED_JOBS * self.count:
            raise PosenetStoreError(
                f"{self.failed} Slurm jobs ended before a worker came of one; their output in the log_directory says why "
                f"(often: `interface` must be a network on which the nodes reach {self.cluster.scheduler_address})"
            )
        for name in gone:
            self.cluster.worker_spec.pop(name)
        with suppress(RuntimeError):  # refused now, tried again at the next check
            self.submit()
        return True

    def _announce_waiting(self, jobs: Sequence[tuple[str, str]]) -> None:
        """Say how many jobs wait, and for what, whenever that has changed."""
        waiting = Counter(reason for state, reason in jobs if state == "PENDING")
        if waiting != self.waiting:
            self.waiting = waiting
            reasons = ", ".join(f"{count} for {reason}" for reason, count in waiting.items())
            self.announce(f"Slurm jobs that wait: {waiting.total()}" + (f" ({reasons})" if reasons else ""))

    def submit(self) -> None:
        """Submit the missing jobs; raises RuntimeError with sbatch's message, OSError if there is no sbatch."""
        self.cluster.sync(self._submit)

    async def _submit(self) -> None:
        from distributed.core import Status

        while len(self.cluster.worker_spec) < self.count:
            self.cluster.worker_spec.update(self.cluster.new_worker_spec())
        try:
            await self.cluster
        finally:
            for job in self.cluster.workers.values():
                if job.job_id is None:  # refused by Slurm; the cluster would try to cancel it
                    job.status = Status.failed


def _read_state(job: str) -> str:
    """Return the state in which a job ended; empty once Slurm has forgotten it."""
    answer = subprocess.run([*SHOW_JOB, job], capture_output=True, text=True, check=False)  # noqa: S603 - a fixed command
    return answer.stdout.partition("JobState=")[2].split(" ", 1)[0]


@contextmanager
def submit_slurm_jobs(
    path: Path, settings: SlurmSettings, count: int, dashboard: str, announce: Callable[[str], None]
) -> Iterator[Jobs]:
    """Submit `count` jobs, and cancel them at the end; raises UsageError if Slurm or Dask refuses the settings."""
    with _make_cluster(path, settings, dashboard) as cluster:
        jobs = Jobs(cluster, count, announce)
        try:
            jobs.submit()
        except (RuntimeError, OSError) as error:
            reason = str(error).strip().splitlines()[-1]  # the last line is sbatch's own message
            raise UsageError(f"Slurm takes no job with the settings of {path}: {reason}") from None
        yield jobs
