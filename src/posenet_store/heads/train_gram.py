"""Linear heads in Gram space: the same gradient steps from per-image second moments, without reading features again.

For a linear head the gradient of a batch's mean squared error is 2 / (B * P) * (A w - s), where A is the sum of the
images' f f' over positions and s the sum of f * target, f being a k x k neighbourhood and a constant 1 for the bias.
A step then costs one small matrix product whatever the number of positions; the trajectory is the convolution's.

On raw pixels (0..255) the report's protocol is chaotic: after 18,825 steps a difference of 1e-16 has grown to 5 %. So heads
are computed eight at a time, filled up with idle ones: a matrix product of one shape rounds each row alike, whatever the other
rows are, and a head is the same to the last bit alone and among a hundred.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, islice

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from posenet_store.heads.model import Heads, Standardisation
from posenet_store.heads.moments import PRODUCT_ROWS, ImageMoments, make_unpacking_indices
from posenet_store.heads.train_convolution import TrainingGroup
from posenet_store.threads import limit_to_one_thread

STEP_BYTES = 2 << 20
"""Steps are summed ahead of the heads a few at a time: what stays in the CPU's cache."""
Images = NDArray[np.int64]
StepSums = tuple[int, NDArray[np.float64], NDArray[np.float64]]
"""Images of a step, and summed over them: the lower triangle of `second`, and `cross` [targets, D]."""


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
    architecture, protocol, targets = group.architecture(channels), group.protocol, np.array(group.target_numbers)
    heads, size = len(targets), moments.cross.shape[2]
    parameters = np.zeros((-(-heads // PRODUCT_ROWS), PRODUCT_ROWS, size))  # eights of heads, idle ones at the end
    rows = parameters.reshape(-1, size)  # the same memory: a row a head
    rows[:heads] = torch.stack([architecture.draw_parameters(seed) for seed in group.seeds]).numpy()
    optimizer, gradient = group.optimizer(rows), np.zeros_like(parameters)
    gradient_rows = gradient.reshape(-1, size)  # the same memory
    unpacked, symmetric, cross_of_heads = make_unpacking_indices(size), np.empty((size, size)), np.empty((heads, size))
    images = len(moments.second)
    epochs, steps = protocol.count_epochs(images), protocol.count_steps(images)
    stream = chain.from_iterable(batches(epoch) for epoch in range(epochs))
    with np.errstate(over="ignore", invalid="ignore"), limit_to_one_thread():  # a head that diverges ends as NaN, alone
        for step, (count, second, cross) in enumerate(_sum_steps(moments, stream)):
            np.take(second, unpacked, out=symmetric, mode="clip")
            np.matmul(parameters, symmetric, out=gradient)
            np.take(cross, targets, axis=0, out=cross_of_heads, mode="clip")
            gradient_rows[:heads] -= cross_of_heads
            gradient *= 2 / (count * moments.positions)
            optimizer.step(gradient_rows, protocol.compute_rate_factor(step // steps, epochs))
    return architecture.make_heads(torch.from_numpy(rows[:heads]), [], standard)


def _sum_steps(moments: ImageMoments, steps: Iterable[Images]) -> Iterator[StepSums]:
    """Yield the sums of each step's images. They do not depend on the heads, so a thread sums some steps ahead."""
    targets, size = moments.cross.shape[1:]
    length = max(1, STEP_BYTES // ((moments.second.shape[1] + targets * size) * 8))

    def sum_chunk(chunk: list[Images]) -> list[StepSums]:
        counts = [len(images) for images in chunk]
        offsets = torch.tensor([0, *np.cumsum(counts)[:-1]])
        rows = torch.from_numpy(np.concatenate(chunk))
        second = F.embedding_bag(rows, moments.second, offsets, mode="sum").numpy()
        cross = F.embedding_bag(rows, moments.cross.flatten(1), offsets, mode="sum").view(-1, targets, size).numpy()
        return list(zip(counts, second, cross, strict=True))

    remaining = iter(steps)
    chunks = iter(lambda: list(islice(remaining, length)), [])
    with ThreadPoolExecutor(1) as executor:
        pending: Future[list[StepSums]] | None = None
        for images in chunks:
            ready, pending = pending, executor.submit(sum_chunk, images)
            if ready is not None:
                yield from ready.result()
        if pending is not None:
            yield from pending.result()
