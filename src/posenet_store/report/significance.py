"""How sure a mean score is: t intervals and tests over images and seeds, Edgington's randomisation test, Holm's correction.

Pure arithmetic on what a run keeps of a cell. All draws are seeded: a rerun gives the same numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, log, sqrt

import numpy as np
from numpy.typing import NDArray

from posenet_store.heads.metrics import rank_maps
from posenet_store.specs import GRID

LEVEL = 0.05
"""The risk of error of all tests and, as 1 - LEVEL, the confidence of all intervals."""
PERMUTATIONS = 9_999
SAME = 1e-6
"""Two mean SPC are equal up to this: runs keep the maps of ranks in float32."""
LEAST_P = 1e-300
"""A smaller p of several seeds is given as this."""

_CHUNK = 2**22  # numbers of permuted targets in memory at a time: 32 MiB


@dataclass(frozen=True)
class MeanEstimate:
    """A mean and the parts of its variance, each (variance of the mean, degrees of freedom): of images and of seeds."""

    mean: float
    parts: tuple[tuple[float, int], ...]

    def find_half_width(self, risk: float) -> float:
        """Return half the width of the interval that misses with this risk: the root of the sum of squared t intervals.

        With one part this is Student's t interval. With two it is Graybill and Wang's (JASA 75, 1980), which covers at least
        as often as it says where scores are normal, also where two or three seeds differ by more than the images do.
        """
        from scipy.special import stdtrit

        return sqrt(sum(variance * float(stdtrit(freedom, risk / 2)) ** 2 for variance, freedom in self.parts if variance))

    def find_bounds(self) -> tuple[float, float]:
        """Return the 95 % bounds of the mean."""
        half = self.find_half_width(LEVEL)
        return self.mean - half, self.mean + half

    def find_p(self) -> float:
        """Return the two-sided p of a mean of 0: the least risk whose interval leaves 0 out, so the two never contradict."""
        from scipy.special import stdtr

        parts = [part for part in self.parts if part[0]]
        if not parts:
            return float(self.mean == 0)
        if len(parts) == 1:
            ((variance, freedom),) = parts
            return float(2 * stdtr(freedom, -abs(self.mean) / sqrt(variance)))
        low, high = log(LEAST_P), 0.0
        for _ in range(60):  # halves the range of log p: 1e-15 of it is left
            middle = (low + high) / 2
            low, high = (low, middle) if self.find_half_width(exp(middle)) < abs(self.mean) else (middle, high)
        return exp(high)


def estimate_mean(scores: NDArray[np.float64]) -> MeanEstimate | None:
    """Estimate the mean of scores [n], or [n, seeds]; None for fewer than two images with a number for every seed.

    Images and seeds are both drawn at random, and crossed: every seed has every image. With the mean squares of a two-way
    analysis of variance, the variance of the mean is that of the images' means, MS(images) / (n k), and what the seeds add,
    (MS(seeds) - MS(rest)) / (n k), if it is above 0. An image without a number for a seed is left out of the variance, a
    seed without any number of everything.

    >>> estimate_mean(np.array([0.5, 0.5, np.nan])), estimate_mean(np.array([0.5]))
    (MeanEstimate(mean=0.5, parts=((0.0, 1),)), None)
    """
    table = scores[:, None] if scores.ndim == 1 else scores
    known = np.isfinite(table)
    table, known = table[:, known.any(axis=0)], known[:, known.any(axis=0)]
    complete = table[known.all(axis=1)]
    count, seeds = complete.shape
    if count < 2 or not seeds:
        return None
    mean = float(np.mean(np.where(known, table, 0).sum(axis=0) / known.sum(axis=0)))
    of_images, of_seeds = complete.mean(axis=1), complete.mean(axis=0)
    parts = [(float(of_images.var(ddof=1)) / count, count - 1)]
    if seeds > 1:
        rest = complete - of_images[:, None] - of_seeds + complete.mean()
        residual = float((rest**2).sum()) / ((count - 1) * (seeds - 1))
        parts.append((max(float(of_seeds.var(ddof=1)) / seeds - residual / (count * seeds), 0.0), seeds - 1))
    return MeanEstimate(mean, tuple(parts))


def _block_side(side: int) -> int:
    """Return the side of the blocks that are permuted: maps larger than the features' grid are upsampled from it."""
    return next((block for block in range(1, side) if side % block == 0 and side // block <= GRID), 1)


def _cut_blocks(maps: NDArray[np.float64], block: int) -> NDArray[np.float64]:
    """Cut maps [m, h, w] into blocks, [m, blocks, pixels of a block]."""
    count, height, width = maps.shape
    parts = maps.reshape(count, height // block, block, width // block, block)
    return parts.transpose(0, 1, 3, 2, 4).reshape(count, -1, block * block)


def permuted_p(ranks: NDArray[np.floating], target: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return, for mean maps of standardised ranks [m, h, w], how often a target permuted at random scores as high.

    Edgington's randomisation test, one-sided: positions of `target` [h, w] are permuted PERMUTATIONS times, and
    p = (1 + permutations whose mean SPC is at least the observed one) / (1 + PERMUTATIONS), never below 1e-4. It holds only
    for maps whose positions are exchangeable. Those of networks are smooth and permuted targets are not: for maps as smooth
    as a CNN's that know nothing of a ramp, p is below .05 in four of ten cases. Nothing here concludes from it.
    A position of a map larger than the grid of 28x28 is a block of pixels, such as 8x8 of 224x224.
    """
    block = _block_side(target.shape[0]) if target.shape[0] == target.shape[1] else 1
    pieces = _cut_blocks(ranks.astype(np.float64), block)
    goal = _cut_blocks(rank_maps(target.reshape(1, -1)).reshape(1, *target.shape), block)[0]
    observed, counts = (pieces * goal).sum(axis=(1, 2)) - SAME, np.ones(len(pieces))
    draw, positions = np.random.default_rng(0), np.arange(len(goal))
    chunk = max(1, _CHUNK // max(pieces.shape[:2]))
    for first in range(0, PERMUTATIONS, chunk):
        drawn = draw.permuted(np.tile(positions, (min(chunk, PERMUTATIONS - first), 1)), axis=1)
        if block == 1:
            counts += (goal[drawn, 0] @ pieces[:, :, 0].T >= observed).sum(axis=0)
        else:
            for number, piece in enumerate(pieces):
                counts[number] += ((piece @ goal.T)[positions, drawn].sum(axis=1) >= observed[number]).sum()
    return counts / (1 + PERMUTATIONS)


def correct_holm(values: Sequence[float]) -> list[float]:
    """Return p values corrected for their number by Holm's step-down procedure.

    >>> correct_holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    corrected, least = [0.0] * len(values), 0.0
    for rank, index in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        least = max(least, min(1.0, (len(values) - rank) * values[index]))
        corrected[index] = least
    return corrected


@dataclass(frozen=True)
class Chance:
    """How probable a mean SPC is if maps know nothing of the target: `p`, and `corrected` for all entries tested together."""

    p: float
    corrected: float


def constant_error(target: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the absolute errors [h, w] of the best constant map, the target's median; their mean is the MAE to beat.

    >>> constant_error(np.array([[0.0, 0.25], [0.75, 1.0]])).mean().item()
    0.375
    """
    return np.abs(target - np.median(target))
