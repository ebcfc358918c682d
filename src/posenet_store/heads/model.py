"""Trained heads: one convolution or several, with what may follow, many heads applied as one; and their files.

Everything here is float64: each head's result is then the same, to rounding far below any published digit, whether
it is trained alone or beside a hundred others.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from posenet_store.errors import UsageError
from posenet_store.files import write_atomic

WIDE = 256
"""Channels from which on a convolution is faster as one product and shifted sums."""


@cache
def upsampling(small: int, large: int) -> Tensor:
    """Return the matrix A, float64 [large, small], that makes `A map A'` torch's bilinear resize (`align_corners=False`).

    >>> one = torch.rand(1, 1, 26, 26, dtype=torch.float64)
    >>> a = upsampling(26, 224)
    >>> torch.allclose(a @ one @ a.T, F.interpolate(one, (224, 224), mode="bilinear"), rtol=1e-12)
    True
    """
    eye = torch.eye(small, dtype=torch.float64)
    return F.interpolate(eye[None, None], (large, small), mode="bilinear")[0, 0]


def convolved(inputs: Tensor, weight: Tensor, bias: Tensor, padding: int) -> Tensor:
    """Return `torch.nn.functional.conv2d` of inputs [B, C, H, W] by weight [n, C, k, k], quickly for many channels.

    A few maps of a thousand channels are one product of all k * k weights with the inputs as they lie, then k * k shifted
    sums of small maps. torch copies each position's neighbourhood first, which is k * k times the input: five times slower.

    >>> x, w, b = torch.rand(2, 96, 9, 9, dtype=torch.float64), torch.rand(3, 96, 3, 3, dtype=torch.float64), torch.rand(3)
    >>> torch.allclose(convolved(x, w, b.double(), 1), F.conv2d(x, w, b.double(), padding=1), rtol=1e-12)
    True
    """
    outputs, channels, kernel, _ = weight.shape
    if channels < WIDE or kernel == 1:
        return F.conv2d(inputs, weight, bias, padding=padding)
    padded = F.pad(inputs, (padding,) * 4) if padding else inputs
    images, _, height, width = padded.shape
    products = weight.permute(2, 3, 0, 1).reshape(-1, channels) @ padded.flatten(2)
    maps = products.view(images, kernel, kernel, outputs, height, width)
    rows, columns = height - kernel + 1, width - kernel + 1
    shifts = [maps[:, y, x, :, y : y + rows, x : x + columns] for y in range(kernel) for x in range(kernel)]
    return torch.stack(shifts).sum(dim=0) + bias[:, None, None]


def grouped(inputs: Tensor, weight: Tensor, bias: Tensor, padding: int, groups: int) -> Tensor:
    """Return `convolved` inputs if there is one group, else `conv2d` of each head's own channels."""
    if groups == 1:
        return convolved(inputs, weight, bias, padding)
    return F.conv2d(inputs, weight, bias, padding=padding, groups=groups)


