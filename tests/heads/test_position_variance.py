"""Shares of variance that are position, against their definition, and against simulations with a known share."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from posenet_store.heads.position_variance import (
    PARTS,
    SHARES,
    SpanMaps,
    estimate_by_jackknife,
    estimate_position_shares,
    make_position_maps,
)

Maps = NDArray[np.float64]


def draw_maps(images: int, share: float, side: int = 12, channels: int = 3, seed: int = 0, smooth: float = 1.5) -> Maps:
    """Return smooth maps [N, C, h, h] of variance 1, of which the share is the position map x + |y|."""
    draw = np.random.default_rng(seed)
    noise = gaussian_filter(draw.normal(size=(images, channels, side, side)), (0, 0, smooth, smooth), mode="wrap")
    basis = make_position_maps(side, side)
    position = (basis[0] + basis[3]) / np.sqrt(2)
    return np.asarray(np.sqrt(1 - share) * noise / noise.std() + np.sqrt(share) * position)


def sum_spans(maps: Maps, spans: int) -> SpanMaps:
    parts = np.array_split(maps, spans)
    return SpanMaps(
        np.array([float(len(part)) for part in parts]),
        np.stack([part.sum(axis=0) for part in parts]),
        np.stack([(part**2).sum(axis=(0, 2, 3)) for part in parts]),
    )


def test_shares_are_those_of_their_definition() -> None:
    """With one image a span, products of different images only: the sums are computed here pair by pair."""
    maps = draw_maps(7, 0.3, side=5) * np.array([1.0, 1e6, 1e-4])[:, None, None] + 3
    shares = estimate_position_shares(sum_spans(maps, 7))
    centred = maps - maps.mean(axis=(2, 3), keepdims=True)
    basis = make_position_maps(5, 5)
    for channel in range(3):
        pairs = [(i, j) for i in range(7) for j in range(7) if i != j]
        position = np.mean([(centred[i, channel] * centred[j, channel]).mean() for i, j in pairs])
        square = np.mean([maps[i, channel].mean() * maps[j, channel].mean() for i, j in pairs])
        total = (maps[:, channel] ** 2).mean() - square
        along = [
            np.mean([(centred[i, channel] * b).mean() * (centred[j, channel] * b).mean() for i, j in pairs]) for b in basis
        ]
        expected = np.array([position, *along, position - sum(along)]) / total
        np.testing.assert_allclose(shares.shares[channel], expected, rtol=1e-6, atol=1e-9)


def test_of_endless_images_it_is_eta_squared() -> None:
    """Of maps that are the same in every span nothing is sampled: the naive eta squared of numpy is the answer."""
    maps = np.tile(draw_maps(4, 0.4, side=6), (6, 1, 1, 1))
    shares = estimate_position_shares(sum_spans(maps, 6))
    mean = maps.mean(axis=0)
    expected = mean.var(axis=(1, 2)) / maps.var(axis=(0, 2, 3))
    np.testing.assert_allclose(shares.shares[:, 0], expected, rtol=1e-12)
    assert np.abs(shares.without - shares.shares).max() < 1e-12


def test_the_parts_are_orthogonal_at_any_size_and_add_up() -> None:
    for height, width in ((28, 28), (7, 5), (2, 9), (1, 1), (112, 56)):
        basis = make_position_maps(height, width).reshape(len(PARTS), -1)
        products = basis @ basis.T / basis.shape[1]
        assert np.abs(products - np.diag(np.diag(products))).max() < 1e-12
        assert np.allclose(np.diag(products).round(12) % 1, 0)
    shares = estimate_position_shares(sum_spans(draw_maps(40, 0.3), 10)).shares
    np.testing.assert_allclose(shares[:, 1:].sum(axis=1), shares[:, 0], rtol=1e-12)
    assert SHARES[1:-1] == PARTS


@pytest.mark.parametrize("share", [0.0, 0.02, 0.3])
def test_it_is_without_bias_where_the_naive_share_is_not(share: float) -> None:
    """Four standard errors of the mean over 200 sets; the naive share of so few images is too large by ten times that."""
    ours, naive = [], []
    for seed in range(200):
        maps = draw_maps(12, share, channels=1, seed=seed)
        ours.append(estimate_position_shares(sum_spans(maps, 6)).shares[0, 0])
        naive.append(maps.mean(axis=0).var() / maps.var())
    error = np.std(ours) / np.sqrt(len(ours))
    assert abs(np.mean(ours) - share) < 4 * error + 0.003 * share
    assert np.mean(naive) - share > 10 * error


def test_the_jackknife_of_a_mean_is_its_standard_error() -> None:
    """Of spans of one image the jackknife of a mean is the t interval, which the textbook gives."""
    values = np.random.default_rng(0).normal(size=9)
    without = np.array([np.delete(values, i).mean() for i in range(9)])
    estimates = estimate_by_jackknife(np.array(values.mean()), without, np.ones(9))
    half = 2.306004135 * values.std(ddof=1) / 3  # t of 8 degrees of freedom
    np.testing.assert_allclose(estimates.high - estimates.value, half, rtol=1e-8)


def test_intervals_and_p_hold_their_level() -> None:
    """Two hundred sets: four standard errors of a rate of .05 are .06; the page's simulation is in benchmarks."""
    covered, rejected = 0, 0
    for seed in range(200):
        shares = estimate_position_shares(sum_spans(draw_maps(60, 0.05, side=8, channels=4, seed=seed), 20))
        mean = shares.average()
        covered += mean.low[0] <= 0.05 <= mean.high[0]
        rejected += estimate_position_shares(sum_spans(draw_maps(60, 0.0, side=8, seed=seed), 20)).find_p() < 0.05
    assert covered >= 0.89 * 200
    assert rejected <= 0.11 * 200


def test_dead_channels_are_left_out() -> None:
    maps = draw_maps(20, 0.3)
    alone = estimate_position_shares(sum_spans(maps[:, 1:2], 10))
    maps[:, 0], maps[:, 2] = 0, 7.25
    shares = estimate_position_shares(sum_spans(maps, 10))
    assert shares.live.tolist() == [False, True, False]
    np.testing.assert_allclose(shares.average().value, alone.average().value, rtol=1e-9)
    assert (shares.shares[[0, 2]] == 0).all()
    dead = estimate_position_shares(sum_spans(maps[:, :1], 10))
    assert np.isnan(dead.average().value).all()
    assert dead.find_p() == 1
