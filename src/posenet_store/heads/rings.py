"""SPC and MAE within rings of positions at one distance to the border: how far inwards does position reach?

Within a ring SPC compares the ranks of that ring's positions only. A target that is constant on a ring has no order there, and
SPC is undefined, as it is for a constant prediction.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from posenet_store.errors import UsageError
from posenet_store.heads.metrics import Scores, score_maps

LEAST_POSITIONS = 4
"""A ring of fewer has no rank order to speak of."""


@dataclass(frozen=True)
class RingWidths:
    """How wide rings are: so that `count` of one width reach the centre, or `width` pixels of the network's image.

    Rings of so many pixels are at the same distances in images of every size; the innermost has what is left, from half to
    one and a half of a width.
    """

    count: int = 7
    width: int | None = None

    def find_edges(self, pixels: int) -> NDArray[np.float64]:
        """Return the distances to the border between which rings lie, in pixels of an image of that side, [rings + 1].

        >>> RingWidths(7).find_edges(224).tolist()
        [0.0, 16.0, 32.0, 48.0, 64.0, 80.0, 96.0, 112.0]
        >>> RingWidths(width=32).find_edges(224).tolist()
        [0.0, 32.0, 64.0, 96.0, 112.0]
        """
        if self.width is None:
            return np.linspace(0, pixels / 2, self.count + 1)
        count = max(int(pixels / 2 / self.width + 0.5), 1)
        return np.append(self.width * np.arange(count), pixels / 2)


def cut_rings(side: int, edges: NDArray[np.float64]) -> list[NDArray[np.int64]]:
    """Return the flat positions of each ring of a map, edge to centre, from the rings' `edges` [rings + 1], 0 to the centre.

    A position belongs to the ring in which its middle is. Raises UsageError if a ring would have fewer than 4 positions.

    >>> [len(ring) for ring in cut_rings(28, RingWidths(7).find_edges(224))]
    [208, 176, 144, 112, 80, 48, 16]
    """
    steps = np.minimum(np.arange(side), np.arange(side)[::-1])
    distance = (np.minimum.outer(steps, steps).ravel() + 0.5) * edges[-1] / (side / 2)
    number = np.minimum(np.searchsorted(edges, distance, side="right"), len(edges) - 1) - 1
    cut = [np.flatnonzero(number == ring) for ring in range(len(edges) - 1)]
    if min(map(len, cut)) < LEAST_POSITIONS:
        raise UsageError(
            f"{len(cut)} rings do not fit into a map of {side}x{side} positions; give at most {side // 2}, "
            f"or a width of at least {2 * edges[-1] / side:.0f} pixels, which is one position"
        )
    return cut


def score_rings(predictions: NDArray[np.float64], target: NDArray[np.float64], rings: Sequence[NDArray[np.int64]]) -> Scores:
    """Score predictions [n, h, w] against a target [h, w] within each ring; each score is [n, rings].

    >>> ramp = np.tile(np.arange(4.0), (4, 1))
    >>> score_rings(np.stack([ramp, ramp[:, ::-1]]), ramp, cut_rings(4, np.array([0, 1, 2]))).spc.round(6).tolist()
    [[1.0, 1.0], [-1.0, -1.0]]
    """
    maps, goal = predictions.reshape(len(predictions), -1), target.ravel()
    scores = [score_maps(maps[:, ring], goal[ring]) for ring in rings]
    return Scores(*(np.stack(of_rings, axis=1) for of_rings in zip(*(vars(score).values() for score in scores), strict=True)))
