"""Training heads by the report's recipe, all heads of a pass on the same batches."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from posenet_store.cells import Report
from posenet_store.heads import Heads, initial_head
from posenet_store.optimizers import Adam, per_head
from posenet_store.specs import GRID

MAX_BYTES = 1 << 30


def in_memory(images: int, channels: int) -> bool:
    """True if the inputs of all images, float32, stay within 1 GiB: then they are read once, not once an epoch."""
    return images * channels * GRID**2 * 4 <= MAX_BYTES


@dataclass(frozen=True)
class Group:
    """Heads of one kernel and padding: head i starts from `seeds[i]` and must paint `targets[goals[i]]` (float64 [T, h, w]).

    Without `goals` head i's target is the i-th. `rates` and `decays` are each head's own learning rate and weight decay;
    without them the protocol's are used.
    """

    kernel: int
    padding: int
    seeds: tuple[int, ...]
    targets: Tensor
    goals: tuple[int, ...] = ()
    rates: tuple[float, ...] = ()
    decays: tuple[float, ...] = ()

    @property
    def places(self) -> list[int]:
        """Each head's place among the targets."""
        return list(self.goals or range(len(self.seeds)))


@dataclass(frozen=True)
class _Training:
    """A group's parameters as torch sees them and as its optimiser does: the same memory."""

    group: Group
    weight: Tensor
    bias: Tensor
    flat: NDArray[np.float64]
    optimizer: Adam

    @classmethod
    def begin(cls, channels: int, group: Group, protocol: Report) -> "_Training":
        drawn = [initial_head(channels, group.kernel, seed) for seed in group.seeds]
        flat = torch.stack([torch.cat([weight.flatten(), bias.reshape(1)]) for weight, bias in drawn])
        rates = per_head(group.rates, len(drawn), protocol.learning_rate)
        optimizer = Adam(flat.numpy(), rates, per_head(group.decays, len(drawn), protocol.weight_decay))
        weight = flat[:, :-1].view(-1, channels, group.kernel, group.kernel)
        return cls(group, weight, flat[:, -1], flat.numpy(), optimizer)

    def step(self, inputs: Tensor) -> None:
        weight, bias = self.weight.clone().requires_grad_(), self.bias.clone().requires_grad_()
        maps = F.conv2d(inputs, weight, bias, padding=self.group.padding)
        ((maps - self.group.targets[self.group.places]) ** 2).mean(dim=(0, 2, 3)).sum().backward()
        gradients = [torch.zeros_like(one) if one.grad is None else one.grad for one in (weight, bias)]
        self.optimizer.step(torch.cat([gradients[0].flatten(1), gradients[1][:, None]], dim=1).numpy())


def train(
    batches: Callable[[int], Iterable[Tensor]],
    epochs: int,
    channels: int,
    groups: Sequence[Group],
    protocol: Report,
    read: Sequence[tuple[int, ...] | None] = (),
) -> list[Heads]:
    """Train every head of every group in one stream; returns the groups' Heads in order.

    `batches(epoch)` yields float [B, `channels`, 28, 28]; group i reads those named in `read[i]`, or all. The loss is a sum
    over heads of each head's mean squared error and Adam works on every number alone, so no head feels its neighbours: the
    result is that of training it by itself.
    """
    places = [list(range(channels)) if one is None else list(one) for one in read or [None] * len(groups)]
    trainings = [_Training.begin(len(mine), group, protocol) for mine, group in zip(places, groups, strict=True)]
    with np.errstate(over="ignore", invalid="ignore"):  # a head that diverges ends as NaN, alone
        for epoch in range(epochs):
            for batch in batches(epoch):
                inputs = batch.to(torch.float64)
                for training, mine in zip(trainings, places, strict=True):
                    training.step(inputs if len(mine) == channels else inputs[:, mine])
    return [Heads(t.weight.clone(), t.bias.clone(), t.group.padding) for t in trainings]
