"""Second moments of unfolded features: summed over all images, or of each image by itself."""

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


@dataclass
class Moments:
    """Sums over `count` samples of features minus `shift` [D]: `second` [D, D] and `position` [D, P], all float64.

    The shift (the first images' mean) keeps the sums free of cancellation whatever the features' offset and scale.
    Moments of disjoint images are added, whatever their shifts.
    """

    kernel: int
    padding: int
    shift: Tensor
    images: int
    second: Tensor
    position: Tensor

    @property
    def count(self) -> int:
        """Samples summed: images times positions."""
        return self.images * self.position.shape[1]

    @property
    def mean(self) -> Tensor:
        """Mean of the shifted features, [D]."""
        return self.position.sum(1) / self.count

    def to_tensors(self) -> dict[str, Tensor]:
        """Return the sums as named tensors, for keeping."""
        return {"shift": self.shift, "images": torch.tensor(self.images), "second": self.second, "position": self.position}

    @classmethod
    def from_tensors(cls, kernel: int, padding: int, kept: Mapping[str, Tensor] | None) -> "Moments | None":
        """Return the sums that `to_tensors` gave, None for None."""
        if kept is None:
            return None
        return cls(kernel, padding, kept["shift"], int(kept["images"]), kept["second"], kept["position"])

    def select(self, features: Tensor | None) -> "Moments":
        """Return the moments of some features only (places among D), of all for None."""
        if features is None:
            return self
        second, position = self.second[features][:, features], self.position[features]
        return Moments(self.kernel, self.padding, self.shift[features], self.images, second, position)

    def shift_to(self, shift: Tensor) -> "Moments":
        """Return the moments of the same images about another shift."""
        moved = self.shift - shift
        total = self.position.sum(1)
        second = torch.addr(self.second, total + self.count * moved, moved).addr_(moved, total)
        position = self.position + self.images * moved[:, None]
        return Moments(self.kernel, self.padding, shift, self.images, second, position)

    def __add__(self, other: "Moments") -> "Moments":
        """Pool two disjoint sets of images."""
        moved, images = other.shift_to(self.shift), self.images + other.images
        second, position = moved.second.add_(self.second), moved.position.add_(self.position)
        return Moments(self.kernel, self.padding, self.shift, images, second, position)


class MomentAccumulator:
    """Sums the moments of blocks of one kernel and padding: each thread those of its share of the images, a few at a time.

    Where moments of each thread would take more than `memory` bytes there is one share, and the threads are BLAS's.
    """

    def __init__(self, kernel: int, padding: int, memory: int) -> None:
        self._kernel, self._padding, self._memory = kernel, padding, memory
        self._shares: list[Moments | None] = []

    def add(self, block: Tensor) -> None:
        """Add a block [B, C, 28, 28]."""
        kernel, channels = self._kernel, block.shape[1]
        with limit_torch_to_one_thread() as threads:
            if not self._shares:
                positions = count_positions(block, kernel, self._padding)
                self._shares = [None] * shares(channels * kernel**2, positions, threads, self._memory)
            if len(self._shares) == 1:
                self._shares = [self._sum(self._shares[0], block)]
            else:
                with limit_to_one_thread():
                    pairs = zip(self._shares, block.tensor_split(len(self._shares)), strict=True)
                    self._shares = map_on_threads(lambda pair: self._sum(*pair), pairs, len(self._shares))

    def _sum(self, total: Moments | None, images: Tensor) -> Moments | None:
        """Add images [n, C, 28, 28] to some moments, in place, or to none."""
        kernel, padding, channels = self._kernel, self._padding, images.shape[1]
        size, positions = channels * kernel**2, count_positions(images, kernel, padding)
        few = min(len(images), images_per_step(channels, kernel, positions))
        room = torch.empty(size * few * positions, dtype=torch.float64)
        product = torch.empty(size, size, dtype=torch.float64) if len(self._shares) > 1 else None
        for part in images.split(few) if few else ():
            # all samples of a feature lie in a row
            features = room[: size * len(part) * positions].view(size, len(part), positions)
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
        held = [one for one in self._shares if one is not None]
        if not held:
            return None
        total = reduce(add, held)
        if not bool(torch.isfinite(total.second).all()):
            raise PosenetStoreError("the features hold NaN or infinite values; `inspect` shows each tap's range")
        for row in range(1, len(total.second)):
            total.second[:row, row] = total.second[row, :row]
        return total


def _add_square(second: Tensor, features: Tensor, product: Tensor | None) -> None:
    """Add features [D, n] times their own transpose to the lower triangle at least of `second` [D, D], in place.

    BLAS's symmetric product does half the work of torch's general one. SciPy's adds at once, but keeps other threads waiting;
    NumPy's does not, and needs a place for the product. SciPy's counts columns first, so all is transposed.
    """
    if product is None:
        dsyrk(1.0, features.numpy().T, 1.0, second.numpy().T, trans=1, overwrite_c=1)
    else:
        second += torch.from_numpy(np.matmul(features.numpy(), features.numpy().T, out=product.numpy()))


