"""SPC (Spearman correlation) and MAE of predicted maps against one target map, per image.

The paper's Section 3.1. A constant prediction has no rank order, so its SPC is *undefined*: it is counted and
left out of the mean, never NaN in it, and never the rank of rounding noise.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

CONSTANT_TOLERANCE = 1e-5
"""A map is constant if its range is within 1e-5 of the larger of the target's range and the map's magnitude.

Upsampling or summing 135 products in float32 leaves noise of about 1e-7 of the magnitude; the least step that an
8-bit target can show is 4e-3 of its range. 1e-5 lies a factor of 100 from both.
"""


@dataclass(frozen=True)
class Scores:
    """Per-image scores, both float64 [n]; `spc` is NaN where it is undefined, `mae` where a map is not finite."""

    spc: NDArray[np.float64]
    mae: NDArray[np.float64]

    def summary(self) -> dict[str, float | int | None]:
        """Return the means over defined images, with counts; a mean over none is None.

        >>> Scores(np.array([0.5, np.nan]), np.array([0.1, 0.3])).summary()
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


def _standard_ranks(maps: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average ranks of each row, centred and scaled to unit length."""
    ranks: NDArray[np.float64] = rankdata(maps, axis=1)
    ranks -= ranks.mean(axis=1, keepdims=True)
    norm = np.sqrt((ranks**2).sum(axis=1, keepdims=True))
    return np.asarray(ranks / np.where(norm > 0, norm, 1))


def score(predictions: NDArray[np.float64], target: NDArray[np.float64]) -> Scores:
    """Score predictions [n, h, w] against one target [h, w]; ties share their average rank.

    Equal to `scipy.stats.spearmanr` and `mean(abs(difference))` of each image, with the target ranked once.

    >>> ramp = np.arange(4.0).reshape(2, 2)
    >>> score(np.stack([ramp * 2, -ramp, ramp * 0 + 7]), ramp).spc.round(6).tolist()
    [1.0, -1.0, nan]
    """
    flat = np.asarray(predictions, dtype=np.float64).reshape(len(predictions), -1)
    goal = np.asarray(target, dtype=np.float64).reshape(1, -1)
    finite = np.asarray(np.isfinite(flat).all(axis=1))
    with np.errstate(over="ignore"):
        mae = np.where(finite, np.abs(np.where(finite[:, None], flat, 0) - goal).mean(axis=1), np.nan)
        span = np.ptp(np.where(finite[:, None], flat, 0), axis=1)
    magnitude = np.maximum(np.abs(np.where(finite[:, None], flat, 0)).max(axis=1, initial=0), np.ptp(goal))
    defined = np.asarray(finite & (span > CONSTANT_TOLERANCE * magnitude) & (np.ptp(goal) > 0))
    spc = np.full(len(flat), np.nan)
    if defined.any():
        spc[defined] = _standard_ranks(flat[defined]) @ _standard_ranks(goal)[0]
    return Scores(spc, mae)
