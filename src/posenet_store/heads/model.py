"""Heads: trained heads of one shape, which predict their maps together.

All numbers are float64, so a head gives the same result (but for rounding far below any published digit) alone and together
with a hundred others.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from posenet_store.heads.convolution import convolve_groups, make_upsampling_matrix


@dataclass(frozen=True)
class Standardisation:
    """Standardisation of inputs: `(x - shift) * scale`, both float64 [C]; a dead channel has scale 0."""

    shift: Tensor
    scale: Tensor

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return inputs [B, C, H, W] standardised, in float64."""
        return (inputs.to(torch.float64) - self.shift[:, None, None]) * self.scale[:, None, None]

    def select(self, channels: Sequence[int] | None) -> "Standardisation":
        """Return the standardisation of `channels` only, of all channels for None."""
        return self if channels is None else Standardisation(self.shift[list(channels)], self.scale[list(channels)])


@dataclass(frozen=True)
class Heads:
    """n heads of one shape: `weight` [n, C, k, k] and `bias` [n] of the last convolution, all float64.

    Before it come `standard` on the inputs and `hidden` convolutions with ReLU, each (weight [n, H, C, k, k], bias [n, H]);
    after it a `sigmoid` and bilinear upsampling to `size` (0: none).
    """

    weight: Tensor
    bias: Tensor
    padding: int
    hidden: tuple[tuple[Tensor, Tensor], ...] = ()
    sigmoid: bool = False
    size: int = 0
    standard: Standardisation | None = None

    @property
    def is_linear(self) -> bool:
        """Whether a map is the bias and a sum over channels of what each adds."""
        return not (self.hidden or self.sigmoid or self.size)

    def predict(self, inputs: Tensor) -> Tensor:
        """Return the maps float64 [B, n, h, w] of inputs [B, C, 28, 28]."""
        values = inputs.to(torch.float64) if self.standard is None else self.standard(inputs)
        groups = 1  # all heads have the same inputs; after the first convolution each has its own channels
        for weight, bias in self.hidden:
            values = convolve_groups(values, weight.flatten(0, 1), bias.flatten(), self.padding, groups).relu()
            groups = len(weight)
        maps = convolve_groups(values, self.weight, self.bias, self.padding, groups)
        maps = maps.sigmoid() if self.sigmoid else maps
        if not self.size:
            return maps
        matrix = make_upsampling_matrix(maps.shape[2], self.size)
        return matrix @ maps @ matrix.T

    def get_tensors(self, index: int) -> dict[str, Tensor]:
        """Return head number `index` as named tensors, for its file."""
        tensors = {"weight": self.weight[index][None], "bias": self.bias[index].reshape(1)}
        for layer, (weight, bias) in enumerate(self.hidden):
            tensors |= {f"hidden.{layer}.weight": weight[index], f"hidden.{layer}.bias": bias[index]}
        if self.standard is not None:
            tensors |= {"shift": self.standard.shift, "scale": self.standard.scale}
        return {name: tensor.contiguous() for name, tensor in tensors.items()}


def join_heads(heads: Sequence[Heads]) -> Heads:
    """Join heads of one shape, whose inputs are standardised alike, into one convolution."""
    layers = zip(*(head.hidden for head in heads), strict=True)
    hidden = tuple((torch.cat([weight for weight, _ in layer]), torch.cat([bias for _, bias in layer])) for layer in layers)
    weight, bias = (torch.cat([getattr(head, name) for head in heads]) for name in ("weight", "bias"))
    return replace(heads[0], weight=weight, bias=bias, hidden=hidden)


def draw_convolution(outputs: int, channels: int, kernel: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw a convolution as the report does: Xavier uniform weights [out, C, k, k], torch's default bias [out], float64."""
    weight, bias = torch.empty(outputs, channels, kernel, kernel), torch.empty(outputs)
    torch.nn.init.xavier_uniform_(weight, generator=generator)
    bound = (channels * kernel**2) ** -0.5
    torch.nn.init.uniform_(bias, -bound, bound, generator=generator)
    return weight.to(torch.float64), bias.to(torch.float64)


def draw_head(channels: int, kernel: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draw the convolution of a linear head: weight [C, k, k] and bias [].

    >>> weight, bias = draw_head(15, 3, seed=0)
    >>> weight.shape, bool(weight.abs().max() <= (6 / (15 * 9 + 9)) ** 0.5)
    (torch.Size([15, 3, 3]), True)
    """
    weight, bias = draw_convolution(1, channels, kernel, torch.Generator().manual_seed(seed))
    return weight[0], bias[0]
