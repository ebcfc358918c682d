"""What a build spends its time on: seconds of each stage, what the network waits for, and which stage binds."""

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import Any

from posenet_store.threads import count_cpus

STAGES = ("read", "decode", "forward", "copy", "encode", "write")
WAITS = ("images", "buffers")
"""What the network stands still for: decoded images, or a block's buffer that is still being encoded."""


def get_peak_memory() -> int:
    """Return the most bytes that this process has held; getrusage would, on Linux, count its parent's before it began."""
    try:
        return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024
    except (OSError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def reset_peak_memory() -> None:
    """Let `peak_memory` begin again at what is held now, where the system can."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


class StageTimer:
    """Seconds in which each stage was busy, added up from any thread.

    Stages run at once, so their shares of the time that passed may add up to more than one; a stage that is busy nearly
    all the time is the one that binds. A stage of several workers counts the mean of them.

    >>> clock = StageTimer()
    >>> clock.add("forward", 2.0); clock.add("decode", 3.0)
    >>> clock.find_bottleneck()
    'decode'
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._seconds = dict.fromkeys((*STAGES, *WAITS), 0.0)
        self._began, self._processor = time.perf_counter(), time.process_time()

    def add(self, name: str, seconds: float) -> None:
        """Count `seconds` of a stage, or of waiting."""
        with self._lock:
            self._seconds[name] += seconds

    @contextmanager
    def measure(self, name: str, workers: int = 1) -> Iterator[None]:
        """Count the time inside as that of one of the stage's `workers`."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, (time.perf_counter() - began) / workers)

    def seconds(self) -> dict[str, float]:
        """Return the seconds so far, by stage and by what was waited for."""
        with self._lock:
            return dict(self._seconds)

    def find_bottleneck(self) -> str:
        """Return the busiest stage; read and decode are one, as the same workers do both."""
        seconds = self.seconds()
        decoders = {"read": seconds["read"] + seconds["decode"], "decode": seconds["read"] + seconds["decode"]}
        # of two that are the same workers, the longer one
        return max(STAGES, key=lambda stage: (decoders.get(stage, seconds[stage]), seconds[stage]))

    def describe_shares(self) -> str:
        """Return the stages' shares of the time so far, the busiest first, those below half a percent left out."""
        passed = max(time.perf_counter() - self._began, 1e-9)
        shares = {stage: self.seconds()[stage] / passed for stage in STAGES}
        named = sorted(shares, key=lambda stage: -shares[stage])
        return ", ".join(f"{stage} {100 * shares[stage]:.0f} %" for stage in named if shares[stage] > 0.005)

    def summarize(self, images: int) -> dict[str, Any]:
        """Return what a store keeps of its build: rates, seconds of each stage and of waiting, processors, memory in bytes."""
        passed, seconds = max(time.perf_counter() - self._began, 1e-9), self.seconds()
        return {
            "extracted": images,
            "seconds": round(passed, 3),
            "images_per_s": round(images / passed, 2),
            "stages": {stage: round(seconds[stage], 3) for stage in STAGES},
            "waited_for": {wait: round(seconds[wait], 3) for wait in WAITS},
            "bound_by": self.find_bottleneck(),
            "processors": round((time.process_time() - self._processor) / passed / count_cpus(), 3),
            "peak_memory": get_peak_memory(),
        }
