"""Assemble a head's input from the arrays that a Reader yields."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from posenet_store.resampling import resize_to_grid
from posenet_store.specs import ALIGNED, ALIGNED_CHANNELS, GRID
from posenet_store.sweep.inputs import CORNERS, Input, reads_all_channels
from posenet_store.threads import limit_torch_to_one_thread, map_on_threads

ROWS_AT_A_TIME = 4


def assemble_input(source: Input, values: Mapping[str, NDArray[Any]]) -> Tensor:
    """Return float32 [B, channels, 28, 28] of the arrays [B, ...] that a Reader yields."""
    arrays = [torch.from_numpy(values[name]) for name in source.arrays]
    if source.kind == ALIGNED:
        arrays = [arrays[0][:, ALIGNED_CHANNELS * tap : ALIGNED_CHANNELS * (tap + 1)] for tap in source.taps]
    output = torch.empty(len(arrays[0]), source.channels, GRID, GRID)
    with limit_torch_to_one_thread() as threads:
        count = threads if reads_all_channels(source.kind) else 1  # a few channels are copied sooner than threads start
        shares = (tensor.tensor_split(count) for tensor in (output, *arrays))
        map_on_threads(lambda share: _fill(source, share[0], share[1:]), zip(*shares, strict=True), count)
    return output


@torch.inference_mode()  # threads do not inherit it, and a tensor made in it can be filled in it only
def _fill(source: Input, output: Tensor, arrays: Sequence[Tensor]) -> None:
    """Convert to float32 and resize a few rows at a time, through one buffer: many allocations would fragment the heap."""
    for tap, target in zip(arrays, output.split(source.widths, dim=1), strict=True):
        if tap.shape == target.shape:
            target.copy_(tap)
            continue
        wide = torch.empty(min(len(tap), ROWS_AT_A_TIME), *tap.shape[1:])
        for rows, resized in zip(tap.split(ROWS_AT_A_TIME), target.split(ROWS_AT_A_TIME), strict=True):
            resized.copy_(resize_to_grid(wide[: len(rows)].copy_(rows), source.kind == CORNERS))
