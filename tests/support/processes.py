"""Processes for tests: Debian's programs, and a Dask scheduler and workers to be killed, frozen and started again."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import psutil
import pytest

HERE = Path(__file__).parents[2]
SEARCHED = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def waited(what: Callable[[], bool], seconds: float) -> bool:
    """Wait until `what()` holds; returns whether it does."""
    deadline = time.monotonic() + seconds
    while not (true := what()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return true


def program(name: str, packages: Sequence[str]) -> str:
    """Return the path of a program; installs Debian's packages that have it if that is possible, else skips the test."""
    if shutil.which(name, path=SEARCHED) is None:
        if shutil.which("apt-get") is None or os.geteuid() != 0:
            pytest.skip(f"{name} is missing, and only root on Debian can install it: apt-get install {' '.join(packages)}")
        install = ["apt-get", "install", "-y", "--no-install-recommends", *packages]
        for command in (["apt-get", "update"], install):
            quiet = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
            try:
                done = subprocess.run(command, capture_output=True, text=True, check=False, env=quiet, timeout=300)
            except subprocess.TimeoutExpired:
                pytest.skip(f"{' '.join(command)} did not end in five minutes")
            if done.returncode:
                pytest.skip(f"{' '.join(command)} failed: {(done.stderr.strip() or done.stdout.strip()).splitlines()[-1]}")
    return str(shutil.which(name, path=SEARCHED))


def free_ports(count: int) -> list[int]:
    """Return ports of loopback that nobody listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [listener.getsockname()[1] for listener in sockets]
    for listener in sockets:
        listener.close()
    return ports


def end(process: subprocess.Popen[str]) -> None:
    """Kill a process and its children, and wait for them."""
    if process.poll() is None:
        family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
        for member in family:
            member.kill()
        psutil.wait_procs(family, timeout=10)
    process.communicate()


class DaskProcesses:
    """A scheduler at a fixed address and any number of workers; all end with the `with` block."""

    def __init__(self) -> None:
        (port,) = free_ports(1)
        self.address = f"tcp://127.0.0.1:{port}"
        self.running: list[subprocess.Popen[str]] = []

    def __enter__(self) -> "DaskProcesses":
        self.scheduler()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for process in self.running:
            end(process)

    def scheduler(self) -> subprocess.Popen[str]:
        """Start the scheduler, for the first time or again, and wait until it listens."""
        port = self.address.rpartition(":")[2]
        process = self._start("scheduler", "--host", "127.0.0.1", "--port", port)
        assert waited(lambda: _listens(int(port)), 60)
        return process

    def worker(
        self, *options: str, folder: Path = HERE, path: Path | None = None, prefix: Sequence[str] = ()
    ) -> subprocess.Popen[str]:
        """Start a worker of one thread in `folder`; `path` precedes all on PYTHONPATH, `prefix` the command."""
        words = ("worker", self.address, "--nthreads", "1", "--host", "127.0.0.1", "--death-timeout", "60", *options)
        return self._start(*words, folder=folder, path=path, prefix=prefix)

    def _start(
        self, name: str, *words: str, folder: Path = HERE, path: Path | None = None, prefix: Sequence[str] = ()
    ) -> subprocess.Popen[str]:
        command = [*prefix, sys.executable, "-m", f"distributed.cli.dask_{name}", *words, "--no-dashboard"]
        folders = [str(path or ""), str(HERE), os.environ.get("PYTHONPATH", "")]  # tasks are functions of the tests
        search = os.pathsep.join(filter(None, folders))
        process = subprocess.Popen(
            command, cwd=folder, env=os.environ | {"PYTHONPATH": search}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            text=True,
        )  # fmt: skip
        self.running.append(process)
        return process


def _listens(port: int) -> bool:
    with socket.socket() as free:
        return free.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def started(command: list[str], folder: Path, group: bool = False) -> Iterator[subprocess.Popen[str]]:
    """Run a command; whatever happens, it and its children are gone at the end. `group`: in a process group of its own."""
    process = subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0 if group else None
    )
    try:
        yield process
    finally:
        end(process)
