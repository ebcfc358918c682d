"""SPC (Spearman correlation) and MAE of predicted maps against one target map, per image.

The paper's Section 3.1. A constant prediction has no rank order, so its SPC is *undefined*: it is counted and
left out of the mean, never NaN in it, and never the rank of rounding noise.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from posenet_store.errors import UsageError

CONSTANT_TOLERANCE = 1e-5
"""A map is constant if its range is within 1e-5 of the larger of the target's range and the map's magnitude.

Upsampling or summing 135 products in float32 leaves noise of about 1e-7 of the magnitude; the least step that an
8-bit target can show is 4e-3 of its range. 1e-5 lies a factor of 100 from both.
"""


@dataclass(frozen=True)
class Scores:
    """Per-image scores, all float64 [n]; `spc` is NaN where it is undefined, the others where a map is not finite.

    `explained` is the share of the target's variance over positions that the map explains: 1 - mean squared error / variance,
    0 for the target's mean and below it for worse maps. Its mean over images is that of their pooled squared errors.
    """

    spc: NDArray[np.float64]
    mae: NDArray[np.float64]
    explained: NDArray[np.float64]

    def summary(self) -> dict[str, float | int | None]:
        """Return the means over defined images, with counts; a mean over none is None.

        >>> Scores(np.array([0.5, np.nan]), np.array([0.1, 0.3]), np.array([0.2, 0.0])).summary()
        {'spc': 0.5, 'mae': 0.2, 'images': 2, 'undefined': 1, 'nonfinite': 0}
        """
        defined, finite = np.isfinite(self.spc), np.isfinite(self.mae)
        return {
            "spc": float(self.spc[defined].mean()) if defined.any() else None,
            "mae": float(self.mae[finite].mean()) if finite.any() else None,
            "images": len(self.spc),
            "undefined": int((~defined).sum()),
            "nonfinite": int((~finite).sum()),
        }


@dataclass(frozen=True)
class MapSums:
    """Sums over images of the maps that a head predicts, each float64 [h, w].

    `maps` and `errors` (absolute differences from the target) are over images whose MAE is finite, `ranks` (centred, of
    unit length) over those whose SPC is defined.
    """

    maps: NDArray[np.float64]
    errors: NDArray[np.float64]
    ranks: NDArray[np.float64]

    def __add__(self, other: "MapSums") -> "MapSums":
        return MapSums(self.maps + other.maps, self.errors + other.errors, self.ranks + other.ranks)

    def means(self, scores: Scores) -> dict[str, NDArray[np.float32]]:
        """Return `mean`, `error` (the paper's Eq. 4, for a target) and `ranks` as float32 [h, w]; nothing without an image.

        The mean SPC with any permutation of the target is the dot product of `ranks` and that permutation's standardised
        ranks, so tests of significance do not need the images.
        """
        finite, defined = int(np.isfinite(scores.mae).sum()), int(np.isfinite(scores.spc).sum())
        sums = {"mean": (self.maps, finite), "error": (self.errors, finite), "ranks": (self.ranks, defined)}
        with np.errstate(over="ignore"):  # a map beyond float32 is of a head that diverged
            return {name: (total / count).astype(np.float32) for name, (total, count) in sums.items() if count}


def average_ranks(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the ranks from 1 of the numbers of each row [n, p]; ties share their average rank.

    Equal to `scipy.stats.rankdata(rows, axis=1)`, without the second that importing scipy.stats takes.

    >>> average_ranks(np.array([[0.1, 0.3, 0.1, 0.2]])).tolist()
    [[1.5, 4.0, 1.5, 3.0]]
    """
    count = rows.shape[1]
    order = np.argsort(rows, axis=1)
    ordered = np.take_along_axis(rows, order, axis=1)
    positions = np.arange(count)
    starts, ends = np.ones(rows.shape, bool), np.ones(rows.shape, bool)
    starts[:, 1:] = ends[:, :-1] = ordered[:, 1:] != ordered[:, :-1]
    first = np.maximum.accumulate(np.where(starts, positions, 0), axis=1)
    last = np.minimum.accumulate(np.where(ends, positions, count)[:, ::-1], axis=1)[:, ::-1]
    ranks = np.empty(rows.shape)
    np.put_along_axis(ranks, order, (first + last) / 2 + 1, axis=1)
    return ranks


def rank_maps(maps: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the average ranks of each row [n, p], centred and scaled to unit length; a constant row is all zero.

    >>> rank_maps(np.array([[1.0, 2.0, 2.0, 4.0]])).round(3).tolist()
    [[-0.707, 0.0, 0.0, 0.707]]
    """
    ranks = average_ranks(maps)
    ranks -= ranks.mean(axis=1, keepdims=True)
    norm = np.sqrt((ranks**2).sum(axis=1, keepdims=True))
    return np.asarray(ranks / np.where(norm > 0, norm, 1))


def score_maps(predictions: NDArray[np.float64], target: NDArray[np.float64]) -> Scores:
    """Score predictions [n, h, w] against one target [h, w]; ties share their average rank.

    Equal to `scipy.stats.spearmanr` and `mean(abs(difference))` of each image, with the target ranked once.

    >>> ramp = np.arange(4.0).reshape(2, 2)
    >>> score_maps(np.stack([ramp * 2, -ramp, ramp * 0 + 7]), ramp).spc.round(6).tolist()
    [1.0, -1.0, nan]
    """
    if np.shape(predictions)[1:] != np.shape(target):
        raise UsageError(
            f"predictions {np.shape(predictions)} do not fit a target {np.shape(target)}; give [n, h, w] and a target [h, w]"
        )
    return score_with_map_sums(predictions, target)[0]


def score_with_map_sums(predictions: NDArray[np.float64], target: NDArray[np.float64]) -> tuple[Scores, MapSums]:
    """Return `score_maps` of predictions [n, h, w], and the sums over them of maps, errors and ranks."""
    flat = np.asarray(predictions, dtype=np.float64).reshape(len(predictions), -1)
    goal = np.asarray(target, dtype=np.float64).reshape(1, -1)
    finite = np.asarray(np.isfinite(flat).all(axis=1))
    tame = np.where(finite[:, None], flat, 0)
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        errors = np.abs(tame - goal)
        mae = np.where(finite, errors.mean(axis=1), np.nan)
        explained = 1 - np.square(errors).mean(axis=1) / goal.var()
        span = np.ptp(tame, axis=1)
        counted = np.isfinite(mae)
        sums = [tame[counted].sum(axis=0), errors[counted].sum(axis=0)]
    magnitude = np.maximum(np.abs(tame).max(axis=1, initial=0), np.ptp(goal))
    defined = np.asarray(finite & (span > CONSTANT_TOLERANCE * magnitude) & (np.ptp(goal) > 0))
    spc, ranks = np.full(len(flat), np.nan), rank_maps(flat[defined])
    spc[defined] = ranks @ rank_maps(goal)[0]
    explained = np.where(counted & np.isfinite(explained), explained, np.nan)
    return Scores(spc, mae, explained), MapSums(*(map_sum.reshape(target.shape) for map_sum in (*sums, ranks.sum(axis=0))))
