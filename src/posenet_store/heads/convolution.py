"""The k x k neighbourhood of every position: as columns, or summed without making them."""

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

STEP_BYTES = 4 << 20
"""Bytes unfolded at a time: a few images, since what stays in the CPU's cache is multiplied twice as fast."""


def images_per_step(channels: int, kernel: int, positions: int) -> int:
    """Return how many images to unfold at a time."""
    return max(1, STEP_BYTES // (channels * kernel**2 * positions * 8))


def count_positions(inputs: Tensor, kernel: int, padding: int) -> int:
    """Return the positions of the map that a head predicts from inputs [B, C, H, W]."""
    height, width = inputs.shape[2:]
    return (height + 2 * padding - kernel + 1) * (width + 2 * padding - kernel + 1)


def unfold_neighbourhoods(inputs: Tensor, kernel: int, padding: int, out: Tensor | None = None) -> Tensor:
    """Return float64 [B, C*k*k, P] of inputs [B, C, H, W], channels slowest as in a convolution's weight.

    Equal to `torch.nn.functional.unfold`, in one copy instead of three; `out` [B, at least C*k*k, P] is filled if given.

    >>> image = torch.arange(9.0).reshape(1, 1, 3, 3)
    >>> torch.equal(unfold_neighbourhoods(image, 2, 0), F.unfold(image, 2).double())
    True
    """
    padded = F.pad(inputs, (padding,) * 4) if padding else inputs
    windows = padded.unfold(2, kernel, 1).unfold(3, kernel, 1).permute(0, 1, 4, 5, 2, 3)
    images, features = len(inputs), inputs.shape[1] * kernel**2
    if out is None:
        out = inputs.new_empty((images, features, windows.shape[4] * windows.shape[5]), dtype=torch.float64)
    out[:, :features].view(windows.shape).copy_(windows)
    return out


def sum_neighbourhoods(inputs: Tensor, maps: Tensor, kernel: int, padding: int) -> Tensor:
    """Return [n, C, k, k]: all neighbourhoods of inputs [B, C, H, W] summed, weighted by maps [B, n, h, w]; none is made.

    The transpose of a convolution by heads [n, C, k, k], whose gradient with respect to them it is:

    >>> image, heads, maps = torch.ones(1, 2, 3, 3), torch.ones(1, 2, 2, 2), torch.ones(1, 1, 4, 4)
    >>> bool((F.conv2d(image, heads, padding=1) * maps).sum() == (sum_neighbourhoods(image, maps, 2, 1) * heads).sum())
    True
    """
    images, heads, size, _ = maps.shape
    side = inputs.shape[2] + 2 * padding
    spread = inputs.new_zeros(images, heads, kernel, kernel, side, side)
    for row in range(kernel):
        for column in range(kernel):
            spread[:, :, row, column, row : row + size, column : column + size] = maps
    inner = spread[..., padding : side - padding, padding : side - padding].reshape(images, heads * kernel**2, -1)
    return (inner @ inputs.flatten(2).transpose(1, 2)).sum(0).view(heads, kernel, kernel, -1).permute(0, 3, 1, 2)


WIDE_CHANNELS = 256
"""Channels from which on a convolution is faster as one product and shifted sums."""


@cache
def make_upsampling_matrix(small: int, large: int) -> Tensor:
    """Return the matrix A, float64 [large, small], that makes `A map A'` torch's bilinear resize (`align_corners=False`).

    >>> one = torch.rand(1, 1, 26, 26, dtype=torch.float64)
    >>> a = make_upsampling_matrix(26, 224)
    >>> torch.allclose(a @ one @ a.T, F.interpolate(one, (224, 224), mode="bilinear"), rtol=1e-12)
    True
    """
    eye = torch.eye(small, dtype=torch.float64)
    return F.interpolate(eye[None, None], (large, small), mode="bilinear")[0, 0]


def convolve(inputs: Tensor, weight: Tensor, bias: Tensor, padding: int) -> Tensor:
    """Return `torch.nn.functional.conv2d` of inputs [B, C, H, W] by weight [n, C, k, k], quickly for many channels.

    A few maps of a thousand channels are one product of all k * k weights with the inputs as they lie, then k * k shifted
    sums of small maps. torch copies each position's neighbourhood first, which is k * k times the input: five times slower.

    >>> x, w, b = torch.rand(2, 96, 9, 9, dtype=torch.float64), torch.rand(3, 96, 3, 3, dtype=torch.float64), torch.rand(3)
    >>> torch.allclose(convolve(x, w, b.double(), 1), F.conv2d(x, w, b.double(), padding=1), rtol=1e-12)
    True
    """
    outputs, channels, kernel, _ = weight.shape
    if channels < WIDE_CHANNELS or kernel == 1:
        return F.conv2d(inputs, weight, bias, padding=padding)
    padded = F.pad(inputs, (padding,) * 4) if padding else inputs
    images, _, height, width = padded.shape
    products = weight.permute(2, 3, 0, 1).reshape(-1, channels) @ padded.flatten(2)
    maps = products.view(images, kernel, kernel, outputs, height, width)
    rows, columns = height - kernel + 1, width - kernel + 1
    shifts = [maps[:, y, x, :, y : y + rows, x : x + columns] for y in range(kernel) for x in range(kernel)]
    return torch.stack(shifts).sum(dim=0) + bias[:, None, None]


def convolve_groups(inputs: Tensor, weight: Tensor, bias: Tensor, padding: int, groups: int) -> Tensor:
    """Return `convolve` inputs if there is one group, else `conv2d` of each head's own channels."""
    if groups == 1:
        return convolve(inputs, weight, bias, padding)
    return F.conv2d(inputs, weight, bias, padding=padding, groups=groups)
