"""Directions of channels that hold position: found where they are, and none where there are none."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from posenet_store.heads.moments import Moments, compute_moments
from posenet_store.heads.position_directions import estimate_directions
from posenet_store.heads.position_variance import make_position_maps


def draw_features(images: int, signals: NDArray[np.float64], channels: int = 20, seed: int = 0) -> NDArray[np.float64]:
    """Return smooth noise [N, C, 28, 28] mixed at random, with maps [k, 28, 28] added along k other directions."""
    draw = np.random.default_rng(seed)
    noise = gaussian_filter(draw.normal(size=(images, channels, 28, 28)), (0, 0, 2, 2), mode="wrap")
    noise /= noise.std()
    noise[:, : len(signals)] += signals
    mixing = draw.normal(size=(channels, channels))
    return np.asarray(np.einsum("cd,ndhw->nchw", mixing, noise))


def sum_spans(features: NDArray[np.float64], spans: int = 12) -> list[Moments]:
    parts = [compute_moments([torch.from_numpy(part)], 1, 0) for part in np.array_split(features, spans)]
    return [moments.shift_to(parts[0].shift) for moments in parts if moments and parts[0]]


def test_it_finds_as_many_as_there_are_with_their_shares() -> None:
    """Signals of variance 1 and .25 beside noise of variance 1: shares of .5 and .2, in any mixture of the channels."""
    basis = make_position_maps(28, 28)
    features = draw_features(120, np.stack([basis[0], basis[1] / 2]))
    directions = estimate_directions(sum_spans(features))
    np.testing.assert_allclose(directions.value[:2], [0.5, 0.2], atol=0.03)
    assert (directions.low[:2] > 0.1).all()
    assert np.abs(directions.value[2:]).max() < 0.03


def test_without_position_there_are_none_in_many_channels_of_few_images() -> None:
    directions = estimate_directions(sum_spans(draw_features(24, np.zeros((0, 28, 28)), channels=60)))
    assert np.abs(directions.value).max() < 0.05


@pytest.mark.parametrize("scale", [1e-8, 1e8])
def test_scales_offsets_and_dead_channels_change_nothing(scale: float) -> None:
    """Shares have no unit: 1e-6 is what rounding at such offsets leaves of them."""
    features = draw_features(48, make_position_maps(28, 28)[:2])
    plain = estimate_directions(sum_spans(features))
    changed = np.concatenate([features * scale + scale, np.full_like(features[:, :2], scale)], axis=1)
    scaled = estimate_directions(sum_spans(changed))
    np.testing.assert_allclose(scaled.value[:2], plain.value[:2], rtol=1e-6)
