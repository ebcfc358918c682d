"""Training heads by the report's recipe, all heads of a pass on the same batches."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from posenet_store.cells import Report
from posenet_store.heads import Heads, initial_head


@dataclass(frozen=True)
class Group:
    """Heads of one kernel and padding: head i starts from `seeds[i]` and must paint `targets[i]` (float64 [n, h, w])."""

    kernel: int
    padding: int
    seeds: tuple[int, ...]
    targets: Tensor


def train(
    batches: Callable[[int], Iterable[Tensor]], epochs: int, channels: int, groups: Sequence[Group], protocol: Report
) -> list[Heads]:
    """Train every head of every group in one stream; returns the groups' Heads in order.

    `batches(epoch)` yields float [B, C, 28, 28]. The loss is a sum over heads of each head's mean squared error and
    Adam works on every number alone, so no head feels its neighbours: the result is that of training it by itself.
    """
    parameters = []
    for group in groups:
        drawn = [initial_head(channels, group.kernel, seed) for seed in group.seeds]
        weight, bias = (torch.stack(parts).requires_grad_() for parts in zip(*drawn, strict=True))
        parameters.append((weight, bias))
    flat = [tensor for pair in parameters for tensor in pair]
    optimizer = torch.optim.Adam(flat, lr=protocol.learning_rate, weight_decay=protocol.weight_decay)
    for epoch in range(epochs):
        for batch in batches(epoch):
            inputs = batch.to(torch.float64)
            optimizer.zero_grad()
            for group, (weight, bias) in zip(groups, parameters, strict=True):
                maps = F.conv2d(inputs, weight, bias, padding=group.padding)
                ((maps - group.targets) ** 2).mean(dim=(0, 2, 3)).sum().backward()
            optimizer.step()
    return [
        Heads(weight.detach(), bias.detach(), group.padding) for group, (weight, bias) in zip(groups, parameters, strict=True)
    ]
