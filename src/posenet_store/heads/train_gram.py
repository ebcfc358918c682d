"""Linear heads in Gram space: the same gradient steps from per-image second moments, without touching features again.

For a linear head the gradient of a batch's mean squared error is 2 / (B * P) * (A w - s), where A is the sum of the
images' f f' over positions and s the sum of f * target, f being a k x k neighbourhood and a constant 1 for the bias.
A step then costs one small matrix product whatever the number of positions; the trajectory is the convolution's.

On raw pixels (0..255) the report's recipe is chaotic: after 18,825 steps a difference of 1e-16 has grown to 5 %. So heads are
computed eight at a time, filled up with idle ones: a matrix product of one shape rounds each row alike, whoever its
neighbours are, and a head is the same to the last bit alone and among a hundred.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import chain, islice

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from posenet_store.heads.convolution import images_a_step, neighbourhoods
from posenet_store.heads.model import Heads, Standard
from posenet_store.heads.train_convolution import Group
from posenet_store.threads import on_threads, one_thread_each

MAX_BYTES = 1 << 30
TOGETHER = 8
STEP_BYTES = 2 << 20
"""Sums of some steps are made ahead of the heads, a few at a time: what stays in the processor's cache."""
Images = NDArray[np.int64]


@cache
def _lower(size: int) -> Images:
    """Places of a matrix's lower triangle, row by row, in the flat matrix."""
    rows, columns = np.tril_indices(size)
    return np.asarray(rows * size + columns)


@cache
def _whole(size: int) -> Images:
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

    def of(self, features: Tensor | None) -> "ImageMoments":
        """Return the moments of some features only (places among D without the bias), of all for None."""
        if features is None:
            return self
        kept = torch.cat([features, features.new_tensor([self.cross.shape[2] - 1])]).numpy()
        places = _whole(self.cross.shape[2])[np.ix_(kept, kept)].ravel()[_lower(len(kept))]
        return ImageMoments(self.second[:, torch.from_numpy(places)], self.cross[:, :, kept], self.positions)


def moment_bytes(images: int, channels: int, kernel: int) -> int:
    """Return the bytes of the second moments of that many images."""
    size = channels * kernel**2 + 1
    return images * size * (size + 1) // 2 * 8


def fits(images: int, channels: int, kernel: int) -> bool:
    """Return whether the moments of that many images stay within 1 GiB."""
    return moment_bytes(images, channels, kernel) <= MAX_BYTES