def compute_moments(blocks: Iterable[Tensor], kernel: int, padding: int, memory: int = 0) -> Moments | None:
    """Sum the moments of all blocks [B, C, 28, 28]; None if there is no image (see `MomentAccumulator`)."""
    sums = MomentAccumulator(kernel, padding, memory)
    for block in blocks:
        sums.add(block)
    return sums.moments()


def shares(size: int, positions: int, threads: int, memory: int) -> int:
    """Return how many moments of `size` features that many threads sum in parallel: one each within `memory` bytes, or one."""
    return threads if threads * (2 * size + positions) * size * 8 <= memory else 1


@cache
def make_packing_indices(size: int) -> NDArray[np.intp]:
    """Places of a matrix's lower triangle, row by row, in the flat matrix."""
    rows, columns = np.tril_indices(size)
    return np.asarray(rows * size + columns)


@cache
def make_unpacking_indices(size: int) -> NDArray[np.intp]:
    """Places of every entry of a symmetric matrix [D, D] among those of its lower triangle."""
    rows, columns = np.indices((size, size))
    high = np.maximum(rows, columns)
    return np.asarray(high * (high + 1) // 2 + np.minimum(rows, columns))


@dataclass(frozen=True)
class ImageMoments:
    """Per-image sums over `positions`, float64: `second` [N, D (D + 1) / 2] and `cross` [N, targets, D]; D counts the bias.

    Of the symmetric second moments the lower triangle is kept, row by row: steps are as fast as memory gives it.
    """

    second: Tensor
    cross: Tensor
    positions: int

    def select(self, features: Tensor | None) -> "ImageMoments":
        """Return the moments of some features only (places among D without the bias), of all for None."""
        if features is None:
            return self
        kept = torch.cat([features, features.new_tensor([self.cross.shape[2] - 1])]).numpy()
        places = make_unpacking_indices(self.cross.shape[2])[np.ix_(kept, kept)].ravel()[make_packing_indices(len(kept))]
        return ImageMoments(self.second[:, torch.from_numpy(places)], self.cross[:, :, kept], self.positions)


class ImageMomentAccumulator:
    """Gathers the moments of `images` images for target maps [T, h, w], in one allocation; blocks come in order.

    Every image is summed by one thread alone, so its sums do not depend on the threads or on its neighbours.
    """

    def __init__(self, images: int, kernel: int, padding: int, targets: Tensor) -> None:
        self._images, self._kernel, self._padding, self._held = images, kernel, padding, 0
        goals = targets.flatten(1)
        idle = goals.new_zeros(-len(goals) % PRODUCT_ROWS, goals.shape[1])  # a target is rounded alike whatever its company
        self._targets, self._positions = goals.shape
        self._eights = [some.T.contiguous().numpy() for some in torch.cat([goals, idle]).split(PRODUCT_ROWS)]
        self._moments: ImageMoments | None = None

    def add(self, block: Tensor) -> None:
        """Add the images of a block [B, C, 28, 28]."""
        if self._moments is None:
            size = block.shape[1] * self._kernel**2 + 1
            second = torch.empty(self._images, size * (size + 1) // 2, dtype=torch.float64)
            self._moments = ImageMoments(second, second.new_empty(self._images, self._targets, size), self._positions)
        whole, held = self._moments, slice(self._held, self._held + len(block))
        with limit_to_one_thread() as threads:
            shares = (some.tensor_split(threads) for some in (block, whole.second[held], whole.cross[held]))
            map_on_threads(lambda share: self._sum(*share), zip(*shares, strict=True), threads)
        self._held = held.stop

    def _sum(self, images: Tensor, second: Tensor, cross: Tensor) -> None:
        """Write the moments of some images [n, C, 28, 28] to `second` and `cross`."""
        size, few = cross.shape[2], images_per_step(images.shape[1], self._kernel, self._positions)
        ones = torch.ones(min(few, len(images)), size, self._positions, dtype=torch.float64)  # the last feature is the bias
        product, lower = np.empty((size, size)), make_packing_indices(size)
        for part, seconds, crosses in zip(images.split(few), second.split(few), cross.split(few), strict=True):
            features = unfold_neighbourhoods(part, self._kernel, self._padding, ones[: len(part)]).numpy()
            for image, packed, crossed in zip(features, seconds.numpy(), crosses.numpy(), strict=True):
                np.matmul(image, image.T, out=product)  # NumPy sees the symmetry and computes a half
                np.take(product, lower, out=packed, mode="clip")
                crossed[:] = np.concatenate([image @ some for some in self._eights], axis=1)[:, : self._targets].T

    def moments(self) -> ImageMoments:
        """Return all moments; raises ValueError if there was no image."""
        if self._moments is None:
            raise ValueError("there are no moments of no image")
        return self._moments


def compute_image_moments(blocks: Iterable[Tensor], images: int, kernel: int, padding: int, targets: Tensor) -> ImageMoments:
    """Return the moments of each image of some blocks [B, C, 28, 28], `images` together, for target maps [T, h, w].

    Raises ValueError if there is no image.
    """
    collector = ImageMomentAccumulator(images, kernel, padding, targets)
    for block in blocks:
        collector.add(block)
    return collector.moments()
