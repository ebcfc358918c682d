"""Solve ridge regression exactly, for any target and penalty, from second moments of the unfolded features.

A head is linear and its target is the same map for all images, so with f(p) the k x k neighbourhood of position p the
sums  G = sum f f'  and  S(p) = sum over images of f(p)  suffice for least squares (normal equations).

Features can lie in bands (here: stages) with a penalty each, which a random search chooses (Dupre la Tour et al.,
Feature-space selection with banded ridge regression, NeuroImage 264, 2022): weights of the bands are drawn from Dirichlet
distributions, and a band of weight g has the penalty  lambda / g. That is one penalty lambda of features multiplied by sqrt(g).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add

import numpy as np
import torch
from scipy.special import stdtrit
from torch import Tensor

from posenet_store.errors import is_out_of_memory
from posenet_store.heads.device_moments import move_moments
from posenet_store.heads.moments import Moments
from posenet_store.heads.protocols import RidgeProtocol
from posenet_store.heads.sizes import DEAD_DEVIATION
from posenet_store.threads import limit_to_one_thread

Bands = Mapping[str, Tensor]
"""Name -> the indices of a band's features; together they are all features."""
CONCENTRATIONS = (1.0, 0.1)
"""Of the Dirichlet distributions, in turn: even weights, and weights of which few are large (as in the paper's package)."""
LEAST_WEIGHT = 1e-6
"""A band of a smaller weight gets this one: it is left out."""


@dataclass(frozen=True)
class _Spectrum:
    """The standardised problem: eigenvectors and eigenvalues of the live features' correlation matrix.

    `centre` [D] is the mean of the unshifted features.
    """

    centre: Tensor
    live: Tensor
    deviation: Tensor
    values: Tensor
    vectors: Tensor


def _compute_spectrum(moments: Moments, scale: Tensor) -> _Spectrum:
    """Return the problem of standardised features that are multiplied by `scale` [D]."""
    mean = moments.mean
    centre = mean + moments.shift
    covariance = moments.second / moments.count - torch.outer(mean, mean)
    variance = covariance.diagonal().clamp(min=0)
    magnitude = variance + centre**2
    live = variance > DEAD_DEVIATION**2 * magnitude
    deviation = variance[live].sqrt() / scale[live]
    correlation = covariance[live][:, live] / torch.outer(deviation, deviation)
    values, vectors = torch.linalg.eigh((correlation + correlation.T) / 2)
    return _Spectrum(centre, live, deviation, values.clamp(min=0), vectors)


def _correlate(moments: Moments, spectrum: _Spectrum, target: Tensor) -> Tensor:
    """Return the correlations of a flattened target [P] with the eigenvectors, which are the same for all penalties."""
    centred = target - target.mean()
    correlations = moments.position[spectrum.live] @ centred / moments.count / spectrum.deviation
    return spectrum.vectors.T @ correlations


def _solve(spectrum: _Spectrum, correlations: Tensor, target: Tensor, penalty: float) -> tuple[Tensor, Tensor]:
    """Return weights [D] for the unshifted features and the bias, for a flattened target [P]."""
    solution = spectrum.vectors @ (correlations / (spectrum.values + penalty))
    weights = spectrum.centre.new_zeros(len(spectrum.centre))
    weights[spectrum.live] = solution / spectrum.deviation
    return weights, target.mean() - weights @ spectrum.centre


def compute_mean_squared_error(moments: Moments, weights: Tensor, bias: Tensor, target: Tensor) -> float:
    """Return the mean squared error of a head on the images of `moments`, without reading them again."""
    offset = bias + weights @ moments.shift
    linear = moments.position.sum(1) @ weights
    cross = weights @ moments.position @ target
    quadratic = weights @ moments.second @ weights + 2 * offset * linear + moments.count * offset**2
    constant = moments.images * (target @ target)
    return float((quadratic - 2 * cross - 2 * offset * moments.images * target.sum() + constant) / moments.count)


@dataclass(frozen=True)
class RidgeHead:
    """A head: `weight` [C, k, k] and `bias` [] in float64, and the facts of its fit (penalty, errors)."""

    weight: Tensor
    bias: Tensor
    facts: dict[str, float]


