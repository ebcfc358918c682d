"""Commands and Dask workers as processes of their own, for benchmarks that measure or kill them."""

import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

PROGRAM = (sys.executable, "-c", "from posenet_store.cli import main; main()")


def start(words: Sequence[str], folder: Path) -> subprocess.Popen[str]:
    """Start a command whose output goes to a file beside the stores."""
    with (folder / "log.txt").open("a", encoding="utf-8") as log:
        return subprocess.Popen(words, cwd=folder, stdout=log, stderr=log, text=True)


def watch(process: subprocess.Popen[str], folder: Path) -> tuple[float, int]:
    """Wait for a command; return its seconds and the peak of its memory in bytes; raises SystemExit if it fails."""
    began, peak = time.perf_counter(), 0
    while process.poll() is None:
        peak = max(peak, read_memory(process.pid))
        time.sleep(0.05)
    if process.returncode:
        raise SystemExit((folder / "log.txt").read_text(encoding="utf-8")[-3000:])
    return time.perf_counter() - began, peak


def read_memory(pid: int) -> int:
    """Return the bytes that a process holds, 0 when it has ended."""
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0


@contextmanager
def run_dask(folder: Path) -> Iterator[tuple[str, Callable[[], subprocess.Popen[str]]]]:
    """Run a Dask scheduler; yields its address, and what starts a worker. All end with the context."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    python = (sys.executable, "-m")
    scheduler = (*python, "distributed.cli.dask_scheduler", "--host", address, "--no-dashboard")
    started = [start(scheduler, folder)]

    def start_worker() -> subprocess.Popen[str]:
        words = ("distributed.cli.dask_worker", address, "--nthreads", "1", "--no-nanny", "--no-dashboard")
        started.append(start((*python, *words), folder))
        return started[-1]

    try:
        yield address, start_worker
    finally:
        for process in started:
            process.kill()
            process.wait()
