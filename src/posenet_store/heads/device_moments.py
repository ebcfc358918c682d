"""Sum second moments on a device such as a GPU, in float64 whatever a store holds: as on the CPU but for the last bits.

A GPU multiplies while the CPU decodes the next block: nothing here waits for it before sums are asked for. If its memory runs
out, it gets half as many images at a time.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from posenet_store.errors import PosenetStoreError, first_line, is_out_of_memory
from posenet_store.heads.moments import ImageMomentAccumulator, Moments, check_and_mirror, make_packing_indices
from posenet_store.resampling import make_grid_matrix
from posenet_store.specs import GRID

STEP_BYTES = 256 << 20
"""Bytes of the features that are multiplied at a time; while they are made, three times as many are held."""


def move_moments(moments: Moments, device: torch.device) -> Moments:
    """Return the moments on a device, or back on the CPU."""
    shift, second, position = (sums.to(device) for sums in (moments.shift, moments.second, moments.position))
    return replace(moments, shift=shift, second=second, position=position)


def count_images_of_device(features: int) -> int:
    """Return how many images of so many features a position to give to a device at a time."""
    return max(1, STEP_BYTES // (8 * features * GRID**2))


class _Steps:
    """Gives images to a device, at most `limit` at a time, half as many once its memory has run out."""

    def __init__(self, device: torch.device, limit: int) -> None:
        self._device, self._limit = device, max(1, limit)
        self._shortage = ""

    def run(self, tensors: Sequence[Tensor], work: Callable[[list[Tensor], slice], None]) -> None:
        """Call `work(tensors, rows)` with the same rows of all tensors, on the device, until all are done.

        Before it changes anything, `work` must have the memory that it needs. Raises PosenetStoreError if it does not
        suffice for one image.
        """
        first = 0
        while first < len(tensors[0]):
            rows = slice(first, min(first + self._limit, len(tensors[0])))
            if self._try([tensor[rows] for tensor in tensors], rows, work):
                first = rows.stop
            elif rows.stop - first == 1:
                raise PosenetStoreError(
                    f"the memory of {self._device} does not suffice for the sums of one image ({self._shortage}); "
                    "free some, or --device cpu"
                )
            else:
                self._limit = (rows.stop - first) // 2
                if self._device.type == "cuda":
                    torch.cuda.empty_cache()

    def _try(self, tensors: Sequence[Tensor], rows: slice, work: Callable[[list[Tensor], slice], None]) -> bool:
        """Return False if memory ran out; the memory of the attempt is free by then."""
        try:
            work([tensor.to(self._device) for tensor in tensors], rows)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            self._shortage = first_line(error)
            return False
        return True


class DeviceMomentAccumulator:
    """Sums the moments of blocks of inputs, or of taps [B, C, m, m] of at most 28x28; `corners` is as in `resize_to_grid`."""

    def __init__(self, device: torch.device, kernel: int, padding: int, corners: bool = False) -> None:
        self._device, self._kernel, self._padding, self._corners = device, kernel, padding, corners
        self._steps: _Steps | None = None
        self._total: Moments | None = None

    def add(self, taps: Sequence[Tensor]) -> None:
        """Add a block: the taps of the same images."""
        if self._steps is None:
            features = sum(tap.shape[1] for tap in taps) * self._kernel**2
            self._steps = _Steps(self._device, count_images_of_device(features))
        self._steps.run(taps, self._sum)

    def _sum(self, taps: Sequence[Tensor], rows: slice) -> None:
        """Add a few images, on the device."""
        images = torch.cat([self._resize(tap.to(torch.float64)) for tap in taps], dim=1)
        features = (
            unfold(images, self._kernel, self._padding).transpose(0, 1).contiguous()
        )  # a row has all samples of a feature
        if self._total is None:
            size, positions = features.shape[0], features.shape[2]
            zero = features.new_zeros
            shift = features.mean((1, 2))
            self._total = Moments(self._kernel, self._padding, shift, 0, zero(size, size), zero(size, positions))
        total = self._total
        features -= total.shift[:, None, None]
        position, samples = features.sum(1), features.flatten(1)
        total.second.addmm_(samples, samples.T)
        total.position += position
        total.images += len(images)

    def _resize(self, tap: Tensor) -> Tensor:
        """Return a tap on the grid."""
        if tap.shape[2] == GRID:
            return tap
        matrix = make_grid_matrix(tap.shape[2], self._corners).to(self._device)
        return matrix @ tap @ matrix.T

    def wait(self) -> None:
        """Wait until the device has added everything."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def moments(self) -> Moments | None:
        """Return the sums on the CPU, None if there was no image; raises PosenetStoreError if a feature is not finite."""
        if self._total is None:
            return None
        moments = move_moments(self._total, torch.device("cpu"))
        check_and_mirror(moments.second)
        return moments


class DeviceImageMomentAccumulator(ImageMomentAccumulator):
    """Collects the moments of each image on the CPU, which a device has summed."""

    def __init__(self, device: torch.device, images: int, kernel: int, padding: int, targets: Tensor) -> None:
        super().__init__(images, kernel, padding, targets)
        self._device, self._maps = device, targets.flatten(1).T.to(device, torch.float64)
        self._steps: _Steps | None = None

    def add(self, block: Tensor) -> None:
        """Add the images of a block [B, C, 28, 28]."""
        size = block.shape[1] * self._kernel**2 + 1
        moments, lower = self._next_rows(len(block), size), torch.from_numpy(make_packing_indices(size)).to(self._device)
        if self._steps is None:
            self._steps = _Steps(self._device, STEP_BYTES // (8 * size * max(size, self._positions)))

        def multiply(blocks: list[Tensor], rows: slice) -> None:
            images = unfold(blocks[0].to(torch.float64), self._kernel, self._padding)
            features = torch.cat([images, images.new_ones(len(images), 1, self._positions)], dim=1)
            moments.second[rows] = (features @ features.mT).flatten(1)[:, lower].cpu()
            moments.cross[rows] = (features @ self._maps).mT.cpu()

        self._steps.run([block], multiply)


def unfold(images: Tensor, kernel: int, padding: int) -> Tensor:
    """Return the neighbourhoods [B, C*k*k, P] of images [B, C, H, W], on their device."""
    return images.flatten(2) if (kernel, padding) == (1, 0) else F.unfold(images, kernel, padding=padding)