def choose_penalty(
    errors: Tensor, images: Sequence[int], target: Tensor, protocol: RidgeProtocol
) -> tuple[float, dict[str, float]]:
    """Return the best penalty and its facts; `errors` [lambdas, groups] are mean squared errors on groups left out.

    Lambdas ascend; without groups the smallest is taken. With folds `cv_error` is over all images, `cv_explained` the
    share of the target's variance (over positions) that is explained, and `cv_low` to `cv_high` a 95 % interval from
    the spread of the folds' errors: Student's t with one degree of freedom less than folds. Folds share training images, so
    that their errors are not independent; the variance of the mean is therefore not 1 / k of that of the k folds' errors, but
    1 / k + 1 / (k - 1) (Nadeau and Bengio, Inference for the generalization error, Machine Learning 52, 2003: test by training
    images is added). Without it the interval covers .90 to .96 in simulations.
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
    margin = float(stdtrit(folds - 1, 0.975) * errors[best].std()) * (1 / folds + 1 / (folds - 1)) ** 0.5
    explained = 1 - error / float(target.var(correction=0))
    bounds = {"cv_low": max(0.0, error - margin), "cv_high": error + margin}
    return penalty, {"penalty": penalty, "cv_error": error, **bounds, "cv_explained": explained}


def draw_weights(bands: int, draws: int) -> list[list[float]]:
    """Return weights of bands: all 1, then as many draws as asked for, whose mean is 1.

    >>> draw_weights(1, 2), draw_weights(3, 0)
    ([[1.0], [1.0], [1.0]], [[1.0, 1.0, 1.0]])
    """
    draw = np.random.default_rng(0)
    concentrations = [CONCENTRATIONS[number % len(CONCENTRATIONS)] for number in range(draws)]
    drawn = [bands * draw.dirichlet([concentration] * bands) for concentration in concentrations]
    return [[1.0] * bands, *(np.maximum(weights, LEAST_WEIGHT).tolist() for weights in drawn)]


def _make_scale(features: int, bands: Bands, weights: Sequence[float]) -> Tensor:
    """Return what each feature is multiplied by."""
    scale = torch.ones(features, dtype=torch.float64)
    for indices, weight in zip(bands.values(), weights, strict=True):
        scale[indices] = weight**0.5
    return scale


def solve_ridge(
    groups: Sequence[Moments],
    targets: Sequence[Tensor],
    protocol: RidgeProtocol,
    bands: Bands | None = None,
    device: str | None = None,
) -> list[RidgeHead]:
    """Return the exact head for each target map [h, w]: choose the penalty on groups left out, then fit all images.

    `protocol.list_left_out_groups` lists the groups of images that are left out in turn. One thread solves: with another number
    eigenvectors come out in other last bits. With `bands` the protocol's `bands` weights of them are tried too. A `device`
    solves instead, if its memory suffices.
    """
    if device is not None:
        try:
            moved = [move_moments(moments, torch.device(device)) for moments in groups]
            heads = _solve_all(moved, [target.to(device) for target in targets], protocol, bands or {})
            return [RidgeHead(head.weight.cpu(), head.bias.cpu(), head.facts) for head in heads]
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
    with limit_to_one_thread():
        return _solve_all(groups, targets, protocol, bands or {})


def _solve_all(groups: Sequence[Moments], targets: Sequence[Tensor], protocol: RidgeProtocol, bands: Bands) -> list[RidgeHead]:
    flat, left_out = [target.flatten() for target in targets], protocol.list_left_out_groups(len(groups))
    weights = draw_weights(len(bands), protocol.bands if len(bands) > 1 else 0)
    shift = groups[0].shift
    scales = [_make_scale(len(shift), bands, of_bands).to(shift.device) for of_bands in weights]
    errors = torch.stack([_list_errors(groups, flat, protocol, scale) for scale in scales], dim=1)
    total, images, spectra = reduce(add, groups), [groups[omitted].images for omitted in left_out], dict[int, _Spectrum]()
    heads = []
    for target, target_errors in zip(flat, errors, strict=True):
        best = int((target_errors @ torch.tensor(images, dtype=errors.dtype)).amin(1).argmin())
        penalty, facts = choose_penalty(target_errors[best], images, target, protocol)
        if best not in spectra:
            spectra[best] = _compute_spectrum(total, scales[best])
        weight, bias = _solve(spectra[best], _correlate(total, spectra[best], target), target, penalty)
        if protocol.bands:
            facts |= {f"penalty_{name}": penalty / share for name, share in zip(bands, weights[best], strict=True)}
        heads.append(RidgeHead(weight.reshape(-1, total.kernel, total.kernel), bias, facts))
    return heads


def _list_errors(groups: Sequence[Moments], targets: Sequence[Tensor], protocol: RidgeProtocol, scale: Tensor) -> Tensor:
    """Return the mean squared errors of flattened targets on groups that are left out, [targets, lambdas, groups left out]."""
    lambdas, left_out = sorted(protocol.lambdas), protocol.list_left_out_groups(len(groups))
    errors = torch.zeros(len(targets), len(lambdas), len(left_out), dtype=torch.float64)
    for fold, omitted in enumerate(left_out):
        rest = reduce(add, (moments for group, moments in enumerate(groups) if group != omitted))
        spectrum = _compute_spectrum(rest, scale)
        for number, target in enumerate(targets):
            correlations = _correlate(rest, spectrum, target)
            for step, penalty in enumerate(lambdas):
                head = _solve(spectrum, correlations, target, penalty)
                errors[number, step, fold] = compute_mean_squared_error(groups[omitted], *head, target)
    return errors