@dataclass(frozen=True)
class Standard:
    """Standardisation of inputs: `(x - shift) * scale`, both float64 [C]; a dead channel has scale 0."""

    shift: Tensor
    scale: Tensor

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return inputs [B, C, H, W] standardised, in float64."""
        return (inputs.to(torch.float64) - self.shift[:, None, None]) * self.scale[:, None, None]

    def of(self, channels: Sequence[int] | None) -> "Standard":
        """Return the standardisation of some channels only, of all for None."""
        return self if channels is None else Standard(self.shift[list(channels)], self.scale[list(channels)])


@dataclass(frozen=True)
class Heads:
    """n heads of one shape: `weight` [n, C, k, k] and `bias` [n] of the last convolution, all float64.

    Before it: `standard` on the inputs, then `hidden` convolutions with ReLU, each (weight [n, H, C, k, k], bias [n, H]).
    Behind it: a `sigmoid`, and bilinear upsampling to `size` (0: none).
    """

    weight: Tensor
    bias: Tensor
    padding: int
    hidden: tuple[tuple[Tensor, Tensor], ...] = ()
    sigmoid: bool = False
    size: int = 0
    standard: Standard | None = None

    def predict(self, inputs: Tensor) -> Tensor:
        """Return the maps float64 [B, n, h, w] of inputs [B, C, 28, 28]."""
        values = inputs.to(torch.float64) if self.standard is None else self.standard(inputs)
        groups = 1  # all heads read the same inputs; behind the first convolution each has its own channels
        for weight, bias in self.hidden:
            values = grouped(values, weight.flatten(0, 1), bias.flatten(), self.padding, groups).relu()
            groups = len(weight)
        maps = grouped(values, self.weight, self.bias, self.padding, groups)
        maps = maps.sigmoid() if self.sigmoid else maps
        if not self.size:
            return maps
        matrix = upsampling(maps.shape[2], self.size)
        return matrix @ maps @ matrix.T

    def tensors(self, place: int) -> dict[str, Tensor]:
        """Return the head at `place` as named tensors, for its file."""
        found = {"weight": self.weight[place][None], "bias": self.bias[place].reshape(1)}
        for layer, (weight, bias) in enumerate(self.hidden):
            found |= {f"hidden.{layer}.weight": weight[place], f"hidden.{layer}.bias": bias[place]}
        if self.standard is not None:
            found |= {"shift": self.standard.shift, "scale": self.standard.scale}
        return {name: value.contiguous() for name, value in found.items()}


def drawn(outputs: int, channels: int, kernel: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw one convolution as the report does: Xavier uniform weights [out, C, k, k], torch's default bias [out], float64."""
    weight, bias = torch.empty(outputs, channels, kernel, kernel), torch.empty(outputs)
    torch.nn.init.xavier_uniform_(weight, generator=generator)
    bound = (channels * kernel**2) ** -0.5
    torch.nn.init.uniform_(bias, -bound, bound, generator=generator)
    return weight.to(torch.float64), bias.to(torch.float64)


def initial_head(channels: int, kernel: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draw the one convolution of a linear head: weight [C, k, k] and bias [].

    >>> weight, bias = initial_head(15, 3, seed=0)
    >>> weight.shape, bool(weight.abs().max() <= (6 / (15 * 9 + 9)) ** 0.5)
    (torch.Size([15, 3, 3]), True)
    """
    weight, bias = drawn(1, channels, kernel, torch.Generator().manual_seed(seed))
    return weight[0], bias[0]


def save_head(path: Path, heads: Heads, place: int, metadata: dict[str, Any]) -> None:
    """Write the head at `place` as safetensors (see `Heads.tensors`), how it was made as metadata, atomically."""
    described = metadata | {"padding": heads.padding, "sigmoid": heads.sigmoid, "size": heads.size}
    write_atomic(path, save(heads.tensors(place), metadata={key: json.dumps(value) for key, value in described.items()}))


def load_head(path: Path) -> tuple[Heads, dict[str, Any]]:
    """Read a head written by `save_head`; raises UsageError if the file is another thing."""
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name).to(torch.float64) for name in file.keys()}  # noqa: SIM118 - not a mapping
            metadata = {key: json.loads(value) for key, value in (file.metadata() or {}).items()}
        if missing := {"cell", "network_key", "network", "backbone"} - set(metadata):
            raise KeyError(", ".join(sorted(missing)))
        layers = range(sum(name.startswith("hidden.") for name in tensors) // 2)
        heads = Heads(
            tensors["weight"],
            tensors["bias"],
            int(metadata["padding"]),
            tuple((tensors[f"hidden.{n}.weight"][None], tensors[f"hidden.{n}.bias"][None]) for n in layers),
            bool(metadata.get("sigmoid", False)),
            int(metadata.get("size", 0)),
            Standard(tensors["shift"], tensors["scale"]) if "shift" in tensors else None,
        )
    except FileNotFoundError:
        raise UsageError(f"head file {path} does not exist; a sweep writes them to RUN/heads/") from None
    except (SafetensorError, KeyError, ValueError) as error:
        raise UsageError(f"{path} is not a head that a sweep wrote: {error}") from None
    return heads, metadata
