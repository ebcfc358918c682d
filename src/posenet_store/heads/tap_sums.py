"""Sum the maps of taps over images at the size in which they are stored: what a channel's share of position is made from."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from posenet_store.threads import limit_torch_to_one_thread, map_on_threads

CHANNELS_AT_A_TIME = 16
"""Channels that a thread widens to float64 at a time: they stay in its cache."""


@dataclass(frozen=True)
class TapSums:
    """Sums over images of a tap's maps, float64: `total` [C, h, w], and `squares` [C] of their squares over positions too."""

    total: Tensor
    squares: Tensor

    def __add__(self, other: "TapSums") -> "TapSums":
        """Return the sums of two disjoint sets of images together."""
        return TapSums(self.total + other.total, self.squares + other.squares)


class TapSumAccumulator:
    """Sums the maps of taps [B, C, h, w] of any sizes, block by block."""

    def __init__(self) -> None:
        self.sums: tuple[TapSums, ...] = ()

    def add(self, taps: Sequence[Tensor]) -> None:
        """Add a block: the taps of the same images."""
        zero = torch.zeros
        if not self.sums:
            shapes = [tap.shape[1:] for tap in taps]
            self.sums = tuple(TapSums(zero(*s, dtype=torch.float64), zero(s[0], dtype=torch.float64)) for s in shapes)
        step = CHANNELS_AT_A_TIME
        parts = [
            part
            for tap, sums in zip(taps, self.sums, strict=True)
            for part in zip(tap.split(step, dim=1), sums.total.split(step), sums.squares.split(step), strict=True)
        ]
        with limit_torch_to_one_thread() as threads:
            map_on_threads(lambda part: _add_images(*part), parts, threads)


def _add_images(images: Tensor, total: Tensor, squares: Tensor) -> None:
    """Add some channels [B, c, h, w] to their sums, one image after another: the same bits on any number of threads."""
    for image in images:
        wide = image.to(torch.float32).to(torch.float64)  # half the time of one step from float16
        total += wide
        squares += torch.linalg.vector_norm(wide, dim=(1, 2)).square()  # a sixth of the time of `vecdot`
