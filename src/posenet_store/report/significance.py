"""How sure a mean score is: bootstrap intervals, randomisation tests of SPC, and what the best constant map reaches.

Pure arithmetic on what a run keeps of a cell. All draws are seeded: a rerun gives the same numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from posenet_store.heads.metrics import rank_maps
from posenet_store.specs import GRID

RESAMPLES = 2000
BOUNDS = (2.5, 97.5)
"""The percentiles of the resampled means between which 95 % of them lie."""

PERMUTATIONS = 9_999
SAME = 1e-6
"""Two mean SPC are equal up to this: runs keep the maps of ranks in float32."""

_CHUNK = 2**22  # numbers of permuted targets in memory at a time: 32 MiB


@lru_cache(maxsize=4)
def _draw_resamples(images: int) -> NDArray[np.float64]:
    """Return how often each resample draws each image, [RESAMPLES, images]; always the same draws."""
    drawn = np.random.default_rng(0).integers(0, images, (RESAMPLES, images))
    drawn += np.arange(RESAMPLES)[:, None] * images
    counts = np.bincount(drawn.ravel(), minlength=RESAMPLES * images).reshape(RESAMPLES, images)
    return counts.astype(np.float64)


def find_interval(scores: NDArray[np.float64]) -> tuple[float, float] | None:
    """Return the 95 % bounds of the mean of scores [n], or [n, seeds]; None for fewer than two images with a number.

    A percentile bootstrap over images; of several seeds a crossed one: each resample draws n images and as many seeds
    as there are, each with replacement, and takes the mean over its seeds of their means over its images. NaN is left
    out. Resampling k seeds shows their variance times (k - 1) / k, as every bootstrap of few values does.

    >>> find_interval(np.array([0.5, 0.5, np.nan])), find_interval(np.array([0.5]))
    ((0.5, 0.5), None)
    """
    table = scores[:, None] if scores.ndim == 1 else scores
    known = np.isfinite(table)
    table, known = table[known.any(axis=1)], known[known.any(axis=1)]
    if len(table) < 2:
        return None
    weights = _draw_resamples(len(table))
    sums, counts = weights @ np.where(known, table, 0), weights @ known
    means = np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)
    seeds = means.shape[1]
    if seeds > 1:
        drawn = np.random.default_rng(1).integers(0, seeds, means.shape)
        picked = np.take_along_axis(means, drawn, axis=1)
        defined = np.isfinite(picked)
        means = np.where(defined, picked, 0).sum(axis=1) / np.where(defined.any(axis=1), defined.sum(axis=1), np.nan)
    low, high = np.percentile(means[np.isfinite(means)], BOUNDS).tolist()
    return low, high


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
    p = (1 + permutations whose mean SPC is at least the observed one) / (1 + PERMUTATIONS), exact, never below 1e-4. Maps
    are smooth and permuted targets are not, so any smooth map beats chance more easily than it should: the test
    is lenient. `shifted_p` keeps the smoothness; networks that never saw an image are the baseline. A position of a map
    larger than the grid of 28x28 is a block of pixels, such as 8x8 of 224x224.
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


def _score_placements(ranks: NDArray[np.float64], goal: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the products of maps [m, h, h] with the goal [h, h] in all cyclic shifts, flips and quarter turns, [m, 8 h h]."""
    spectrum = np.fft.rfft2(ranks)
    turned = [np.rot90(flip, turns) for flip in (goal, goal.T) for turns in range(4)]
    products = [np.fft.irfft2(spectrum * np.fft.rfft2(turn).conj(), s=goal.shape) for turn in turned]
    return np.concatenate([product.reshape(len(ranks), -1) for product in products], axis=1)


def shifted_p(ranks: NDArray[np.floating], target: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Return, for mean maps of standardised ranks [m, h, h], the share of the target's placements that score as high.

    Placements are all cyclic shifts, flips and quarter turns of `target` [h, h], itself included: a group, so the share
    is an exact p, and they are as smooth as the target. The second value is the least p possible: a ramp has few distinct
    placements (1/104 at 26 positions).
    """
    goal = rank_maps(target.reshape(1, -1)).reshape(target.shape)
    shares = np.empty(len(ranks))
    step = max(1, _CHUNK // (8 * goal.size))
    for first in range(0, len(ranks), step):
        chunk = ranks[first : first + step].astype(np.float64)
        observed = (chunk * goal).sum(axis=(1, 2))
        shares[first : first + step] = (_score_placements(chunk, goal) >= observed[:, None] - SAME).mean(axis=1)
    return shares, float((_score_placements(goal[None], goal) >= 1 - SAME).mean())


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
    """How probable a mean SPC is by chance: permuted targets, the same corrected for the table, and shifted targets."""

    permuted: float
    corrected: float
    shifted: float
    shifted_least: float


def constant_error(target: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the absolute errors [h, w] of the best constant map, the target's median; their mean is the MAE to beat.

    >>> constant_error(np.array([[0.0, 0.25], [0.75, 1.0]])).mean().item()
    0.375
    """
    return np.abs(target - np.median(target))
