"""The k x k neighbourhood of every position: as columns, or summed without making them."""

import torch
import torch.nn.functional as F
from torch import Tensor

STEP_BYTES = 4 << 20
"""Neighbourhoods are made a few images at a time: what stays in the processor's cache is multiplied twice as fast."""


def images_a_step(channels: int, kernel: int, positions: int) -> int:
    """Return how many images to unfold at a time."""
    return max(1, STEP_BYTES // (channels * kernel**2 * positions * 8))


def positions_of(inputs: Tensor, kernel: int, padding: int) -> int:
    """Return the positions of the map that a head paints on inputs [B, C, H, W]."""
    height, width = inputs.shape[2:]
    return (height + 2 * padding - kernel + 1) * (width + 2 * padding - kernel + 1)


def neighbourhoods(inputs: Tensor, kernel: int, padding: int, out: Tensor | None = None) -> Tensor:
    """Return float64 [B, C*k*k, P] of inputs [B, C, H, W], channels slowest as in a convolution's weight.

    Equal to `torch.nn.functional.unfold`, in one copy instead of three; `out` [B, at least C*k*k, P] is filled if given.

    >>> image = torch.arange(9.0).reshape(1, 1, 3, 3)
    >>> torch.equal(neighbourhoods(image, 2, 0), F.unfold(image, 2).double())
    True
    """
    padded = F.pad(inputs, (padding,) * 4) if padding else inputs
    windows = padded.unfold(2, kernel, 1).unfold(3, kernel, 1).permute(0, 1, 4, 5, 2, 3)
    images, features = len(inputs), inputs.shape[1] * kernel**2
    if out is None:
        out = inputs.new_empty((images, features, windows.shape[4] * windows.shape[5]), dtype=torch.float64)
    out[:, :features].view(windows.shape).copy_(windows)
    return out


def gathered(inputs: Tensor, maps: Tensor, kernel: int, padding: int) -> Tensor:
    """Return [n, C, k, k]: all neighbourhoods of inputs [B, C, H, W] summed, weighted by maps [B, n, h, w]; none is made.

    The transpose of a convolution by heads [n, C, k, k], whose gradient with respect to them it is:

    >>> image, heads, maps = torch.ones(1, 2, 3, 3), torch.ones(1, 2, 2, 2), torch.ones(1, 1, 4, 4)
    >>> bool((F.conv2d(image, heads, padding=1) * maps).sum() == (gathered(image, maps, 2, 1) * heads).sum())
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
