"""Exact readouts: second moments of the unfolded features, streamed once, solve any target and any penalty.

A head is linear and its target is the same map for all images, so with f(p) the k x k neighbourhood of position p the
sums  G = sum f f'  and  S(p) = sum over images of f(p)  are all that least squares needs (normal equations).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add

import numpy as np
import torch
from scipy.linalg.blas import dsyrk
from scipy.stats import t as student
from torch import Tensor

from posenet_store.errors import PosenetStoreError, UsageError
from posenet_store.heads.convolution import images_a_step, neighbourhoods, positions_of
from posenet_store.heads.protocols import RidgeProtocol
from posenet_store.threads import on_threads, one_thread_each, torch_on_one_thread

MAX_UNKNOWNS = 6000
MAX_BYTES = 1 << 30
"""Of the moments that threads sum side by side."""
DEAD = 1e-6
"""A feature is dead if its standard deviation is below 1e-6 of its root mean square: float16 resolves 5e-4."""


@dataclass
class Moments:
    """Sums over `count` samples of features minus `shift` [D]: `second` [D, D] and `position` [D, P], all float64.

    The shift (the first images' mean) keeps the sums free of cancellation whatever the features' offset and scale.
    Moments of disjoint images are added, whatever their shifts.
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

    def tensors(self) -> dict[str, Tensor]:
        """Return the sums as named tensors, for keeping."""
        return {"shift": self.shift, "images": torch.tensor(self.images), "second": self.second, "position": self.position}

    @classmethod
    def loaded(cls, kernel: int, padding: int, kept: Mapping[str, Tensor] | None) -> "Moments | None":
        """Return the sums that `tensors` gave, None for None."""
        if kept is None:
            return None
        return cls(kernel, padding, kept["shift"], int(kept["images"]), kept["second"], kept["position"])

    def of(self, features: Tensor | None) -> "Moments":
        """Return the moments of some features only (places among D), of all for None."""
        if features is None:
            return self
        second, position = self.second[features][:, features], self.position[features]
        return Moments(self.kernel, self.padding, self.shift[features], self.images, second, position)

    def about(self, shift: Tensor) -> "Moments":
        """Return the moments of the same images about another shift."""
        moved = self.shift - shift
        total = self.position.sum(1)
        second = torch.addr(self.second, total + self.count * moved, moved).addr_(moved, total)
        position = self.position + self.images * moved[:, None]
        return Moments(self.kernel, self.padding, shift, self.images, second, position)

    def __add__(self, other: "Moments") -> "Moments":
        """Pool two disjoint sets of images."""
        moved, images = other.about(self.shift), self.images + other.images
        second, position = moved.second.add_(self.second), moved.position.add_(self.position)
        return Moments(self.kernel, self.padding, self.shift, images, second, position)


class Accumulator:
    """Sums the moments of blocks of one kernel and padding: each thread those of its share of the images, a few at a time.

    Where moments of each thread would be too large there is one share, and the threads are BLAS's.
    """

    def __init__(self, kernel: int, padding: int) -> None:
        self._kernel, self._padding = kernel, padding
        self._shares: list[Moments | None] = []

    def add(self, block: Tensor) -> None:
        """Add a block [B, C, 28, 28]; raises UsageError if the features of a position are too many for exact moments."""
        kernel, channels = self._kernel, block.shape[1]
        if not solvable(channels, kernel):
            raise UsageError(
                f"ridge on {channels} channels with kernel {kernel} has {channels * kernel**2:,} unknowns; at most "
                f"{MAX_UNKNOWNS:,} are solved exactly: use kernel 1, or one tap at a time (input full:f5)"
            )
        with torch_on_one_thread() as threads:
            if not self._shares:
                self._shares = [None] * shares(channels * kernel**2, positions_of(block, kernel, self._padding), threads)
            if len(self._shares) == 1:
                self._shares = [self._sum(self._shares[0], block)]
            else:
                with one_thread_each():
                    pairs = zip(self._shares, block.tensor_split(len(self._shares)), strict=True)
                    self._shares = on_threads(lambda pair: self._sum(*pair), pairs, len(self._shares))

    def _sum(self, total: Moments | None, images: Tensor) -> Moments | None:
        """Add images [n, C, 28, 28] to some moments, in place, or to none."""
        kernel, padding, channels = self._kernel, self._padding, images.shape[1]
        size, positions = channels * kernel**2, positions_of(images, kernel, padding)
        few = min(len(images), images_a_step(channels, kernel, positions))
        room = torch.empty(size * few * positions, dtype=torch.float64)
        product = torch.empty(size, size, dtype=torch.float64) if len(self._shares) > 1 else None
        for part in images.split(few) if few else ():
            # all samples of a feature lie in a row
            features = room[: size * len(part) * positions].view(size, len(part), positions)
            neighbourhoods(part, kernel, padding, features.transpose(0, 1))
            if total is None:
                zero = features.new_zeros
                total = Moments(kernel, padding, features.mean((1, 2)), 0, zero(size, size), zero(size, positions))
            features -= total.shift[:, None, None]
            _add_square(total.second, features.flatten(1), product)
            total.position += features.sum(1)
            total.images += len(part)
        return total

    def moments(self) -> Moments | None:
        """Return the sums, None if there was no image; raises PosenetStoreError if a feature is not finite."""
        held = [one for one in self._shares if one is not None]
        if not held:
            return None
        total = reduce(add, held)
        if not bool(torch.isfinite(total.second).all()):
            raise PosenetStoreError("the features hold NaN or infinite values; `inspect` shows each tap's range")
        for row in range(1, len(total.second)):
            total.second[:row, row] = total.second[row, :row]
        return total


def _add_square(second: Tensor, features: Tensor, product: Tensor | None) -> None:
    """Add features [D, n] times their own transpose to the lower triangle at least of `second` [D, D], in place.

    BLAS's symmetric product does half the work of torch's general one. SciPy's adds at once, but keeps other threads waiting;
    NumPy's does not, and needs a place for the product. SciPy's counts columns first, so all is transposed.
    """
    if product is None:
        dsyrk(1.0, features.numpy().T, 1.0, second.numpy().T, trans=1, overwrite_c=1)
    else:
        second += torch.from_numpy(np.matmul(features.numpy(), features.numpy().T, out=product.numpy()))


def accumulate(blocks: Iterable[Tensor], kernel: int, padding: int) -> Moments | None:
    """Sum the moments of all blocks [B, C, 28, 28]; None if there is no image (see `Accumulator`)."""
    sums = Accumulator(kernel, padding)
    for block in blocks:
        sums.add(block)
    return sums.moments()


def shares(size: int, positions: int, threads: int) -> int:
    """Return how many moments of `size` features that many threads sum side by side: one each within 1 GiB, or one."""
    return threads if threads * (2 * size + positions) * size * 8 <= MAX_BYTES else 1


def solvable(channels: int, kernel: int) -> bool:
    """True if a head on that many channels has few enough unknowns to be solved exactly."""
    return channels * kernel**2 <= MAX_UNKNOWNS


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
    """A head: `weight` [C, k, k] and `bias` [] in float64, and what the fit says of itself."""

    weight: Tensor
    bias: Tensor
    facts: dict[str, float]


def chosen_penalty(
    errors: Tensor, images: Sequence[int], target: Tensor, protocol: RidgeProtocol
) -> tuple[float, dict[str, float]]:
    """Return the best penalty and what was found of it; `errors` [lambdas, groups] are mean squared errors left out.

    Lambdas ascend; without groups the smallest is taken. With folds `cv_error` is over all images, `cv_explained` the
    share of the target's variance (over positions) that is explained, and `cv_low` to `cv_high` a 95 % interval from
    the spread of the folds' errors: Student's t with one degree of freedom less than folds. Folds are random groups of
    images, so their errors are means over independent draws, close to normal. (With normal errors a percentile bootstrap
    over five groups covers the truth 84 times in 100, this interval 95.) It tells the chance in the images; that folds
    share training images, and that the penalty is the best of a few, makes it a little too narrow and too low.
    """
    lambdas = sorted(protocol.lambdas)
    if not errors.shape[1]:
        return lambdas[0], {"penalty": lambdas[0]}
    weights = torch.tensor(images, dtype=errors.dtype)
    means = errors @ weights / weights.sum()
    best = int(means.argmin())
    error, penalty = float(means[best]), lambdas[best]
    if not protocol.folds:
        return penalty, {"penalty": penalty, "validation_error": error}
    folds = errors.shape[1]
    margin = float(student.ppf(0.975, folds - 1) * errors[best].std() / folds**0.5)
    explained = 1 - error / float(target.var(correction=0))
    bounds = {"cv_low": max(0.0, error - margin), "cv_high": error + margin}
    return penalty, {"penalty": penalty, "cv_error": error, **bounds, "cv_explained": explained}


def readouts(groups: Sequence[Moments], targets: Sequence[Tensor], protocol: RidgeProtocol) -> list[Readout]:
    """Return the exact head for each target map [h, w]: penalty by the error on groups left out, then refitted on all.

    Which groups of images are left out, `protocol.left_out` says: with folds each in turn, else the last, if there are two.
    """
    flat, lambdas, left_out = [target.flatten() for target in targets], sorted(protocol.lambdas), protocol.left_out(len(groups))
    errors = torch.zeros(len(flat), len(lambdas), len(left_out), dtype=torch.float64)
    for place, left in enumerate(left_out):
        rest = reduce(add, (one for number, one in enumerate(groups) if number != left))
        spectrum = _spectrum(rest)
        for number, target in enumerate(flat):
            for step, penalty in enumerate(lambdas):
                head = _solve(rest, spectrum, target, penalty)
                errors[number, step, place] = squared_error(groups[left], *head, target)
    everything = reduce(add, groups)
    spectrum, found = _spectrum(everything), []
    images = [groups[left].images for left in left_out]
    for target, tried in zip(flat, errors, strict=True):
        penalty, facts = chosen_penalty(tried, images, target, protocol)
        weights, bias = _solve(everything, spectrum, target, penalty)
        found.append(Readout(weights.reshape(-1, everything.kernel, everything.kernel), bias, facts))
    return found
