"""What strategies are chosen by: the limits of a worker. What each answers: its cost, and the heads that it fits."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from posenet_store.heads.sizes import count_moment_bytes
from posenet_store.specs import GRID

if TYPE_CHECKING:  # a plan needs the limits, and neither torch nor what trains
    from posenet_store.sweep.grouping import FittedHeads
    from posenet_store.sweep.moment_cache import MomentCache
    from posenet_store.sweep.spans import TrainingRows
    from posenet_store.sweep.stopwatch import Stopwatch
    from posenet_store.sweep.training_inputs import TrainingInputs


@dataclass(frozen=True)
class Limits:
    """What a pass may use: `memory` in bytes beyond the process's own, `unknowns` of a head that is solved exactly, a `device`.

    The device (a name of torch's) sums second moments and solves exact heads; None is the CPU, whose numbers never change.

    The driver decides them once and they travel with the pass, so that a plan and all its workers choose alike.
    """

    memory: int
    unknowns: int = 6_000
    device: str | None = None

    def holds_moments(self, rows: int, channels: int, kernel: int) -> bool:
        """Return whether the second moments of each of that many images can be held, and spare work.

        A step in Gram space multiplies D^2 numbers an image for D unknowns, the convolution 2 D P for P positions.
        """
        return channels * kernel**2 <= 2 * GRID**2 and count_moment_bytes(rows, channels, kernel) <= self.memory

    def solves(self, channels: int, kernel: int) -> bool:
        """Return whether a head has few enough unknowns to be solved exactly."""
        return channels * kernel**2 <= self.unknowns

    def holds_inputs(self, rows: int, channels: int) -> bool:
        """Return whether the float32 inputs of all rows can be held: they are joined from blocks, so twice for a moment."""
        return 2 * rows * channels * GRID**2 * 4 <= self.memory


@dataclass(frozen=True)
class FitCost:
    """Of a fit: `rows` read, over all scans (at most, where heads are iterated), bytes of `memory`, `seconds`.

    Rows are read as inputs on the grid unless the fit `reads_taps` as they are stored.
    """

    rows: int
    memory: int
    seconds: float
    reads_taps: bool = False


class Strategy(Protocol):
    """A way to fit heads of one pass, with its cost."""

    @property
    def name(self) -> str:
        """What a plan calls it."""
        ...

    def cost(self, training: "TrainingRows", cache: "MomentCache", stopwatch: "Stopwatch") -> FitCost:
        """Return what it costs to fit the heads, with the moments that are kept; a few units of the work are timed."""
        ...

    def fit(self, inputs: "TrainingInputs", cache: "MomentCache") -> "Sequence[FittedHeads]":
        """Fit the heads."""
        ...
