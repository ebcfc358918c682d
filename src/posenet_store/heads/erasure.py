"""Erase targets from features: the least change after which no linear head of them does better than a constant (LEACE).

Belrose et al., LEACE: perfect linear concept erasure in closed form (NeurIPS 2023). With the covariance Sxx of the features
and their cross-covariance Sxz with the targets, Theorem 4.3 gives  r(x) = x - W+ P W (x - mu), W a whitening and P the
projection on the columns of W Sxz. For any W with W' W = Sxx+ that is

    r(x) = x - Sxz (Sxz' Sxx+ Sxz)+ Sxz' Sxx+ (x - mu)

All of it follows from second moments. After it the cross-covariance with the targets is 0 (their Theorem 3.1: no linear head
does better than a constant), and of all affine maps that achieve this none moves the features less, in the mean square.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from posenet_store.heads.moments import Moments
from posenet_store.heads.sizes import DEAD_DEVIATION
from posenet_store.heads.targets import make_target_map
from posenet_store.specs import GRID
from posenet_store.threads import limit_to_one_thread

RANK_TOLERANCE = 1e-12
"""Of the largest eigenvalue: directions of the standardised features, or of the targets in them, that vary less are none.

Nor are there targets in features whose correlation with them is below it, which is rounding."""


@dataclass(frozen=True)
class Eraser:
    """The map  x -> x - left right (x - mean)  of features [D]; `left` [D, r] and `right` [r, D] have the erased rank r."""

    left: Tensor
    right: Tensor
    mean: Tensor

    @property
    def rank(self) -> int:
        """How many dimensions are erased."""
        return self.left.shape[1]

    def erase(self, features: Tensor) -> Tensor:
        """Return erased features [..., D]."""
        return features - (features - self.mean) @ self.right.T @ self.left.T

    def erase_moments(self, moments: Moments) -> Moments:
        """Return the moments of the erased features, from those of the features."""
        second = _project(_project(moments.second, self).T, self)
        shift = self.erase(moments.shift)
        return Moments(moments.kernel, moments.padding, shift, moments.images, second, _project(moments.position, self))

    def compose(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Return the head of the features that predicts what a head, `weight` [D] and `bias` [], predicts of erased ones."""
        erased = weight @ self.left
        return weight - erased @ self.right, bias + erased @ (self.right @ self.mean)


def _project(values: Tensor, eraser: Eraser) -> Tensor:
    """Return  (I - left right) values  of values [D, n]."""
    return values - eraser.left @ (eraser.right @ values)


@dataclass(frozen=True)
class _Standardised:
    """The features' deviations [D], 0 for a dead one, and the eigenvalues and vectors of their correlation matrix above 0."""

    mean: Tensor
    deviation: Tensor
    values: Tensor
    vectors: Tensor

    @property
    def inverse(self) -> Tensor:
        """One over the deviations, 0 for a dead feature."""
        return torch.where(self.deviation > 0, 1 / self.deviation, 0)


def _standardise(moments: Moments) -> _Standardised:
    mean = moments.mean
    covariance = moments.second / moments.count - torch.outer(mean, mean)
    variance = covariance.diagonal().clamp(min=0)
    live = variance > DEAD_DEVIATION**2 * (variance + (mean + moments.shift) ** 2)
    deviation = torch.where(live, variance, 0).sqrt()
    inverse = torch.where(live, 1 / deviation, 0)
    values, vectors = torch.linalg.eigh(inverse[:, None] * covariance * inverse)
    positive = values > RANK_TOLERANCE * values[-1]
    return _Standardised(mean + moments.shift, deviation, values[positive], vectors[:, positive])


def fit_eraser(moments: Moments, targets: Sequence[Tensor]) -> Eraser:
    """Return what erases target maps, each [h, w] or flat, from the features of the images of `moments`.

    Dead features are left as they are. Targets that depend on each other linearly are erased once.
    """
    standard = _standardise(moments)
    maps = torch.stack([target.flatten() for target in targets])
    maps = maps - maps.mean(1, keepdim=True)
    maps = maps / maps.square().mean(1, keepdim=True).sqrt()
    return _make_eraser(standard, standard.inverse[:, None] * (moments.position @ maps.T) / moments.count)


def draw_eraser(moments: Moments, rank: int, draw: torch.Generator) -> Eraser:
    """Return what erases so many random directions, of whitened features, in the same way: the control."""
    standard = _standardise(moments)
    drawn = torch.randn(len(standard.values), rank, generator=draw, dtype=torch.float64)
    return _make_eraser(standard, standard.vectors @ (standard.values.sqrt()[:, None] * drawn))


def fit_or_draw_eraser(moments: Moments, targets: Sequence[str], draw: torch.Generator | None) -> Eraser:
    """Return what erases targets, given by their names, from features on the grid; with `draw` the control of their rank."""
    with limit_to_one_thread():
        eraser = fit_eraser(moments, [torch.from_numpy(make_target_map(target, GRID).copy()) for target in targets])
        return eraser if draw is None else draw_eraser(moments, eraser.rank, draw)


def seed_draw(seed: int | None) -> torch.Generator | None:
    """Return what draws random directions, None without a seed."""
    return None if seed is None else torch.Generator().manual_seed(seed)


def _make_eraser(standard: _Standardised, cross: Tensor) -> Eraser:
    """Return the eraser of what has the cross-covariance [D, k] with standardised features."""
    regression = standard.vectors @ (standard.vectors.T @ cross / standard.values[:, None])  # Sxx+ Sxz
    powers, axes = torch.linalg.eigh(cross.T @ regression)  # what linear heads explain of the targets' variance
    axes = axes[:, powers > max(RANK_TOLERANCE * float(powers[-1]), RANK_TOLERANCE**2)]
    right = torch.linalg.solve(axes.T @ cross.T @ regression @ axes, axes.T @ regression.T)
    return Eraser(standard.deviation[:, None] * (cross @ axes), right * standard.inverse, standard.mean)
