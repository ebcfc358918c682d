"""SPC and MAE within rings of positions at one distance to the border: how far inwards does position reach?

Within a ring SPC compares the ranks of that ring's positions only. A target that is constant on a ring has no order there, and
SPC is undefined, as it is for a constant prediction.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from posenet_store.errors import UsageError
from posenet_store.heads.metrics import Scores, score_maps

LEAST_POSITIONS = 4
"""A ring of fewer has no rank order to speak of."""


def cut_rings(side: int, rings: int) -> list[NDArray[np.int64]]:
    """Return the flat positions of each ring of a map, edge to centre; rings have one width, which is rounded to positions.

    Raises UsageError if a ring would have fewer than 4 positions.

    >>> [len(ring) for ring in cut_rings(28, 7)]
    [208, 176, 144, 112, 80, 48, 16]
    """
    steps = np.minimum(np.arange(side), np.arange(side)[::-1])
    distance = np.minimum.outer(steps, steps).ravel() + 0.5
    number = np.minimum((distance / (side / 2) * rings).astype(np.int64), rings - 1)
    cut = [np.flatnonzero(number == ring) for ring in range(rings)]
    if min(map(len, cut)) < LEAST_POSITIONS:
        raise UsageError(f"{rings} rings do not fit into a map of {side}x{side}; give at most {side // 2}")
    return cut


def score_rings(predictions: NDArray[np.float64], target: NDArray[np.float64], rings: Sequence[NDArray[np.int64]]) -> Scores:
    """Score predictions [n, h, w] against a target [h, w] within each ring; `spc` and `mae` are [n, rings].

    >>> ramp = np.tile(np.arange(4.0), (4, 1))
    >>> score_rings(np.stack([ramp, ramp[:, ::-1]]), ramp, cut_rings(4, 2)).spc.round(6).tolist()
    [[1.0, 1.0], [-1.0, -1.0]]
    """
    maps, goal = predictions.reshape(len(predictions), -1), target.ravel()
    scores = [score_maps(maps[:, ring], goal[ring]) for ring in rings]
    return Scores(np.stack([score.spc for score in scores], axis=1), np.stack([score.mae for score in scores], axis=1))
