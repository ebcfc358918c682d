"""Training heads by gradient steps, all heads of a pass on the same batches, by the convolution itself."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from posenet_store.heads.convolution import make_upsampling_matrix
from posenet_store.heads.model import Heads, Standardisation
from posenet_store.heads.optimizers import SGD, Adam, fill_per_head, make_optimizer
from posenet_store.heads.parameters import HeadArchitecture, Running
from posenet_store.heads.protocols import GradientProtocol


@dataclass(frozen=True)
class TrainingGroup:
    """Heads of one shape: head i starts from `seeds[i]` and learns to predict `targets[target_indices[i]]` (float64 [T, h, w]).

    Without `target_indices` head i's target is the i-th. `rates` and `decays` are each head's own learning
    rate and weight decay; without them the protocol's are used.
    """

    kernel: int
    padding: int
    protocol: GradientProtocol
    seeds: tuple[int, ...]
    targets: Tensor
    target_indices: tuple[int, ...] = ()
    rates: tuple[float, ...] = ()
    decays: tuple[float, ...] = ()

    @property
    def target_numbers(self) -> list[int]:
        """Each head's place among the targets."""
        return list(self.target_indices or range(len(self.seeds)))

    def architecture(self, channels: int) -> HeadArchitecture:
        """Return the shape of these heads on that many input channels."""
        return HeadArchitecture(channels, self.kernel, self.padding, self.protocol)

    def optimizer(self, rows: NDArray[np.float64]) -> Adam | SGD:
        """Return the recipe's optimiser on rows [n or more, D]; rows beyond the heads stay as they are."""
        rates, decays = np.zeros(len(rows)), np.zeros(len(rows))
        rates[: len(self.seeds)] = fill_per_head(self.rates, len(self.seeds), self.protocol.learning_rate)
        decays[: len(self.seeds)] = fill_per_head(self.decays, len(self.seeds), self.protocol.weight_decay)
        return make_optimizer(self.protocol.optimizer, rows, rates, decays, self.protocol.momentum)


class _Training:
    """A group's parameters as torch sees them and as its optimiser does: the same memory."""

    def __init__(self, channels: int, group: TrainingGroup) -> None:
        self._group, self._architecture = group, group.architecture(channels)
        self._rows = torch.stack([self._architecture.draw_parameters(seed) for seed in group.seeds])
        self._running: Running = self._architecture.make_running_statistics(len(group.seeds))
        self._optimizer = group.optimizer(self._rows.numpy())
        self._goals = group.targets[group.target_numbers]

    def step(self, inputs: Tensor, factor: float) -> None:
        parts = [part.clone().requires_grad_() for part in self._architecture.split_parameters(self._rows)]
        loss = self._loss(self._architecture.predict(parts, self._running, inputs))
        gradients = torch.autograd.grad(loss, parts)
        self._optimizer.step(torch.cat([gradient.flatten(1) for gradient in gradients], dim=1).numpy(), factor)

    def _loss(self, maps: Tensor) -> Tensor:
        """The sum over heads of each one's mean squared error, up to a constant if maps are upsampled.

        Upsampling is A map A', so the squares of the large map are those of A'A: nothing of its size is ever made.
        """
        size = self._group.protocol.size
        if not size:
            return ((maps - self._goals) ** 2).mean(dim=(0, 2, 3)).sum()
        matrix = make_upsampling_matrix(maps.shape[2], size)
        square, goals = matrix.T @ matrix, matrix.T @ self._goals @ matrix
        return (maps * (square @ maps @ square - 2 * goals)).sum(dim=(2, 3)).mean(dim=0).sum() / size**2

    def heads(self, standard: Standardisation | None) -> Heads:
        return self._architecture.make_heads(self._rows, self._running, standard)


def train_by_convolution(
    batches: Callable[[int], Iterable[Tensor]],
    epochs: int,
    channels: int,
    groups: Sequence[TrainingGroup],
    read: Sequence[tuple[int, ...] | None] = (),
    standard: Standardisation | None = None,
) -> list[Heads]:
    """Train every head of every group in one stream; returns the groups' Heads in order.

    `batches(epoch)` yields float [B, `channels`, 28, 28], standardised by `standard` if there is one; group i reads those
    named in `read[i]`, or all. The loss is a sum over heads of each head's mean squared error and the optimiser works on
    every number alone, so no head feels its neighbours: the result is that of training it by itself.
    """
    channels_read = [list(range(channels)) if numbers is None else list(numbers) for numbers in read or [None] * len(groups)]
    trainings = [_Training(len(numbers), group) for numbers, group in zip(channels_read, groups, strict=True)]
    with np.errstate(over="ignore", invalid="ignore"):  # a head that diverges ends as NaN, alone
        for epoch in range(epochs):
            for batch in batches(epoch):
                inputs = batch.to(torch.float64)
                for training, group, numbers in zip(trainings, groups, channels_read, strict=True):
                    factor = group.protocol.compute_rate_factor(epoch, epochs)
                    training.step(inputs if len(numbers) == channels else inputs[:, numbers], factor)
    standards = [standard and standard.select(None if len(numbers) == channels else numbers) for numbers in channels_read]
    return [training.heads(selected) for training, selected in zip(trainings, standards, strict=True)]
