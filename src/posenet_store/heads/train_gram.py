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
from itertools import chain, islice

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from posenet_store.heads.model import Heads, Standardisation
from posenet_store.heads.moments import TOGETHER, ImageMoments, unpacking_indices
from posenet_store.heads.train_convolution import TrainingGroup
from posenet_store.threads import limit_to_one_thread

STEP_BYTES = 2 << 20
"""Sums of some steps are made ahead of the heads, a few at a time: what stays in the processor's cache."""
Images = NDArray[np.int64]


def train_in_gram_space(
    moments: ImageMoments,
    batches: Callable[[int], Iterable[Images]],
    channels: int,
    group: TrainingGroup,
    standard: Standardisation | None = None,
) -> Heads:
    """Train a group of linear heads; `batches(epoch)` yields the images of each step as positions in `moments`.

    `moments.cross` holds one entry a target of the group; `standard` is what was done to the inputs before summing.
    """
    decoder, recipe, places = group.decoder(channels), group.protocol, np.array(group.target_numbers)
    heads = len(group.seeds)
    size = moments.cross.shape[2]
    parameters, whole, entries = np.zeros((heads + -heads % TOGETHER, size)), np.empty((size, size)), unpacking_indices(size)
    parameters[:heads] = torch.stack([decoder.initial(seed) for seed in group.seeds]).numpy()
    optimizer, gradient = group.optimizer(parameters), np.zeros_like(parameters)
    eights, mine, goals = parameters.reshape(-1, TOGETHER, size), gradient[:heads], np.empty((heads, size))
    images = len(moments.second)
    epochs, steps = recipe.count_epochs(images), recipe.count_steps(images)
    stream = chain.from_iterable(batches(epoch) for epoch in range(epochs))
    with np.errstate(over="ignore", invalid="ignore"), limit_to_one_thread():  # a head that diverges ends as NaN, alone
        for number, (count, second, cross) in enumerate(_sums(moments, stream)):
            np.take(second, entries, out=whole, mode="clip")
            np.matmul(eights, whole, out=gradient.reshape(eights.shape))
            np.take(cross, places, axis=0, out=goals, mode="clip")
            np.subtract(mine, goals, out=mine)
            np.multiply(gradient, 2 / (count * moments.positions), out=gradient)
            optimizer.step(gradient, recipe.rate_factor(number // steps, epochs))
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