class Collector:
    """Gathers the moments of `images` images for target maps [T, h, w], in one allocation; blocks come in order.

    Every image is summed by one thread alone, so its sums do not depend on the threads or on its neighbours.
    """

    def __init__(self, images: int, kernel: int, padding: int, targets: Tensor) -> None:
        self._images, self._kernel, self._padding, self._held = images, kernel, padding, 0
        goals = targets.flatten(1)
        idle = goals.new_zeros(-len(goals) % TOGETHER, goals.shape[1])  # a target is rounded alike whatever its company
        self._targets, self._positions = goals.shape
        self._eights = [some.T.contiguous().numpy() for some in torch.cat([goals, idle]).split(TOGETHER)]
        self._moments: ImageMoments | None = None

    def add(self, block: Tensor) -> None:
        """Add the images of a block [B, C, 28, 28]."""
        if self._moments is None:
            size = block.shape[1] * self._kernel**2 + 1
            second = torch.empty(self._images, size * (size + 1) // 2, dtype=torch.float64)
            self._moments = ImageMoments(second, second.new_empty(self._images, self._targets, size), self._positions)
        whole, held = self._moments, slice(self._held, self._held + len(block))
        with one_thread_each() as threads:
            shares = (some.tensor_split(threads) for some in (block, whole.second[held], whole.cross[held]))
            on_threads(lambda share: self._sum(*share), zip(*shares, strict=True), threads)
        self._held = held.stop

    def _sum(self, images: Tensor, second: Tensor, cross: Tensor) -> None:
        """Write the moments of some images [n, C, 28, 28] to `second` and `cross`."""
        size, few = cross.shape[2], images_a_step(images.shape[1], self._kernel, self._positions)
        ones = torch.ones(min(few, len(images)), size, self._positions, dtype=torch.float64)  # the last feature is the bias
        product, lower = np.empty((size, size)), _lower(size)
        for part, seconds, crosses in zip(images.split(few), second.split(few), cross.split(few), strict=True):
            features = neighbourhoods(part, self._kernel, self._padding, ones[: len(part)]).numpy()
            for image, packed, crossed in zip(features, seconds.numpy(), crosses.numpy(), strict=True):
                np.matmul(image, image.T, out=product)  # NumPy sees the symmetry and computes a half
                np.take(product, lower, out=packed, mode="clip")
                crossed[:] = np.concatenate([image @ some for some in self._eights], axis=1)[:, : self._targets].T

    def whole(self) -> ImageMoments:
        """Return all moments; raises ValueError if there was no image."""
        if self._moments is None:
            raise ValueError("there are no moments of no image")
        return self._moments


def image_moments(blocks: Iterable[Tensor], images: int, kernel: int, padding: int, targets: Tensor) -> ImageMoments:
    """Return the moments of each image of some blocks [B, C, 28, 28], `images` together, for target maps [T, h, w].

    Raises ValueError if there is no image.
    """
    collector = Collector(images, kernel, padding, targets)
    for block in blocks:
        collector.add(block)
    return collector.whole()


def train_in_gram_space(
    moments: ImageMoments,
    batches: Callable[[int], Iterable[Images]],
    channels: int,
    group: Group,
    standard: Standard | None = None,
) -> Heads:
    """Train a group of linear heads; `batches(epoch)` yields the images of each step as positions in `moments`.

    `moments.cross` holds one entry a target of the group; `standard` is what was done to the inputs before summing.
    """
    decoder, recipe, places = group.decoder(channels), group.recipe, np.array(group.places)
    heads = len(group.seeds)
    size = moments.cross.shape[2]
    parameters, whole, entries = np.zeros((heads + -heads % TOGETHER, size)), np.empty((size, size)), _whole(size)
    parameters[:heads] = torch.stack([decoder.initial(seed) for seed in group.seeds]).numpy()
    optimizer, gradient = group.optimizer(parameters), np.zeros_like(parameters)
    eights, mine, goals = parameters.reshape(-1, TOGETHER, size), gradient[:heads], np.empty((heads, size))
    images = len(moments.second)
    epochs, steps = recipe.epochs_over(images), recipe.steps_over(images)
    stream = chain.from_iterable(batches(epoch) for epoch in range(epochs))
    with np.errstate(over="ignore", invalid="ignore"), one_thread_each():  # a head that diverges ends as NaN, alone
        for number, (count, second, cross) in enumerate(_sums(moments, stream)):
            np.take(second, entries, out=whole, mode="clip")
            np.matmul(eights, whole, out=gradient.reshape(eights.shape))
            np.take(cross, places, axis=0, out=goals, mode="clip")
            np.subtract(mine, goals, out=mine)
            np.multiply(gradient, 2 / (count * moments.positions), out=gradient)
            optimizer.step(gradient, recipe.factor(number // steps, epochs))
    return decoder.heads(torch.from_numpy(parameters[:heads]), [], standard)


def _sums(moments: ImageMoments, steps: Iterable[Images]) -> Iterator[tuple[int, NDArray[np.float64], NDArray[np.float64]]]:
    """Yield (images, lower triangle of second, cross [targets, D]) summed over the images of each step.

    They do not depend on the heads, so a thread sums some steps ahead while the caller works on those before.
    """
    targets, size = moments.cross.shape[1:]
    together = max(1, STEP_BYTES // ((moments.second.shape[1] + targets * size) * 8))

    def summed(some: list[Images]) -> list[tuple[int, NDArray[np.float64], NDArray[np.float64]]]:
        counts = [len(images) for images in some]
        offsets = torch.tensor([0, *np.cumsum(counts)[:-1]])
        rows = torch.from_numpy(np.concatenate(some))
        second = F.embedding_bag(rows, moments.second, offsets, mode="sum").numpy()
        cross = F.embedding_bag(rows, moments.cross.flatten(1), offsets, mode="sum").view(-1, targets, size).numpy()
        return list(zip(counts, second, cross, strict=True))

    left = iter(steps)
    with ThreadPoolExecutor(1) as ahead:
        waiting = ahead.submit(summed, first) if (first := list(islice(left, together))) else None
        while waiting is not None:
            done = waiting.result()
            waiting = ahead.submit(summed, some) if (some := list(islice(left, together))) else None
            yield from done
