"""What strategies are chosen and priced by: the limits of a worker, the speeds of a machine, the cost of a fit."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from posenet_store.heads.sizes import count_moment_bytes
from posenet_store.specs import GRID

if TYPE_CHECKING:  # a plan needs the limits, and neither torch nor what trains
    from posenet_store.sweep.grouping import FittedHeads
    from posenet_store.sweep.moment_cache import MomentCache
    from posenet_store.sweep.training_inputs import TrainingInputs


@dataclass(frozen=True)
class Limits:
    """What a pass may use: `memory` in bytes beyond the process's own, and `unknowns` of a head that is solved exactly.

    The driver decides them once and they travel with the pass, so that a plan and all its workers choose alike.
    """

    memory: int
    unknowns: int = 6_000

    def holds_moments(self, rows: int, channels: int, kernel: int) -> bool:
        """Return whether the second moments of each of that many images can be held."""
        return count_moment_bytes(rows, channels, kernel) <= self.memory

    def solves(self, channels: int, kernel: int) -> bool:
        """Return whether a head has few enough unknowns to be solved exactly."""
        return channels * kernel**2 <= self.unknowns

    def holds_inputs(self, rows: int, channels: int) -> bool:
        """Return whether the float32 inputs of all rows can be held: they are joined from blocks, so twice for a moment."""
        return 2 * rows * channels * GRID**2 * 4 <= self.memory


@dataclass(frozen=True)
class Speeds:
    """A machine's speeds.

    `read` is bytes decoded a second; `multiply` and `square` float64 operations a second of products and of sums of second
    moments (whose symmetric half is not computed, but counted); `unfold` bytes of float64 neighbourhoods a second that a
    convolution makes, multiplies and takes back; `step` and `score` seconds of a training step and of a scored map.
    """

    read: float
    multiply: float
    square: float
    unfold: float
    step: float
    score: float


@dataclass(frozen=True)
class FitCost:
    """Of a fit: `scans` of the training rows (at most, where heads are iterated), bytes of `memory`, `seconds`."""

    scans: int
    memory: int
    seconds: float


class Strategy(Protocol):
    """A way to fit heads of one pass, with its cost."""

    @property
    def name(self) -> str:
        """What a plan calls it."""
        ...

    def cost(self, rows: int, speeds: Speeds) -> FitCost:
        """Return what it costs to fit the heads on that many training rows."""
        ...

    def fit(self, inputs: "TrainingInputs", cache: "MomentCache") -> "Sequence[FittedHeads]":
        """Fit the heads."""
        ...


def unfolded_bytes(channels: int, kernel: int, positions: int) -> int:
    """Return the float64 bytes an image that a convolution reads: neighbourhoods, or many channels themselves."""
    from posenet_store.heads.convolution import WIDE_CHANNELS

    return channels * (GRID**2 if channels >= WIDE_CHANNELS or kernel == 1 else kernel**2 * positions) * 8
