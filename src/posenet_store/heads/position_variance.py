"""Estimate how much of a channel's variance is position, without bias, from sums over spans of images.

With x(i, p) the feature of image i at position p, mu(p) its mean over images and mu that over positions too:

    total     T = mean over images and positions of (x(i, p) - mu)^2
    position  B = mean over positions of (mu(p) - mu)^2
    share     B / T, the eta squared of a one-way analysis of variance whose groups are the positions

The mean map of some images varies about mu(p), so that its own B is too large, by an amount that depends on how an image's
positions are correlated. Products of the mean maps of *different* spans of images have no such part: their mean over all pairs,
weighted by images, is a U-statistic (Hoeffding, Annals of Mathematical Statistics 19, 1948) and unbiased, whatever the
correlation. So is mu^2, and with it T. An estimate can come out slightly below 0.

Images are the unit: standard errors are those of the jackknife over spans, which are random groups of images, of unequal size
(Busing, Meijer and van der Leeden, Statistics and Computing 9, 1999); intervals are Student's t with one degree of freedom less
than spans.
"""

from dataclasses import dataclass

import numpy as np
from numpy import float64
from numpy.typing import NDArray

from posenet_store.heads.sizes import DEAD_DEVIATION

Floats = NDArray[float64]
PARTS = ("x", "y", "|x|", "|y|")
"""Maps along which position is split: which side, and how far from the middle, across and down."""
SHARES = ("position", *PARTS, "rest")
LEVEL = 0.05
"""The risk of error of the intervals."""
FLIPS = 9_999


@dataclass(frozen=True)
class SpanMaps:
    """Sums of K spans of images: `images` [K], `maps` [K, C, h, w], and `squares` [K, C] over positions too; float64."""

    images: Floats
    maps: Floats
    squares: Floats


@dataclass(frozen=True)
class Estimates:
    """Numbers with their 95 % bounds, arrays of one shape."""

    value: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True)
class PositionShares:
    """Shares of variance [C, 6] in the order of SHARES, and the same without each span, `without` [K, C, 6].

    `live` [C] tells channels that vary; the shares of others are 0. `images` [K] are those of the spans, and `products` [K, K]
    those of their mean maps, standardised and summed over channels.
    """

    images: Floats
    shares: Floats
    without: Floats
    live: NDArray[np.bool_]
    products: Floats

    def of_channels(self) -> Estimates:
        """Return each channel's shares with their intervals, [C, 6]."""
        return estimate_by_jackknife(self.shares, self.without, self.images)

    def average(self) -> Estimates:
        """Return the mean shares of the live channels with their intervals, [6]; NaN without a live channel."""
        if not self.live.any():
            nothing = np.full(len(SHARES), np.nan)
            return Estimates(nothing, nothing, nothing)
        return estimate_by_jackknife(self.shares[self.live].mean(axis=0), self.without[:, self.live].mean(axis=1), self.images)

    def find_p(self) -> float:
        """Return the p of no position in any channel: how often spans with random signs agree as well as they do.

        Without position the centred mean maps of spans are symmetric about 0, as sums of many images are; then any signs are
        as probable as those observed (Fisher's randomisation test). One-sided, 9,999 seeded draws and the observed signs.
        """
        signs = np.random.default_rng(0).choice([-1.0, 1.0], (FLIPS, len(self.products)))
        flipped = (signs @ self.products * signs).sum(axis=1)
        return float((1 + (flipped >= self.products.sum() - 1e-12 * abs(self.products).sum()).sum()) / (1 + FLIPS))


