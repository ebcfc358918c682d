"""How long will work take on this machine? A few units of it are run, and the rest is extrapolated."""

import time
from collections.abc import Callable, Hashable

import torch
from torch import Tensor

from posenet_store.specs import GRID

ENOUGH, LONG = 0.01, 0.1
"""Seconds that the units beyond the first must take (shorter times are mostly noise), and that need no second look."""
AGREEMENT = 1.25
"""Two times of a unit at most this factor apart are the work's; on a busy machine a pause of 20 ms looks like slow work."""


class Stopwatch:
    """Times each kind of work once, on the real code at its real shapes, and remembers it."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._times: dict[Hashable, tuple[float, float]] = {}

    def extrapolate(self, kind: Hashable, work: Callable[[int], object], units: int) -> float:
        """Return the seconds that `work(units)` is expected to take: those of the first unit, and of each one more.

        `work` is run with 1, 2, 4, ... units until these take long enough to be told from noise; once in the life of the
        stopwatch for each `kind`.
        """
        if units <= 0:
            return 0.0
        if kind not in self._times:
            self._times[kind] = self._measure(work, units)
        first, more = self._times[kind]
        return first + (units - 1) * more

    def _measure(self, work: Callable[[int], object], most: int) -> tuple[float, float]:
        """Return the seconds of the first unit, and of each one more: the least, when two agree or the last time was long."""
        work(1)  # loads and caches what only the first call pays for
        first, units, longer = self._time(work, 1), 1, 0.0
        slopes: list[float] = []
        while units < most and longer < LONG and not agree(slopes):
            units = min(2 * units, most)
            longer = self._time(work, units) - first
            if longer >= ENOUGH or units == most:
                slopes.append(max(0.0, longer) / (units - 1))
        return first, min(slopes, default=0.0)

    def _time(self, work: Callable[[int], object], units: int) -> float:
        """Return the smaller of two times: other programs only make both longer."""
        times = []
        for _ in range(2):
            began = self._clock()
            work(units)
            times.append(self._clock() - began)
        return min(times)


def agree(slopes: list[float]) -> bool:
    """Return whether the last two times of a unit confirm each other.

    >>> agree([0.02]), agree([0.02, 0.01]), agree([0.02, 0.01, 0.011])
    (False, False, True)
    """
    return len(slopes) > 1 and max(slopes[-2:]) <= AGREEMENT * min(slopes[-2:])


def repeat_random_image(images: int, channels: int, side: int = GRID) -> Tensor:
    """Return that many times one random image, float32 [images, channels, side, side], in the memory of one."""
    return torch.rand(1, channels, side, side).expand(images, -1, -1, -1)
