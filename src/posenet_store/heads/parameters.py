"""Parameters of heads in training, as rows of one matrix, and the forward pass of many heads at once.

The architecture is that of the authors' decoder (models/decoder.py): convolutions of one kernel and padding, each but the
last followed by ReLU; with `sigmoid` each is batch-normalised first, and a sigmoid ends the last one. Each row belongs to
one head, so an elementwise optimiser trains all heads at once and independently.
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
"""Running mean and variance [n * out] of each convolution's output."""


@dataclass(frozen=True)
class HeadArchitecture:
    """The architecture of a head with `channels` input channels under a protocol."""

    channels: int
    kernel: int
    padding: int
    protocol: GradientProtocol

    @property
    def _layers(self) -> list[tuple[int, int]]:
        """The channels (inputs, outputs) of each convolution."""
        hidden = [self.protocol.hidden or self.channels] * (self.protocol.layers - 1)
        return list(pairwise([self.channels, *hidden, 1]))

    def _list_shapes(self) -> list[tuple[int, ...]]:
        """Return the shapes of a head's parameters in order: weight and bias, then gain and offset if normalised."""
        shapes: list[tuple[int, ...]] = []
        for inputs, outputs in self._layers:
            shapes += [(outputs, inputs, self.kernel, self.kernel), (outputs,)]
            shapes += [(outputs,), (outputs,)] if self.protocol.sigmoid else []
        return shapes

    def draw_parameters(self, seed: int) -> Tensor:
        """Draw the initial parameters of a head as a row, float64 [D]."""
        generator = torch.Generator().manual_seed(seed)
        row = []
        for inputs, outputs in self._layers:
            weight, bias = draw_convolution(outputs, inputs, self.kernel, generator)
            row += [weight.flatten(), torch.zeros_like(bias) if self.protocol.zero_bias else bias]
            row += [torch.ones_like(bias), torch.zeros_like(bias)] if self.protocol.sigmoid else []
        return torch.cat(row)

    def split_parameters(self, rows: Tensor) -> list[Tensor]:
        """Split rows [n, D] into the parameters, views [n, *shape]."""
        shapes = self._list_shapes()
        sizes = [torch.Size(shape).numel() for shape in shapes]
        return [part.view(-1, *shape) for part, shape in zip(rows.split(sizes, dim=1), shapes, strict=True)]

    def _group_by_layer(self, parameters: Sequence[Tensor]) -> list[Sequence[Tensor]]:
        """Group parameters by convolution: weight and bias, then gain and offset if normalised."""
        count = 4 if self.protocol.sigmoid else 2
        return [parameters[first : first + count] for first in range(0, len(parameters), count)]

    def make_running_statistics(self, heads: int) -> Running:
        """Return the initial running statistics of `heads` heads; empty if they are not normalised."""
        widths = [heads * outputs for _, outputs in self._layers] if self.protocol.sigmoid else []
        return [(torch.zeros(n, dtype=torch.float64), torch.ones(n, dtype=torch.float64)) for n in widths]

    def predict(self, parameters: list[Tensor], running: Running, inputs: Tensor) -> Tensor:
        """Return the maps [B, n, h, w] of a training step on inputs [B, C, 28, 28], before upsampling; updates `running`."""
        values, groups = inputs, 1
        layers = self._group_by_layer(parameters)
        for layer, (weight, bias, *gains) in enumerate(layers):
            values = convolve_groups(values, weight.flatten(0, 1), bias.flatten(), self.padding, groups)
            if gains:
                mean, variance = running[layer]
                gain, offset = (tensor.flatten() for tensor in gains)
                values = F.batch_norm(values, mean, variance, gain, offset, True, MOMENTUM, EPSILON)
            groups = len(weight)
            if layer + 1 < len(layers):
                values = values.relu()
        return values.sigmoid() if self.protocol.sigmoid else values

    def make_heads(self, rows: Tensor, running: Running, standard: Standardisation | None = None) -> Heads:
        """Return trained rows as Heads, with the normalisation folded into the convolutions.

        A head that diverged beyond the range of float32 becomes NaN.
        """
        rows = torch.where(rows.float().isfinite().all(dim=1, keepdim=True), rows, torch.nan)
        layers = []
        for layer, (weight, bias, *gains) in enumerate(self._group_by_layer(self.split_parameters(rows))):
            if gains:
                mean, variance = (tensor.view_as(bias) for tensor in running[layer])
                scale = gains[0] / (variance + EPSILON).sqrt()
                layers.append((weight * scale[:, :, None, None, None], (bias - mean) * scale + gains[1]))
            else:
                layers.append((weight, bias))
        *hidden, (weight, bias) = layers
        protocol = self.protocol
        return Heads(weight[:, 0], bias[:, 0], self.padding, tuple(hidden), protocol.sigmoid, protocol.size, standard)
