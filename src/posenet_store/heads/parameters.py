"""Heads in training: their parameters as rows of one matrix, and the forward pass of many of them at once.

The authors' decoder (models/decoder.py): convolutions of one kernel and padding, each but the last followed by ReLU; with
`sigmoid` each is batch-normalised first and the last one ends in a sigmoid. A row belongs to one head, so whatever works
on numbers one by one (an optimiser) works on all heads at once and none feels its neighbours.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from posenet_store.heads.convolution import convolve_groups
from posenet_store.heads.model import Heads, Standardisation, draw_convolution
from posenet_store.heads.protocols import GradientProtocol

EPSILON = 1e-5
MOMENTUM = 0.1
"""Of batch normalisation, as in `torch.nn.BatchNorm2d`."""

Running = list[tuple[Tensor, Tensor]]
"""Running mean and variance [n * out] behind each convolution."""


@dataclass(frozen=True)
class HeadArchitecture:
    """The shape of a head that reads `channels` inputs by the convolutions that a protocol asks for."""

    channels: int
    kernel: int
    padding: int
    protocol: GradientProtocol

    @property
    def _layers(self) -> list[tuple[int, int]]:
        """(inputs, outputs) of each convolution."""
        hidden = [self.protocol.hidden or self.channels] * (self.protocol.layers - 1)
        return list(pairwise([self.channels, *hidden, 1]))

    def _shapes(self) -> list[tuple[int, ...]]:
        """Shapes of a head's parameters in the order of its row: weight and bias, then gain and offset if normalised."""
        shapes: list[tuple[int, ...]] = []
        for inputs, outputs in self._layers:
            shapes += [(outputs, inputs, self.kernel, self.kernel), (outputs,)]
            shapes += [(outputs,), (outputs,)] if self.protocol.sigmoid else []
        return shapes

    def draw_parameters(self, seed: int) -> Tensor:
        """Draw a head: its parameters as a row, float64 [D]."""
        generator = torch.Generator().manual_seed(seed)
        row = []
        for inputs, outputs in self._layers:
            weight, bias = draw_convolution(outputs, inputs, self.kernel, generator)
            row += [weight.flatten(), torch.zeros_like(bias) if self.protocol.zero_bias else bias]
            row += [torch.ones_like(bias), torch.zeros_like(bias)] if self.protocol.sigmoid else []
        return torch.cat(row)

    def split_parameters(self, rows: Tensor) -> list[Tensor]:
        """Return rows [n, D] as their parameters, views [n, *shape]."""
        shapes = self._shapes()
        sizes = [torch.Size(shape).numel() for shape in shapes]
        return [part.view(-1, *shape) for part, shape in zip(rows.split(sizes, dim=1), shapes, strict=True)]

    def _by_layer(self, parts: Sequence[Tensor]) -> list[Sequence[Tensor]]:
        """Return the parameters of each convolution: weight and bias, then gain and offset if normalised."""
        each = 4 if self.protocol.sigmoid else 2
        return [parts[first : first + each] for first in range(0, len(parts), each)]

    def make_running_statistics(self, heads: int) -> Running:
        """Return the running statistics of new heads; none if they are not normalised."""
        widths = [heads * outputs for _, outputs in self._layers] if self.protocol.sigmoid else []
        return [(torch.zeros(n, dtype=torch.float64), torch.ones(n, dtype=torch.float64)) for n in widths]

    def predict(self, parts: list[Tensor], running: Running, inputs: Tensor) -> Tensor:
        """Return the maps [B, n, h, w] of a training step on inputs [B, C, 28, 28], before upsampling; updates `running`."""
        values, groups = inputs, 1
        layers = self._by_layer(parts)
        for layer, (weight, bias, *gains) in enumerate(layers):
            values = convolve_groups(values, weight.flatten(0, 1), bias.flatten(), self.padding, groups)
            if gains:
                mean, variance = running[layer]
                gain, offset = (one.flatten() for one in gains)
                values = F.batch_norm(values, mean, variance, gain, offset, True, MOMENTUM, EPSILON)
            groups = len(weight)
            if layer + 1 < len(layers):
                values = values.relu()
        return values.sigmoid() if self.protocol.sigmoid else values

    def make_heads(self, rows: Tensor, running: Running, standard: Standardisation | None = None) -> Heads:
        """Return trained rows as Heads: normalisation by the running statistics is part of each convolution.

        A head that diverged beyond the range of float32 is NaN, whatever its final values.
        """
        rows = torch.where(rows.float().isfinite().all(dim=1, keepdim=True), rows, torch.nan)
        layers = []
        for layer, (weight, bias, *gains) in enumerate(self._by_layer(self.split_parameters(rows))):
            if gains:
                mean, variance = (one.view_as(bias) for one in running[layer])
                scale = gains[0] / (variance + EPSILON).sqrt()
                layers.append((weight * scale[:, :, None, None, None], (bias - mean) * scale + gains[1]))
            else:
                layers.append((weight, bias))
        *hidden, (weight, bias) = layers
        protocol = self.protocol
        return Heads(weight[:, 0], bias[:, 0], self.padding, tuple(hidden), protocol.sigmoid, protocol.size, standard)
