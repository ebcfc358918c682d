"""Resample taps of different sizes to the 28x28 grid: the report's three channels per tap, or all channels.

`align_taps` is the report's transformation (its Section 2.1, Eq. 2): each tap [C, H, W] is resized *trilinearly* to
[3, 28, 28], which uses only 6 of the C channels, and the taps are concatenated. `resize_to_grid` resizes all channels
bilinearly.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from posenet_store.specs import ALIGNED, ALIGNED_CHANNELS, CORNERS_SUFFIX, GRID, TOKENS_SUFFIX


def align_taps(features: Sequence[Tensor]) -> Tensor:
    """Concatenate taps [B, C, H, W] into [B, 3 * taps, 28, 28], trilinear with `align_corners=False`.

    >>> align_taps([torch.ones(2, 64, 112, 112), torch.ones(2, 512, 7, 7)]).shape
    torch.Size([2, 6, 28, 28])
    """
    size = (ALIGNED_CHANNELS, GRID, GRID)
    return torch.cat([F.interpolate(tap[:, None], size, mode="trilinear")[:, 0] for tap in features], dim=1)


def resize_to_grid(feature: Tensor, corners: bool) -> Tensor:
    """Resize one tap [B, C, H, W] bilinearly to [B, C, 28, 28]; `corners` is PyTorch's `align_corners`.

    The official code aligns corners (`models/decoder.py`), the report does not. A tap that is on the grid already does not
    change; layout `readout` relies on that.

    >>> resize_to_grid(torch.ones(2, 64, 56, 56), corners=True).shape
    torch.Size([2, 64, 28, 28])
    """
    return F.interpolate(feature, (GRID, GRID), mode="bilinear", align_corners=corners)


def resample_taps(taps: Mapping[str, Tensor], arrays: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Return a store's `arrays` (name -> [C, H, W], see `StoreSpec.arrays`) from a network's taps in order of depth.

    Tokens [B, N, C] stay as they are.
    """

    def resample(name: str, shape: tuple[int, ...]) -> Tensor:
        if name == ALIGNED:
            return align_taps([tap for key, tap in taps.items() if not key.endswith(TOKENS_SUFFIX)])
        tap = taps[name.removesuffix(CORNERS_SUFFIX)]
        return tap if tuple(tap.shape[1:]) == shape else resize_to_grid(tap, name.endswith(CORNERS_SUFFIX))

    return {name: resample(name, shape) for name, shape in arrays.items()}


def make_grid_matrix(side: int, corners: bool) -> Tensor:
    """Return the matrix A, float64 [28, side], with which `resize_to_grid` of maps X of that side is A X A'.

    >>> tap = torch.rand(1, 1, 7, 7, dtype=torch.float64)
    >>> a = make_grid_matrix(7, corners=False)
    >>> torch.allclose(a @ tap @ a.T, resize_to_grid(tap, corners=False), rtol=1e-12)
    True
    """
    columns = torch.eye(side, dtype=torch.float64)[None, :, :, None]
    return resize_to_grid(columns, corners)[0, :, :, 0].T
