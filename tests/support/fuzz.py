"""Send hostile inputs to whatever reads what strangers send: nothing but this package's errors may come, and soon.

    python -m tests.support.fuzz [--seconds 60] [--seed 0] [--keep runs/fuzz] [--json]
    python -m tests.support.fuzz --seed 0 --only plans --input 1234     # one input again, with its traceback

Inputs are numbered; a seed, a target and a number make one input. A process imports everything once; its children try
inputs of one target for a few seconds each, with a limit of memory and of time, and what they open, connect to and start is
watched. A finding is a traceback, a child that died, an input that takes over 10 s of CPU, memory beyond the limit, or anything
done outside of the input's folder. Each is kept with its input in the folder --keep.
"""

import argparse
import faulthandler
import json
import mmap
import os
import random
import resource
import select
import shutil
import signal
import socket
import struct
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from posenet_store.errors import PosenetStoreError
from posenet_store.images import download
from posenet_store.store import access_remote
from posenet_store.threads import count_cpus, set_threads
from tests.support.fuzz_samples import write_samples
from tests.support.fuzz_targets import TARGETS, Target
from tests.support.fuzz_watch import Watch

SECONDS_EACH = 10.0
"""Of CPU for one input; longer is a hang."""
WAITING = 30.0
"""Seconds of the clock for one input, on a machine that does other things too; longer is a hang."""
STARTING = 30.0
"""Seconds more for what a child does before its first input."""
SLICE = 4.0
"""Seconds of a child."""
MEMORY = 1 << 30
"""Bytes that an input may take beyond what is imported."""
FILE_BYTES = 256 << 20
MEMORY_DISK = Path("/dev/shm")
KEPT = 3
"""Findings kept of each kind."""
CURRENT = struct.Struct("qdd")  # number of the input, when it was begun, and the CPU seconds until then


@dataclass
class Report:
    """What came of the inputs of a target."""

    inputs: int = 0
    accepted: int = 0
    peak: int = 0
    """Bytes that a child grew by at most."""
    findings: Counter[str] = field(default_factory=Counter)

    def add(self, other: "Report") -> None:
        """Add another report to this one."""
        self.inputs += other.inputs
        self.accepted += other.accepted
        self.peak = max(self.peak, other.peak)
        self.findings += other.findings


@dataclass(frozen=True)
class Place:
    """Where inputs come from and go to."""

    samples: Path
    root: Path
    keep: Path
    seed: int

    def draw(self, target: Target, name: str, number: int) -> bytes:
        """Return the input of a number."""
        return target.make(random.Random(f"{self.seed} {name} {number}"))

    def get_current(self, name: str) -> Path:
        """Return the file that holds the input that is being tried."""
        return self.root / f"{name}.current"

    def get_stacks(self, name: str) -> Path:
        """Return the file that holds what each thread of a child did when it was asked."""
        return self.root / f"{name}.stacks"

    def keep_input(self, name: str, number: int, data: bytes, text: str) -> None:
        """Keep an input and what came of it."""
        self.keep.mkdir(parents=True, exist_ok=True)
        path = self.keep / f"{name.replace(' ', '-')}-{self.seed}-{number}"
        path.with_suffix(".input").write_bytes(data)
        path.with_suffix(".txt").write_text(text, encoding="utf-8", errors="replace")


def refuse_names(host: str | bytes | None, port: Any, *args: Any, **options: Any) -> Any:
    """Resolve numbers only, so that no name server is asked."""
    if host not in ("127.0.0.1", b"127.0.0.1"):
        raise socket.gaierror(-2, "Name or service not known")
    return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", int(port or 0)))]


