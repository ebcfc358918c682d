"""Compute second moments of unfolded features, summed over all images or for each image separately."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache, reduce
from operator import add

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg.blas import dsyrk
from torch import Tensor

from posenet_store.errors import PosenetStoreError
from posenet_store.heads.convolution import count_positions, images_per_step, unfold_neighbourhoods
from posenet_store.threads import limit_to_one_thread, limit_torch_to_one_thread, map_on_threads

DEAD_DEVIATION = 1e-6
"""A feature is dead if its standard deviation is below 1e-6 of its root mean square: float16 resolves 5e-4."""
PRODUCT_ROWS = 8
"""Rows of every matrix product with heads or targets: products of one shape round each row alike, whatever the others."""


@dataclass
class Moments:
    """Sums over `count` samples of features minus `shift` [D]: `second` [D, D] and `position` [D, P], all float64.

    The shift (the first images' mean) avoids cancellation whatever the features' offset and scale. Moments of disjoint
    images can be added; their shifts may differ.
    """

    kernel: int
    padding: int
    shift: Tensor
    images: int
    second: Tensor
    position: Tensor

    @property
    def count(self) -> int:
        """The number of samples: images times positions."""
        return self.images * self.position.shape[1]

    @property
    def mean(self) -> Tensor:
        """The mean of the shifted features, [D]."""
        return self.position.sum(1) / self.count

    def to_tensors(self) -> dict[str, Tensor]:
        """Return the sums as named tensors, to be saved."""
        return {"shift": self.shift, "images": torch.tensor(self.images), "second": self.second, "position": self.position}

    @classmethod
    def from_tensors(cls, kernel: int, padding: int, tensors: Mapping[str, Tensor] | None) -> "Moments | None":
        """Return the moments whose `to_tensors` is `tensors`, None for None."""
        if tensors is None:
            return None
        return cls(kernel, padding, tensors["shift"], int(tensors["images"]), tensors["second"], tensors["position"])

    def select(self, features: Tensor | None) -> "Moments":
        """Return the moments of `features` (indices below D) only, of all features for None."""
        if features is None:
            return self
        second, position = self.second[features][:, features], self.position[features]
        return Moments(self.kernel, self.padding, self.shift[features], self.images, second, position)

    def shift_to(self, shift: Tensor) -> "Moments":
        """Return the moments of the same images with another shift."""
        moved = self.shift - shift
        total = self.position.sum(1)
        second = torch.addr(self.second, total + self.count * moved, moved).addr_(moved, total)
        position = self.position + self.images * moved[:, None]
        return Moments(self.kernel, self.padding, shift, self.images, second, position)

    def __add__(self, other: "Moments") -> "Moments":
        """Return the moments of two disjoint sets of images together."""
        moved, images = other.shift_to(self.shift), self.images + other.images
        second, position = moved.second.add_(self.second), moved.position.add_(self.position)
        return Moments(self.kernel, self.padding, self.shift, images, second, position)


class MomentAccumulator:
    """Sums the moments of blocks for one kernel and padding; each thread sums those of its part of the images.

    If the moments of all threads would take more than `memory` bytes there is only one sum, on BLAS's threads.
    """

    def __init__(self, kernel: int, padding: int, memory: int) -> None:
        self._kernel, self._padding, self._memory = kernel, padding, memory
        self._sums: list[Moments | None] = []

    def add(self, block: Tensor) -> None:
        """Add a block [B, C, 28, 28]."""
        kernel, channels = self._kernel, block.shape[1]
        with limit_torch_to_one_thread() as threads:
            if not self._sums:
                positions = count_positions(block, kernel, self._padding)
                self._sums = [None] * count_parallel_sums(channels * kernel**2, positions, threads, self._memory)
            if len(self._sums) == 1:
                self._sums = [self._sum(self._sums[0], block)]
            else:
                with limit_to_one_thread():
                    pairs = zip(self._sums, block.tensor_split(len(self._sums)), strict=True)
                    self._sums = map_on_threads(lambda pair: self._sum(*pair), pairs, len(self._sums))

    def _sum(self, total: Moments | None, images: Tensor) -> Moments | None:
        """Add images [n, C, 28, 28] to `total` in place, or to new moments for None."""
        kernel, padding, channels = self._kernel, self._padding, images.shape[1]
        size, positions = channels * kernel**2, count_positions(images, kernel, padding)
        step = min(len(images), images_per_step(channels, kernel, positions))
        buffer = torch.empty(size * step * positions, dtype=torch.float64)
        product = torch.empty(size, size, dtype=torch.float64) if len(self._sums) > 1 else None
        for part in images.split(step) if step else ():
            # a row has all samples of a feature
            features = buffer[: size * len(part) * positions].view(size, len(part), positions)
            unfold_neighbourhoods(part, kernel, padding, features.transpose(0, 1))
            if total is None:
                zero = features.new_zeros
                total = Moments(kernel, padding, features.mean((1, 2)), 0, zero(size, size), zero(size, positions))
            features -= total.shift[:, None, None]
            _add_square(total.second, features.flatten(1), product)
            total.position += features.sum(1)
            total.images += len(part)
        return total

    def moments(self) -> Moments | None:
        """Return the sums, None if there was no image; raises PosenetStoreError if a feature is not finite."""
        sums = [moments for moments in self._sums if moments is not None]
        if not sums:
            return None
        total = reduce(add, sums)
        if not bool(torch.isfinite(total.second).all()):
            raise PosenetStoreError("the features hold NaN or infinite values; `inspect` shows each tap's range")
        for row in range(1, len(total.second)):
            total.second[:row, row] = total.second[row, :row]
        return total


def _add_square(second: Tensor, features: Tensor, product: Tensor | None) -> None:
    """Add the product of features [D, n] and their transpose to `second` [D, D] (at least its lower triangle), in place.

    BLAS's symmetric product takes half the time of torch's general one. SciPy's adds without a copy but blocks other threads;
    NumPy's does not, but needs memory for the `product`. SciPy's is column-major, therefore the transposes.
    """
    if product is None:
        dsyrk(1.0, features.numpy().T, 1.0, second.numpy().T, trans=1, overwrite_c=1)
    else:
        second += torch.from_numpy(np.matmul(features.numpy(), features.numpy().T, out=product.numpy()))


def compute_moments(blocks: Iterable[Tensor], kernel: int, padding: int, memory: int = 0) -> Moments | None:
    """Return the moments of all blocks [B, C, 28, 28], None if there is no image (see `MomentAccumulator`)."""
    sums = MomentAccumulator(kernel, padding, memory)
    for block in blocks:
        sums.add(block)
    return sums.moments()


def count_parallel_sums(size: int, positions: int, threads: int, memory: int) -> int:
    """Return how many moments of `size` features are summed in parallel: one per thread if `memory` bytes suffice, else 1."""
    return threads if threads * (2 * size + positions) * size * 8 <= memory else 1


@cache
def make_packing_indices(size: int) -> NDArray[np.intp]:
    """Return the indices of a matrix's lower triangle, row by row, in the flattened matrix [D * D]."""
    rows, columns = np.tril_indices(size)
    return np.asarray(rows * size + columns)


@cache
def make_unpacking_indices(size: int) -> NDArray[np.intp]:
    """Return for each entry of a symmetric matrix [D, D] its index in the packed lower triangle."""
    rows, columns = np.indices((size, size))
    high = np.maximum(rows, columns)
    return np.asarray(high * (high + 1) // 2 + np.minimum(rows, columns))


@dataclass(frozen=True)
class ImageMoments:
    """Per-image sums over `positions`, float64: `second` [N, D (D + 1) / 2] and `cross` [N, targets, D]; D counts the bias.

    Second moments are packed: the rows of the lower triangle, one after another. The speed of steps depends on memory's.
    """

    second: Tensor
    cross: Tensor
    positions: int

    def select(self, features: Tensor | None) -> "ImageMoments":
        """Return the moments of `features` (indices below D, without the bias) only, of all features for None."""
        if features is None:
            return self
        size = self.cross.shape[2]
        selected = torch.cat([features, features.new_tensor([size - 1])]).numpy()
        indices = make_unpacking_indices(size)[np.ix_(selected, selected)].ravel()[make_packing_indices(len(selected))]
        return ImageMoments(self.second[:, torch.from_numpy(indices)], self.cross[:, :, selected], self.positions)


class ImageMomentAccumulator:
    """Collects the moments of `images` images for target maps [T, h, w], in one allocation; blocks come in order.

    A single thread sums each image, so its sums do not depend on the number of threads or on other images.
    """

    def __init__(self, images: int, kernel: int, padding: int, targets: Tensor) -> None:
        self._images, self._kernel, self._padding, self._added = images, kernel, padding, 0
        maps = targets.flatten(1)
        self._targets, self._positions = maps.shape
        padded = torch.cat([maps, maps.new_zeros(-len(maps) % PRODUCT_ROWS, maps.shape[1])])
        self._target_groups = [group.T.contiguous().numpy() for group in padded.split(PRODUCT_ROWS)]
        self._moments: ImageMoments | None = None

    def _next_rows(self, count: int, size: int) -> ImageMoments:
        """Return where the moments of the next `count` images belong; `size` unknowns each."""
        if self._moments is None:
            second = torch.empty(self._images, size * (size + 1) // 2, dtype=torch.float64)
            self._moments = ImageMoments(second, second.new_empty(self._images, self._targets, size), self._positions)
        self._added += count
        return self.last(count)

    def last(self, count: int) -> ImageMoments:
        """Return the moments of the last `count` images, not copied."""
        rows, moments = slice(self._added - count, self._added), self.moments()
        return ImageMoments(moments.second[rows], moments.cross[rows], self._positions)

    def append(self, second: Tensor, cross: Tensor) -> None:
        """Append moments (see `ImageMoments`) that were computed before."""
        rows = self._next_rows(len(second), cross.shape[2])
        rows.second.copy_(second)
        rows.cross.copy_(cross)

    def add(self, block: Tensor) -> None:
        """Add the images of a block [B, C, 28, 28]."""
        moments = self._next_rows(len(block), block.shape[1] * self._kernel**2 + 1)
        tensors = (block, moments.second, moments.cross)
        with limit_to_one_thread() as threads:
            parts = zip(*(tensor.tensor_split(threads) for tensor in tensors), strict=True)
            map_on_threads(lambda part: self._sum(*part), parts, threads)

    def _sum(self, images: Tensor, second: Tensor, cross: Tensor) -> None:
        """Write the moments of images [n, C, 28, 28] to `second` and `cross`."""
        size, step = cross.shape[2], images_per_step(images.shape[1], self._kernel, self._positions)
        buffer = torch.ones(min(step, len(images)), size, self._positions, dtype=torch.float64)  # the last feature is the bias
        product, lower = np.empty((size, size)), make_packing_indices(size)
        for part, seconds, crosses in zip(images.split(step), second.split(step), cross.split(step), strict=True):
            features = unfold_neighbourhoods(part, self._kernel, self._padding, buffer[: len(part)]).numpy()
            for image, image_second, image_cross in zip(features, seconds.numpy(), crosses.numpy(), strict=True):
                np.matmul(image, image.T, out=product)  # NumPy uses the symmetry and computes one half
                np.take(product, lower, out=image_second, mode="clip")
                products = np.concatenate([image @ group for group in self._target_groups], axis=1)
                image_cross[:] = products[:, : self._targets].T

    def moments(self) -> ImageMoments:
        """Return all moments; raises ValueError if there was no image."""
        if self._moments is None:
            raise ValueError("there are no moments of no image")
        return self._moments


def compute_image_moments(blocks: Iterable[Tensor], images: int, kernel: int, padding: int, targets: Tensor) -> ImageMoments:
    """Return the moments of each image of blocks [B, C, 28, 28] (`images` in all) for target maps [T, h, w].

    Raises ValueError if there is no image.
    """
    accumulator = ImageMomentAccumulator(images, kernel, padding, targets)
    for block in blocks:
        accumulator.add(block)
    return accumulator.moments()
