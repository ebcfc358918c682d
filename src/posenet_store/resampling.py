"""Bringing taps of different sizes to one 28x28 grid: the report's three channels a tap, or all channels on one of two grids.

`align_taps` is the report's transformation (its Section 2.1, Eq. 2): each tap [C, H, W] resized *trilinearly* to
[3, 28, 28], which reads 6 of the C channels only, then concatenated. `resize_to_grid` resizes all
channels bilinearly.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from posenet_store.specs import ALIGNED, ALIGNED_CHANNELS, CORNERS_SUFFIX, GRID


def align_taps(features: Sequence[Tensor]) -> Tensor:
    """Concatenate taps [B, C, H, W] into [B, 3 * taps, 28, 28], trilinear with `align_corners=False`.

    >>> align_taps([torch.ones(2, 64, 112, 112), torch.ones(2, 512, 7, 7)]).shape
    torch.Size([2, 6, 28, 28])
    """
    size = (ALIGNED_CHANNELS, GRID, GRID)
    return torch.cat([F.interpolate(f[:, None], size, mode="trilinear")[:, 0] for f in features], dim=1)


def resize_to_grid(feature: Tensor, corners: bool) -> Tensor:
    """Resize one tap [B, C, H, W] bilinearly to [B, C, 28, 28]; `corners` is PyTorch's `align_corners`.

    Aligned corners are the official code's (`models/decoder.py`), the other grid is the report's, for all channels.
    A tap on the grid already is returned as it is, which is what makes a store of layout `readout` possible.

    >>> resize_to_grid(torch.ones(2, 64, 56, 56), corners=True).shape
    torch.Size([2, 64, 28, 28])
    """
    return F.interpolate(feature, (GRID, GRID), mode="bilinear", align_corners=corners)


def resample_taps(taps: Mapping[str, Tensor], arrays: Mapping[str, tuple[int, int, int]]) -> dict[str, Tensor]:
    """Return a store's `arrays` (name -> [C, H, W], see `StoreSpec.arrays`) from the taps of a network, in order of depth."""

    def made(name: str, shape: tuple[int, int, int]) -> Tensor:
        if name == ALIGNED:
            return align_taps(list(taps.values()))
        tap = taps[name.removesuffix(CORNERS_SUFFIX)]
        return tap if tuple(tap.shape[1:]) == shape else resize_to_grid(tap, name.endswith(CORNERS_SUFFIX))

    return {name: made(name, shape) for name, shape in arrays.items()}
