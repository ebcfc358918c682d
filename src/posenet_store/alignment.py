"""Bringing taps of different sizes to one 28x28 grid: the report's three channels a tap, or all channels.

`aligned` is the report's transformation (its Section 2.1, Eq. 2): each tap [C, H, W] resized *trilinearly* to
[3, 28, 28], which reads 6 of the C channels only, then concatenated. `full` keeps all channels and resizes bilinearly.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from posenet_store.specs import ALIGNED_CHANNELS, ALIGNED_SIZE


def aligned(features: Sequence[Tensor]) -> Tensor:
    """Concatenate taps [B, C, H, W] into [B, 3 * taps, 28, 28], trilinear with `align_corners=False`.

    >>> aligned([torch.ones(2, 64, 112, 112), torch.ones(2, 512, 7, 7)]).shape
    torch.Size([2, 6, 28, 28])
    """
    size = (ALIGNED_CHANNELS, ALIGNED_SIZE, ALIGNED_SIZE)
    return torch.cat([F.interpolate(f[:, None], size, mode="trilinear")[:, 0] for f in features], dim=1)


def full(features: Sequence[Tensor]) -> Tensor:
    """Concatenate taps [B, C, H, W] into [B, sum of C, 28, 28], bilinear with `align_corners=False`.

    >>> full([torch.ones(2, 64, 56, 56), torch.ones(2, 512, 7, 7)]).shape
    torch.Size([2, 576, 28, 28])
    """
    size = (ALIGNED_SIZE, ALIGNED_SIZE)
    return torch.cat([F.interpolate(f, size, mode="bilinear") for f in features], dim=1)