def hurry() -> None:
    """Leave out what only takes time: pauses, retries and flushes."""
    sys.dont_write_bytecode = True
    warnings.simplefilter("ignore")
    for module, name, value in (
        (time, "sleep", lambda seconds: None),
        (os, "fsync", lambda descriptor: None),
        (socket, "getaddrinfo", refuse_names),
        (download, "WAITS", (0.0,)),
        (download, "TIMEOUT", 2.0),
        (access_remote, "WAITS", (0.0,)),
        (access_remote, "RETRIES", access_remote.RETRIES | {"max_retries": 0}),
    ):
        setattr(module, name, value)


def limit_resources() -> None:
    """Limit the memory and files of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES, FILE_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)


def get_peak() -> int:
    """Return the largest resident memory of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def try_input(target: Target, data: bytes, folder: Path, watch: Watch) -> tuple[bool, str]:
    """Use an input; return whether it was accepted, and the text of a finding."""
    accepted, text = False, ""
    folder.mkdir()
    with watch.watching() as outside:
        try:
            target.use(data, folder)
            accepted = True
        except PosenetStoreError:
            pass
        except BaseException:
            text = traceback.format_exc()
    shutil.rmtree(folder, ignore_errors=True)
    return accepted, text or "\n".join(outside)


def work(place: Place, name: str, first: int, current: mmap.mmap, end: float) -> Report:
    """Try inputs from number `first` until `end`: the work of a child."""
    hurry()
    faulthandler.register(signal.SIGUSR1, place.get_stacks(name).open("w"))
    folder = Path(tempfile.mkdtemp(dir=place.root))
    outside = Path(shutil.copytree(place.samples / "outside", folder / "outside"))
    os.chdir(folder)
    target = TARGETS[name](place.samples)
    watch = Watch(folder / "input", place.samples, outside, target.network)
    limit_resources()
    report, base, number = Report(), get_peak(), first
    while (now := time.monotonic()) < end:
        CURRENT.pack_into(current, 0, number, now, time.process_time())
        data = place.draw(target, name, number)
        place.get_current(name).write_bytes(data)
        accepted, text = try_input(target, data, folder / "input", watch)
        report.add(Report(1, accepted))
        if text:
            kind = f"{name}: {summarize(text)}"
            report.findings[kind] += 1
            if report.findings[kind] <= KEPT:
                place.keep_input(name, number, data, text)
        number += 1
    report.peak = get_peak() - base
    shutil.rmtree(folder, ignore_errors=True)
    return report


def summarize(text: str) -> str:
    """Return what tells one kind of finding from another: the error, and the last line of this package that led to it."""
    lines = text.strip().splitlines()
    places = [line.strip() for line in lines if "posenet_store" in line and line.lstrip().startswith("File")]
    return f"{lines[-1][:150]}" + (f" ({places[-1].rpartition('/')[2]})" if places else "")


