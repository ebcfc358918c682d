"""Measure a build: seconds of each stage, time that the network waits, the limiting stage, and peak memory."""

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import Any

from posenet_store.threads import count_cpus

STAGES = ("read", "decode", "forward", "copy", "encode", "write", "moments")
WAITS = ("images", "buffers")
"""What the network waits for: decoded images, or a block's buffer that is still being encoded."""


def get_peak_memory() -> int:
    """Return the peak memory of this process in bytes; on Linux getrusage would include its parent's at the fork."""
    try:
        return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024
    except (OSError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def reset_peak_memory() -> None:
    """Reset `get_peak_memory` to the present use, where the system supports it."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


class StageTimer:
    """Seconds in which each stage was busy; any thread may add to them.

    Stages run at the same time, so their shares of the elapsed time may add up to more than 1; a stage that is busy nearly
    all the time limits the speed. A stage of several workers counts their mean.

    >>> clock = StageTimer()
    >>> clock.add("forward", 2.0); clock.add("decode", 3.0)
    >>> clock.find_bottleneck()
    'decode'
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._seconds = dict.fromkeys((*STAGES, *WAITS), 0.0)
        self._started, self._cpu_started = time.perf_counter(), time.process_time()

    @property
    def elapsed(self) -> float:
        """Seconds since the timer was made."""
        return max(time.perf_counter() - self._started, 1e-9)

    def add(self, name: str, seconds: float) -> None:
        """Add seconds of a stage or of waiting."""
        with self._lock:
            self._seconds[name] += seconds

    @contextmanager
    def measure(self, name: str, workers: int = 1) -> Iterator[None]:
        """Add the time of the context as that of one of the stage's `workers`."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, (time.perf_counter() - started) / workers)

    def get_seconds(self) -> dict[str, float]:
        """Return the seconds so far of each stage and of each kind of waiting."""
        with self._lock:
            return dict(self._seconds)

    def find_bottleneck(self) -> str:
        """Return the busiest stage; the same workers read and decode, so those two count together."""
        seconds = self.get_seconds()
        workers = seconds | dict.fromkeys(("read", "decode"), seconds["read"] + seconds["decode"])
        return max(STAGES, key=lambda stage: (workers[stage], seconds[stage]))

    def summarize(self, images: int) -> dict[str, Any]:
        """Return the record of a build: rates, seconds of each stage and of waiting, the share of CPUs, memory in bytes."""
        elapsed, seconds = self.elapsed, self.get_seconds()
        return {
            "extracted": images,
            "seconds": round(elapsed, 3),
            "images_per_s": round(images / elapsed, 2),
            "stages": {stage: round(seconds[stage], 3) for stage in STAGES},
            "waited_for": {wait: round(seconds[wait], 3) for wait in WAITS},
            "bound_by": self.find_bottleneck(),
            "processors": round((time.process_time() - self._cpu_started) / elapsed / count_cpus(), 3),
            "peak_memory": get_peak_memory(),
        }
