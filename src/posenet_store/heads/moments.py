"""Compute second moments of unfolded features, summed over all images or for each image separately."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from operator import add

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from posenet_store.errors import PosenetStoreError
from posenet_store.heads.convolution import count_positions, images_per_step, unfold_neighbourhoods
from posenet_store.heads.products import Tile, add_products, count_images_per_product, cut_rows, list_pairs
from posenet_store.heads.tap_sums import TapSums
from posenet_store.threads import limit_to_one_thread, map_on_threads

PRODUCT_ROWS = 8
"""Rows of every matrix product with heads or targets: products of one shape round each row alike, whatever the others."""


@dataclass
class Moments:
    """Sums over `count` samples of features minus `shift` [D]: `second` [D, D] and `position` [D, P], all float64.

    The shift (the first images' mean) avoids cancellation whatever the features' offset and scale. Moments of disjoint
    images can be added; their shifts may differ. Those of all channels also have `taps`: sums of each tap at its own size.
    """

    kernel: int
    padding: int
    shift: Tensor
    images: int
    second: Tensor
    position: Tensor
    taps: tuple[TapSums, ...] = ()

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
        of_taps = {f"{name}{number}": sums for number, tap in enumerate(self.taps) for name, sums in vars(tap).items()}
        total = {"shift": self.shift, "images": torch.tensor(self.images), "second": self.second, "position": self.position}
        return total | of_taps

    @classmethod
    def from_tensors(cls, kernel: int, padding: int, tensors: Mapping[str, Tensor] | None) -> "Moments | None":
        """Return the moments whose `to_tensors` is `tensors`, None for None.

        They are copied: what comes from a file is not aligned in memory, and products round by how their factors are aligned.
        """
        if tensors is None:
            return None
        shift, second, position = (tensors[name].clone() for name in ("shift", "second", "position"))
        taps = (TapSums(tensors[f"total{n}"].clone(), tensors[f"squares{n}"].clone()) for n in range(_count_taps(tensors)))
        return cls(kernel, padding, shift, int(tensors["images"]), second, position, tuple(taps))

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
        return Moments(self.kernel, self.padding, shift, self.images, second, position, self.taps)

    def __add__(self, other: "Moments") -> "Moments":
        """Return the moments of two disjoint sets of images together."""
        moved, images = other.shift_to(self.shift), self.images + other.images
        second, position = moved.second.add_(self.second), moved.position.add_(self.position)
        taps = tuple(map(add, self.taps, other.taps))
        return Moments(self.kernel, self.padding, self.shift, images, second, position, taps)


def _count_taps(tensors: Mapping[str, Tensor]) -> int:
    """Return of how many taps there are sums."""
    return sum(name.startswith("total") for name in tensors)


class MomentAccumulator:
    """Sums the moments of blocks for one kernel and padding: images are unfolded, then multiplied tile by tile."""

    def __init__(self, kernel: int, padding: int) -> None:
        self._kernel, self._padding = kernel, padding
        self._total: Moments | None = None

    def add(self, block: Tensor) -> None:
        """Add a block [B, C, 28, 28]."""
        channels, positions = block.shape[1], count_positions(block, self._kernel, self._padding)
        step = count_images_per_product(channels * self._kernel**2 * positions)
        with limit_to_one_thread() as threads:
            for images in block.split(step) if len(block) else ():
                self._sum(images, channels * self._kernel**2, positions, threads)

    def _sum(self, images: Tensor, size: int, positions: int, threads: int) -> None:
        """Add a few images [n, C, 28, 28]."""
        features = torch.empty(size, len(images), positions, dtype=torch.float64)  # a row has all samples of a feature
        parts = zip(images.split(1), features.split(1, dim=1), strict=True)
        map_on_threads(lambda part: _unfold_into(part[1], part[0], self._kernel, self._padding), parts, threads)
        if self._total is None:
            zero = features.new_zeros
            shift = features.mean((1, 2))
            self._total = Moments(self._kernel, self._padding, shift, 0, zero(size, size), zero(size, positions))
        total = self._total

        def centre(rows: slice) -> Tile:
            features[rows] -= total.shift[rows, None, None]
            total.position[rows] += features[rows].sum(1)
            return rows, features[rows].flatten(1).numpy()

        tiles = map_on_threads(centre, cut_rows(0, size, size), threads)
        add_products(total.second.numpy(), list_pairs(tiles), threads)
        total.images += len(images)

    def moments(self) -> Moments | None:
        """Return the sums, None if there was no image; raises PosenetStoreError if a feature is not finite."""
        if self._total is not None:
            check_and_mirror(self._total.second)
        return self._total


def _unfold_into(features: Tensor, image: Tensor, kernel: int, padding: int) -> None:
    """Write the neighbourhoods of one image [1, C, 28, 28] to features [D, 1, P]."""
    unfold_neighbourhoods(image, kernel, padding, features.transpose(0, 1))


def check_and_mirror(second: Tensor) -> Tensor:
    """Return second moments [D, D] with their lower triangle copied to the upper one, in place.

    Raises PosenetStoreError if one is not finite.
    """
    if not bool(torch.isfinite(second).all()):
        raise PosenetStoreError("the features hold NaN or infinite values; `inspect` shows each tap's range")
    for row in range(1, len(second)):
        second[:row, row] = second[row, :row]
    return second


def compute_moments(blocks: Iterable[Tensor], kernel: int, padding: int) -> Moments | None:
    """Return the moments of all blocks [B, C, 28, 28], None if there is no image."""
    sums = MomentAccumulator(kernel, padding)
    for block in blocks:
        sums.add(block)
    return sums.moments()


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
