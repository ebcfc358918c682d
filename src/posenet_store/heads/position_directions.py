"""Find how many independent directions among a stage's channels hold position: canonical variates, fitted and tested apart.

A direction w of channels has the share of position  w' B w / w' T w  with the covariance B of mean maps (between positions) and
T of all samples. The directions of the largest shares are generalised eigenvectors of B and T (canonical variates of positions,
as in linear discriminant analysis). Of many channels and few images the largest eigenvalue is far too large, so directions are
fitted on every second span of images and their shares estimated on the others, where they are without bias; then the halves
change places, and the two shares of a rank are averaged.
"""

from collections.abc import Sequence
from functools import reduce
from operator import add

import numpy as np
import torch
from numpy import float64
from numpy.typing import NDArray

from posenet_store.heads.moments import Moments
from posenet_store.heads.position_variance import Estimates, SpanMaps, estimate_position_shares
from posenet_store.heads.sizes import DEAD_DEVIATION
from posenet_store.threads import limit_to_one_thread

MOST = 64
"""Directions that are looked at."""
PENALTY = 1e-3
"""Added to the eigenvalues of the correlation matrix in the fit: directions that hardly vary are noise."""


def estimate_directions(spans: Sequence[Moments]) -> Estimates:
    """Return the shares of position of the best directions, [r], the intervals for the directions as they were fitted.

    `spans` are the moments of spans of images, with one shift; at least six, so that one of a half can be left out.
    """
    halves = spans[::2], spans[1::2]
    with limit_to_one_thread():
        tested = [estimate_position_shares(project_spans(test, fit_directions(fit))) for fit, test in (halves, halves[::-1])]
    count = min(len(shares.live) for shares in tested)
    shares = [estimates.of_channels() for estimates in tested]
    values = np.mean([entry.value[:count, 0] for entry in shares], axis=0)
    margin = np.sqrt(sum((entry.high[:count, 0] - entry.value[:count, 0]) ** 2 for entry in shares)) / 2
    return Estimates(values, values - margin, values + margin)


def fit_directions(spans: Sequence[Moments]) -> NDArray[float64]:
    """Return the generalised eigenvectors [C, r] of B and T, the largest eigenvalue first; dead channels are left out."""
    images = sum(moments.images for moments in spans)
    position = torch.stack([moments.position for moments in spans])
    position = position - position.mean(2, keepdim=True)
    total = position.sum(0)
    flat = position.transpose(0, 1).flatten(1)
    pairs = (images**2 - sum(moments.images**2 for moments in spans)) * position.shape[2]
    between = (total @ total.T - flat @ flat.T) / pairs
    count = images * position.shape[2]
    mean = torch.stack([moments.position.sum(1) for moments in spans]).sum(0) / count
    covariance = reduce(add, (moments.second for moments in spans)) / count - torch.outer(mean, mean)
    variance = covariance.diagonal().clamp(min=0)
    live = variance > DEAD_DEVIATION**2 * (variance + (mean + spans[0].shift) ** 2)
    deviation = variance[live].sqrt()
    values, vectors = torch.linalg.eigh(covariance[live][:, live] / torch.outer(deviation, deviation))
    whitening = vectors / (values.clamp(min=0) + PENALTY).sqrt() / deviation[:, None]
    _, rotation = torch.linalg.eigh(whitening.T @ between[live][:, live] @ whitening)
    directions = whitening.new_zeros(len(variance), min(MOST, int(live.sum())))
    directions[live] = whitening @ rotation.flip(1)[:, :MOST]
    return np.asarray(directions.numpy())


def project_spans(spans: Sequence[Moments], directions: NDArray[float64]) -> SpanMaps:
    """Return the sums of the directions' maps."""
    maps = [(directions.T @ moments.position.numpy()).reshape(directions.shape[1], 1, -1) for moments in spans]
    squares = [((moments.second.numpy() @ directions) * directions).sum(axis=0) for moments in spans]
    return SpanMaps(np.array([float(moments.images) for moments in spans]), np.stack(maps), np.stack(squares))
