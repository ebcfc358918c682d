"""Cells: one head to train and score, with everything that decides its numbers; and the protocols that train heads."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posenet_store.errors import UsageError
from posenet_store.files import canonical_json, sha256
from posenet_store.specs import GRID
from posenet_store.targets import target_map

HELD_OUT = "held-out"
"""The test column of a training store's own held-out rows."""


@dataclass(frozen=True)
class Report:
    """The report's recipe (Section 2.4): Adam on MSE, linear head, Xavier uniform, target at the output's own size.

    The batch order is drawn from `order_seed`, the same for all heads; a cell's own seed draws its initial weights.
    With `min_steps`, epochs are added until that many steps are taken: the report's 15 epochs over 5,019 images are
    18,825 steps, and a smaller image set deserves as many.
    """

    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    epochs: int = 15
    batch_size: int = 4
    min_steps: int = 0
    order_seed: int = 0
    name: str = "report"

    def epochs_over(self, images: int) -> int:
        """Return the epochs to train on that many images.

        >>> Report().epochs_over(480), Report(min_steps=18_825).epochs_over(480)
        (15, 157)
        """
        steps = -(-images // self.batch_size)
        return max(self.epochs, -(-self.min_steps // steps))


@dataclass(frozen=True)
class Ridge:
    """Exact least squares: the penalty is chosen on the last `validation` of the training rows, then refitted on all.

    `lambdas` are relative: they are added to the correlation matrix of the standardised features.
    """

    lambdas: tuple[float, ...] = (1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
    validation: float = 0.15
    name: str = "ridge"


Protocol = Report | Ridge
PROTOCOLS: dict[str, type[Report] | type[Ridge]] = {"report": Report, "ridge": Ridge}


@cache
def _settings(protocol: Protocol) -> dict[str, Any]:
    """A hundred thousand cells share a few protocols."""
    return asdict(protocol)


@dataclass(frozen=True)
class Cell:
    """One head: `store` and `tests` are fingerprints; rows [0, train_rows) of the store train, the rest is held out."""

    store: str
    tests: tuple[str, ...]
    train_rows: int
    input: str
    target: str
    value_range: tuple[float, float]
    normalise: bool
    kernel: int
    padding: int
    protocol: Protocol
    seed: int

    @property
    def id(self) -> str:
        """16 hexadecimal digits over all fields: a finished cell is found again by it."""
        return sha256(canonical_json(vars(self) | {"protocol": _settings(self.protocol)}))[:16]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON values."""
        return asdict(self)


def output_size(kernel: int, padding: int) -> int:
    """Return the side of the map that a head paints on the 28x28 grid; raises UsageError if nothing is left.

    >>> output_size(3, 0), output_size(7, 3)
    (26, 28)
    """
    size = GRID + 2 * padding - (kernel - 1)
    if kernel < 1 or padding < 0 or size < 2:
        raise UsageError(f"a kernel of {kernel} with padding {padding} leaves a {size}x{size} map of 28x28; 2x2 is the least")
    return size


def target_of(cell: Mapping[str, Any]) -> NDArray[np.float64]:
    """Return the map [h, w] that a cell's head must paint; `cell` holds its fields by name, as `to_dict` and records do.

    >>> target_of({"target": "H", "kernel": 3, "padding": 1, "value_range": [0, 1], "normalise": False}).shape
    (28, 28)
    """
    low, high = cell["value_range"]
    return target_map(cell["target"], output_size(cell["kernel"], cell["padding"]), (low, high), cell["normalise"])