def make_position_maps(height: int, width: int) -> Floats:
    """Return the maps x, y, |x|, |y| [4, h, w] of mean 0 and mean square 1; a map that is constant at this size is 0.

    They need no order and share nothing: on a rectangle an odd map of one side is orthogonal to every even one, and maps of
    different sides without their means are orthogonal.

    >>> maps = make_position_maps(5, 7).reshape(4, -1)
    >>> np.abs(maps @ maps.T / 35 - np.eye(4)).max() < 1e-15
    np.True_
    """
    across, down = (
        np.linspace(-1, 1, width) if width > 1 else np.zeros(1),
        np.linspace(-1, 1, height) if height > 1 else np.zeros(1),
    )
    axes = across[None, :], down[:, None], np.abs(across)[None, :], np.abs(down)[:, None]
    maps = np.stack([np.broadcast_to(axis - axis.mean(), (height, width)) for axis in axes])
    size = np.sqrt((maps**2).mean(axis=(1, 2), keepdims=True))
    return np.asarray(np.divide(maps, size, out=np.zeros_like(maps), where=size > 1e-9))


def estimate_position_shares(spans: SpanMaps) -> PositionShares:
    """Estimate each channel's shares of variance; needs at least three spans with images, so that one can be left out."""
    count, channels, height, width = spans.maps.shape
    maps = spans.maps.reshape(count, channels, -1).transpose(1, 0, 2)
    means = maps.mean(axis=2)  # [C, K], summed over images as all here
    centred = maps - means[:, :, None]
    basis = make_position_maps(height, width).reshape(len(PARTS), -1)
    along = (centred @ basis.T / maps.shape[2]).transpose(0, 2, 1)  # [C, 4, K]
    products = centred @ centred.transpose(0, 2, 1) / maps.shape[2]
    pairs, single = _list_weights(spans.images)
    square = spans.squares.T / maps.shape[2] @ single
    total = square - _pair(means).reshape(channels, -1) @ pairs
    position = products.reshape(channels, -1) @ pairs
    parts = _pair(along).reshape(channels, len(PARTS), -1) @ pairs
    live = total[:, 0] > DEAD_DEVIATION**2 * square[:, 0]
    shares = np.concatenate([position[:, None], parts, (position - parts.sum(axis=1))[:, None]], axis=1)
    divisor = np.broadcast_to(total[:, None], shares.shape)
    shares = np.divide(shares, divisor, out=np.zeros_like(shares), where=(divisor > 0) & live[:, None, None])
    standardised = (products[live] / total[live, :1, None]).sum(axis=0)
    return PositionShares(spans.images, shares[:, :, 0], shares[:, :, 1:].transpose(2, 0, 1), live, standardised)


def _pair(values: Floats) -> Floats:
    """Return the products of the values [..., K] of all pairs of spans, [..., K * K]."""
    return np.asarray((values[..., :, None] * values[..., None, :]).reshape(*values.shape[:-1], -1))


def _list_weights(images: Floats) -> tuple[Floats, Floats]:
    """Return what averages sums over pairs of different spans, [K * K, 1 + K], and over spans, [K, 1 + K].

    The first column is of all spans, each other without one of them.
    """
    count = len(images)
    taken = np.concatenate([np.ones((1, count)), 1 - np.eye(count)])
    pairs = taken[:, :, None] * taken[:, None, :] * (1 - np.eye(count))
    pairs /= (pairs * np.outer(images, images)).sum(axis=(1, 2), keepdims=True)
    return pairs.reshape(1 + count, -1).T, (taken / (taken @ images)[:, None]).T


def estimate_by_jackknife(value: Floats, without: Floats, images: Floats) -> Estimates:
    """Return a statistic [...] with its interval, from its values without each span of so many `images`, [K, ...].

    For spans of one size this is the usual jackknife; of unequal ones Busing et al.'s (their Eq. 8).
    """
    from scipy.special import stdtrit

    count = len(images)
    sizes = (images.sum() / images).reshape(-1, *[1] * value.ndim)
    pseudo = sizes * value - (sizes - 1) * without
    corrected = count * value - ((1 - 1 / sizes) * without).sum(axis=0)
    variance = ((pseudo - corrected) ** 2 / (sizes - 1)).sum(axis=0) / count
    margin = float(stdtrit(count - 1, 1 - LEVEL / 2)) * np.sqrt(variance)
    return Estimates(value, value - margin, value + margin)
