"""Exact readouts: second moments of the unfolded features, streamed once, solve any target and any penalty.

A head is linear and its target is the same map for all images, so with f(p) the k x k neighbourhood of position p the
sums  G = sum f f'  and  S(p) = sum over images of f(p)  are all that least squares needs (normal equations).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from posenet_store.errors import PosenetStoreError, UsageError
from posenet_store.unfolding import images_a_step, neighbourhoods, positions_of

MAX_UNKNOWNS = 6000
DEAD = 1e-6
"""A feature is dead if its standard deviation is below 1e-6 of its root mean square: float16 resolves 5e-4."""


@dataclass
class Moments:
    """Sums over `count` samples of features minus `shift` [D]: `second` [D, D] and `position` [D, P], all float64.

    The shift (the first images' mean) keeps the sums free of cancellation whatever the features' offset and scale.
    """

    kernel: int
    padding: int
    shift: Tensor
    images: int
    second: Tensor
    position: Tensor

    @property
    def count(self) -> int:
        """Samples summed: images times positions."""
        return self.images * self.position.shape[1]

    @property
    def mean(self) -> Tensor:
        """Mean of the shifted features, [D]."""
        return self.position.sum(1) / self.count

    def __add__(self, other: "Moments") -> "Moments":
        """Pool two disjoint sets of images that were accumulated with one shift."""
        return Moments(
            self.kernel,
            self.padding,
            self.shift,
            self.images + other.images,
            self.second + other.second,
            self.position + other.position,
        )


def accumulate(blocks: Iterable[Tensor], kernel: int, padding: int, shift: Tensor | None = None) -> Moments | None:
    """Sum the moments of all blocks [B, C, 28, 28], a few images at a time; None if there is no image.

    Raises UsageError if the features of a position are too many for exact moments, PosenetStoreError if one is not finite.
    """
    total: Moments | None = None
    for block in blocks:
        unknowns = block.shape[1] * kernel**2
        if unknowns > MAX_UNKNOWNS:
            raise UsageError(
                f"ridge on {block.shape[1]} channels with kernel {kernel} has {unknowns:,} unknowns; at most "
                f"{MAX_UNKNOWNS:,} are solved exactly: use kernel 1, or one tap at a time (input full:f5)"
            )
        for part in block.split(images_a_step(block.shape[1], kernel, positions_of(block, kernel, padding))):
            features = neighbourhoods(part, kernel, padding)
            if total is None:
                start = features.mean((0, 2)) if shift is None else shift
                size, positions = features.shape[1:]
                zero = features.new_zeros
                total = Moments(kernel, padding, start, 0, zero(size, size), zero(size, positions))
            features = features - total.shift[None, :, None]
            wide = features.transpose(0, 1).reshape(features.shape[1], -1)
            total.second += wide @ wide.T
            total.position += features.sum(0)
            total.images += len(part)
    if total is not None and not bool(torch.isfinite(total.second).all()):
        raise PosenetStoreError("the features hold NaN or infinite values; `inspect` shows each tap's range")
    return total


@dataclass(frozen=True)
class _Spectrum:
    """The standardised problem of some moments: eigenvectors and eigenvalues of the live features' correlation."""

    live: Tensor
    deviation: Tensor
    values: Tensor
    vectors: Tensor


def _spectrum(moments: Moments) -> _Spectrum:
    covariance = moments.second / moments.count - torch.outer(moments.mean, moments.mean)
    variance = covariance.diagonal().clamp(min=0)
    magnitude = variance + (moments.mean + moments.shift) ** 2
    live = variance > DEAD**2 * magnitude
    deviation = variance[live].sqrt()
    correlation = covariance[live][:, live] / torch.outer(deviation, deviation)
    values, vectors = torch.linalg.eigh((correlation + correlation.T) / 2)
    return _Spectrum(live, deviation, values.clamp(min=0), vectors)


def _solve(moments: Moments, spectrum: _Spectrum, target: Tensor, penalty: float) -> tuple[Tensor, Tensor]:
    """Return weights [D] for the unshifted features and the bias, for one flattened target [P]."""
    centred = target - target.mean()
    crossed = moments.position[spectrum.live] @ centred / moments.count / spectrum.deviation
    solution = spectrum.vectors @ ((spectrum.vectors.T @ crossed) / (spectrum.values + penalty))
    weights = moments.position.new_zeros(len(moments.shift))
    weights[spectrum.live] = solution / spectrum.deviation
    return weights, target.mean() - weights @ (moments.mean + moments.shift)


def squared_error(moments: Moments, weights: Tensor, bias: Tensor, target: Tensor) -> float:
    """Return the mean squared error of a head on the images behind `moments`, without reading them again."""
    offset = bias + weights @ moments.shift
    linear = moments.position.sum(1) @ weights
    cross = weights @ moments.position @ target
    quadratic = weights @ moments.second @ weights + 2 * offset * linear + moments.count * offset**2
    constant = moments.images * (target @ target)
    return float((quadratic - 2 * cross - 2 * offset * moments.images * target.sum() + constant) / moments.count)


@dataclass(frozen=True)
class Readout:
    """An exact head: `weight` [C, k, k] and `bias` [] in float64, the chosen penalty and its validation error."""

    weight: Tensor
    bias: Tensor
    penalty: float
    validation_error: float


def readouts(
    fitting: Moments, validation: Moments | None, targets: Sequence[Tensor], lambdas: Sequence[float]
) -> list[Readout]:
    """Return the exact head for each target map [h, w]: penalty by validation error, then refitted on all images.

    With no validation images the smallest penalty is taken.
    """
    everything = fitting if validation is None else fitting + validation
    trial, final = _spectrum(fitting), _spectrum(everything)
    found = []
    for target in targets:
        flat = target.flatten()
        errors = {}
        for penalty in sorted(lambdas):
            weights, bias = _solve(fitting, trial, flat, penalty)
            errors[penalty] = squared_error(validation or fitting, weights, bias, flat)
        best = min(errors, key=errors.__getitem__) if validation else min(lambdas)
        weights, bias = _solve(everything, final, flat, best)
        shape = (-1, fitting.kernel, fitting.kernel)
        found.append(Readout(weights.reshape(shape), bias, best, errors[best]))
    return found
