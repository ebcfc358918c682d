"""Smooth maps and features whose position is known, which the simulation of tests and intervals draws."""

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.fft import next_fast_len

from posenet_store.heads.moments import Moments, compute_moments
from posenet_store.heads.position_variance import make_position_maps
from posenet_store.heads.targets import make_target_map

SIDE, CHANNELS = 14, 6
KINDS = {"rough": 1.0, "smooth": 3.0}
"""Deviations of the Gaussian filter, in positions."""
SHARED = 0.8
"""The correlation of what two heads predict of one image, position apart."""
Maps = NDArray[np.float64]


def draw_noise(draw: np.random.Generator, shape: tuple[int, ...], kind: str, side: int = SIDE) -> Maps:
    """Return Gaussian noise [*shape, side, side] of variance 1, smoothed: windows of periodic maps whose edges do not meet."""
    deviation = KINDS[kind] * side / SIDE
    wide = next_fast_len(side + round(5 * deviation))
    down, across = np.fft.fftfreq(wide)[:, None], np.fft.rfftfreq(wide)[None]
    spectrum = np.exp(-2 * (np.pi * deviation) ** 2 * (down**2 + across**2)).astype(np.float32)
    point = np.fft.irfft2(spectrum, s=(wide, wide))  # of which every position is a weighted sum
    white = np.fft.rfft2(draw.standard_normal((*shape, wide, wide), np.float32))
    noise = np.fft.irfft2(white * (spectrum / np.sqrt((point**2).sum())), s=(wide, wide))
    return noise[..., :side, :side].astype(np.float64)


def draw_features(draw: np.random.Generator, images: int, kind: str, share: float) -> Maps:
    """Return features [N, C, h, h] of which that share of the variance is position, x and |y| in equal parts.

    The channels of an image are correlated, and some images have larger features.
    """
    noise = draw_noise(draw, (images, CHANNELS), kind)
    noise[:, 1:] = (noise[:, 1:] + noise[:, :1]) / np.sqrt(2)
    noise *= _draw_sizes(draw, images)
    basis = make_position_maps(SIDE, SIDE)
    return np.asarray(np.sqrt(1 - share) * noise + np.sqrt(share / 2) * (basis[0] + basis[3]))


def draw_predictions(draw: np.random.Generator, images: int, kind: str, strengths: list[float], side: int = SIDE) -> list[Maps]:
    """Return what heads predict of H for the same images, [N, h, h] each: a strength times the standardised target, and noise.

    The heads' noise is correlated; a tenth of its deviation is the target's range.
    """
    target = make_target_map("H", side)
    standard = (target - target.mean()) / target.std()
    shared, own = draw_noise(draw, (images,), kind, side), draw_noise(draw, (len(strengths), images), kind, side)
    sizes = _draw_sizes(draw, images)[:, 0]
    noise = [sizes * (np.sqrt(SHARED) * shared + np.sqrt(1 - SHARED) * of_head) for of_head in own]
    return [target.mean() + 0.1 * (of_head + strength * standard) for of_head, strength in zip(noise, strengths, strict=True)]


def _draw_sizes(draw: np.random.Generator, images: int) -> Maps:
    """Return how large each image's features are, [N, 1, 1, 1], of mean square 1."""
    return np.asarray(draw.gamma(4.0, 0.25, (images, 1, 1, 1)) / np.sqrt(1.25))  # its mean square is 1 + 1 / 4


def sum_moments(features: Maps) -> Moments:
    """Return the moments of features [N, C, h, h] of at least one image."""
    moments = compute_moments([torch.from_numpy(features)], 1, 0)
    if moments is None:
        raise ValueError("there is no image")
    return moments


def predict(features: Maps, weight: torch.Tensor, bias: torch.Tensor) -> Maps:
    """Return the maps [N, h, h] of a head of kernel 1."""
    return np.asarray(np.einsum("c,nchw->nhw", weight.flatten().numpy(), features) + float(bias))
