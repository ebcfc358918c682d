"""Assemble a head's input from the arrays that a Reader yields."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from posenet_store.resampling import resize_to_grid
from posenet_store.specs import ALIGNED, ALIGNED_CHANNELS, GRID
from posenet_store.sweep.inputs import Input, reads_all_channels
from posenet_store.threads import cached_property, limit_torch_to_one_thread, map_on_threads

ROWS_AT_A_TIME = 4


@dataclass(frozen=True)
class InputBlock:
    """Images of a block as a Reader yields them, [B, ...] an array; `block[2:5]` are some of them."""

    source: Input
    values: Mapping[str, NDArray[Any]]

    def __len__(self) -> int:
        return len(self.values[self.source.arrays[0]])

    def __getitem__(self, rows: slice) -> "InputBlock":
        return InputBlock(self.source, {name: values[rows] for name, values in self.values.items()})

    @cached_property
    def grid(self) -> Tensor:
        """The input of heads, float32 [B, channels, 28, 28]."""
        return assemble_input(self.source, self.values)

    @property
    def stored(self) -> list[Tensor]:
        """The arrays as they are stored, [B, C, h, w] each."""
        return [torch.from_numpy(self.values[name]) for name in self.source.arrays]

    @cached_property
    def taps(self) -> list[Tensor]:
        """The same as maps [B, C, m, m] of the source's `tap_shapes`: as stored, but on the grid if they are finer than it."""
        if not reads_all_channels(self.source.kind):
            return [self.grid]
        return [
            tap if tap.shape[2] == tap.shape[3] == side else _assemble(self.source, [tap])
            for tap, (_, side) in zip(self.stored, self.source.tap_shapes, strict=True)
        ]


def assemble_input(source: Input, values: Mapping[str, NDArray[Any]]) -> Tensor:
    """Return float32 [B, channels, 28, 28] of the arrays [B, ...] that a Reader yields."""
    arrays = [torch.from_numpy(values[name]) for name in source.arrays]
    if source.kind == ALIGNED:
        arrays = [arrays[0][:, ALIGNED_CHANNELS * tap : ALIGNED_CHANNELS * (tap + 1)] for tap in source.taps]
    return _assemble(source, arrays)


def _assemble(source: Input, arrays: list[Tensor]) -> Tensor:
    """Return the channels of some taps [B, C, h, w] on the grid, each thread those of some images."""
    widths = [tap.shape[1] for tap in arrays]
    output = torch.empty(len(arrays[0]), sum(widths), GRID, GRID)

    @torch.inference_mode()  # threads do not inherit it, and a tensor made in it can be filled in it only
    def fill(share: tuple[Tensor, ...]) -> None:
        for tap, target in zip(share[1:], share[0].split(widths, dim=1), strict=True):
            _copy_to_grid(tap, target, source.aligns_corners)

    with limit_torch_to_one_thread() as threads:
        count = threads if reads_all_channels(source.kind) else 1  # a few channels are copied sooner than threads start
        map_on_threads(fill, zip(*(tensor.tensor_split(count) for tensor in (output, *arrays)), strict=True), count)
    return output


def _copy_to_grid(tap: Tensor, target: Tensor, corners: bool) -> None:
    """Convert to float32 and resize a few rows at a time, through one buffer: many allocations would fragment the heap."""
    if tap.shape == target.shape:
        target.copy_(tap)
        return
    wide = torch.empty(min(len(tap), ROWS_AT_A_TIME), *tap.shape[1:])
    for rows, resized in zip(tap.split(ROWS_AT_A_TIME), target.split(ROWS_AT_A_TIME), strict=True):
        resized.copy_(resize_to_grid(wide[: len(rows)].copy_(rows), corners))