class Child:
    """A process that tries inputs of one target for a while."""

    def __init__(self, place: Place, name: str, first: int, seconds: float) -> None:
        self.name, self._place, self._first, self._hangs = name, place, first, False
        self._current = mmap.mmap(-1, CURRENT.size)
        CURRENT.pack_into(self._current, 0, first, time.monotonic() + STARTING, STARTING)
        self.pipe, writer = os.pipe()
        self._process = os.fork()
        if not self._process:
            code = 1
            try:
                report = work(place, name, first, self._current, time.monotonic() + seconds)
                os.write(writer, json.dumps(vars(report)).encode())
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        os.close(writer)

    def _takes_too_long(self) -> bool:
        """Return whether the input is a hang by now."""
        _, began, used = CURRENT.unpack_from(self._current)
        fields = Path(f"/proc/{self._process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        cpu = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        return bool(began) and (cpu - used > SECONDS_EACH or time.monotonic() - began > WAITING)  # 0 while it is written

    def check(self) -> None:
        """Kill the process if its input takes too long."""
        if self._takes_too_long():
            self._hangs = True
            os.kill(self._process, signal.SIGUSR1)
            time.sleep(0.5)  # until it has written its stacks
            os.kill(self._process, signal.SIGKILL)

    def finish(self) -> tuple[Report, int]:
        """Return the report of a process that has ended, and the number after its last input."""
        with os.fdopen(self.pipe, "rb") as pipe:
            data = pipe.read()
        status = os.waitstatus_to_exitcode(os.waitpid(self._process, 0)[1])
        number = CURRENT.unpack_from(self._current)[0]
        if data and not status:
            content = json.loads(data)
            return Report(**content | {"findings": Counter(content["findings"])}), number + 1
        kind = f"{self.name}: {'hang' if self._hangs else f'process ended with {status}'}"
        stacks = self._place.get_stacks(self.name).read_text(encoding="utf-8", errors="replace")
        self._place.keep_input(self.name, number, self._place.get_current(self.name).read_bytes(), f"{kind}\n{stacks}")
        return Report(number + 1 - self._first, findings=Counter([kind])), number + 1


def fuzz(place: Place, names: list[str], seconds: float, processes: int) -> dict[str, Report]:
    """Try inputs of all targets in turn for some seconds; return the reports by target."""
    reports, numbers = {name: Report() for name in names}, dict.fromkeys(names, 0)
    end, children, turn = time.monotonic() + seconds, list[Child](), 0
    slice_seconds = min(SLICE, seconds * processes / len(names))
    while children or time.monotonic() < end:
        busy = {child.name for child in children}
        while len(children) < processes and time.monotonic() < end and len(busy) < len(names):
            name = names[turn % len(names)]
            turn += 1
            if name not in busy:
                children.append(Child(place, name, numbers[name], slice_seconds))
                busy.add(name)
        ready = select.select([child.pipe for child in children], [], [], 0.1)[0]
        for child in [child for child in children if child.pipe in ready]:
            children.remove(child)
            report, numbers[child.name] = child.finish()
            reports[child.name].add(report)
        for child in children:
            child.check()
    return reports


def print_reports(reports: dict[str, Report], seed: int, seconds: float) -> None:
    """Print a line for each target and each kind of finding."""
    total = Report()
    for name, report in reports.items():
        total.add(report)
        print(f"{name:16} {report.inputs:9,} inputs {report.accepted:9,} accepted {report.peak / 2**20:7,.0f} MiB")
    for kind, count in total.findings.most_common():
        print(f"{count:6,} x {kind}")
    print(
        f"seed {seed}: {total.inputs:,} inputs in {seconds:,.0f} s, {total.accepted:,} accepted, {total.findings.total():,} "
        f"findings of {len(total.findings)} kinds, at most {total.peak / 2**20:,.0f} MiB"
    )


def main() -> int:
    """Fuzz, or try one input again; the exit code is 1 if there was a finding."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--keep", type=Path, default=Path("runs/fuzz"), help="the folder of the inputs of findings")
    parser.add_argument("--only", choices=TARGETS, help="one target")
    parser.add_argument("--input", type=int, help="one input of it, by its number")
    parser.add_argument("--processes", type=int, default=count_cpus())
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    set_threads(1)  # the children are forked, and would wait for ever for threads that are not
    print(f"seed {options.seed}", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(dir=MEMORY_DISK if MEMORY_DISK.is_dir() else None) as folder:
        place = Place(Path(folder) / "samples", Path(folder), options.keep.absolute(), options.seed)
        place.samples.mkdir()
        write_samples(place.samples)
        names = [options.only] if options.only else list(TARGETS)
        if options.input is not None:
            hurry()
            target = TARGETS[names[0]](place.samples)
            (Path(folder) / "input").mkdir()
            target.use(place.draw(target, names[0], options.input), Path(folder) / "input")
            return 0
        began = time.monotonic()
        reports = fuzz(place, names, options.seconds, options.processes)
    if options.json:
        print(json.dumps({name: vars(report) for name, report in reports.items()}))
    else:
        print_reports(reports, options.seed, time.monotonic() - began)
    return int(any(report.findings for report in reports.values()))


if __name__ == "__main__":
    sys.exit(main())
