"""The report's recipe in Gram space: the same Adam steps from per-image second moments, without touching features again.

For a linear head the gradient of a batch's mean squared error is 2 / (B * P) * (A w - s), where A is the sum of the
images' f f' over positions and s the sum of f * target, f being a k x k neighbourhood and a constant 1 for the bias.
A step then costs one small matrix product whatever the number of positions; the trajectory is the convolution's.

On raw pixels (0..255) the recipe is chaotic: after 18,825 steps a difference of 1e-16 has grown to 5 %. So heads are
computed eight at a time, filled up with idle ones: a matrix product of one shape rounds each row alike, whoever its
neighbours are, and a head is the same to the last bit alone and among a hundred.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from posenet_store.cells import Report
from posenet_store.heads import Heads, initial_head
from posenet_store.report_protocol import Group

MAX_BYTES = 1 << 30
TOGETHER = 8


@dataclass(frozen=True)
class ImageMoments:
    """Per-image sums over `positions`, float64: `second` [N, D, D] and `cross` [N, targets, D]; D counts the bias."""

    second: Tensor
    cross: Tensor
    positions: int


def fits(images: int, channels: int, kernel: int) -> bool:
    """Return whether the moments of that many images stay within 1 GiB."""
    return images * (channels * kernel**2 + 1) ** 2 * 8 <= MAX_BYTES


def image_moments(block: Tensor, kernel: int, padding: int, targets: Tensor) -> ImageMoments:
    """Return the moments of a block [B, C, 28, 28] for target maps [T, h, w], one image at a time."""
    goals = targets.flatten(1)
    seconds, crosses = [], []
    for image in block.split(1):
        features = F.unfold(image, kernel, padding=padding)[0].to(torch.float64)
        features = torch.cat([features, features.new_ones(1, features.shape[1])])
        seconds.append(features @ features.T)
        crosses.append(torch.stack([features @ goal for goal in goals]))  # one by one: rounded alike whatever the company
    return ImageMoments(torch.stack(seconds), torch.stack(crosses), goals.shape[1])


def joined(parts: Iterable[ImageMoments]) -> ImageMoments:
    """Concatenate the moments of several blocks."""
    held = list(parts)
    return ImageMoments(torch.cat([p.second for p in held]), torch.cat([p.cross for p in held]), held[0].positions)


def train_in_gram_space(
    moments: ImageMoments,
    batches: Callable[[int], Iterable[NDArray[np.int64]]],
    channels: int,
    group: Group,
    protocol: Report,
) -> Heads:
    """Train a group of heads; `batches(epoch)` yields the images of each step as positions in `moments`.

    `moments.cross` holds one entry a head, in the group's order of targets.
    """
    drawn = [initial_head(channels, group.kernel, seed) for seed in group.seeds]
    idle = torch.zeros(-len(drawn) % TOGETHER, moments.second.shape[1], dtype=torch.float64)
    parameters = torch.cat([torch.stack([torch.cat([weight.flatten(), bias.reshape(1)]) for weight, bias in drawn]), idle])
    cross = torch.cat([moments.cross, idle.expand(len(moments.cross), -1, -1)], dim=1)
    optimizer = torch.optim.Adam([parameters], lr=protocol.learning_rate, weight_decay=protocol.weight_decay, fused=True)
    for epoch in range(protocol.epochs_over(len(moments.second))):
        for images in batches(epoch):
            scale = 2 / (len(images) * moments.positions)
            gradient = cross[torch.from_numpy(images)].sum(0) * -scale
            for image in images.tolist():  # one product an image: gathering the matrices would cost more than the products
                for some, heads in zip(gradient.split(TOGETHER), parameters.split(TOGETHER), strict=True):
                    some.addmm_(heads, moments.second[image], alpha=scale)
            parameters.grad = gradient
            optimizer.step()
    trained = parameters[: len(drawn)]
    weight = trained[:, :-1].reshape(-1, channels, group.kernel, group.kernel)
    return Heads(weight.clone(), trained[:, -1].clone(), group.padding)
