"""Heads: linear k x k convolutions, several trained and applied as one with several output channels.

Everything here is float64: each head's result is then the same, to rounding far below any published digit, whether
it is trained alone or beside a hundred others.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from posenet_store.errors import UsageError
from posenet_store.files import write_atomic


@dataclass(frozen=True)
class Heads:
    """n heads of one kernel and padding: `weight` [n, C, k, k] and `bias` [n], both float64."""

    weight: Tensor
    bias: Tensor
    padding: int

    def predict(self, inputs: Tensor) -> Tensor:
        """Return the maps float64 [B, n, h, w] of inputs [B, C, 28, 28]."""
        return F.conv2d(inputs.to(torch.float64), self.weight, self.bias, padding=self.padding)


def initial_head(channels: int, kernel: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draw one head as the report does: Xavier uniform weights [C, k, k] and torch's default bias, both float64.

    >>> weight, bias = initial_head(15, 3, seed=0)
    >>> weight.shape, bool(weight.abs().max() <= (6 / (15 * 9 + 9)) ** 0.5)
    (torch.Size([15, 3, 3]), True)
    """
    generator = torch.Generator().manual_seed(seed)
    weight, bias = torch.empty(1, channels, kernel, kernel), torch.empty(1)
    torch.nn.init.xavier_uniform_(weight, generator=generator)
    bound = (channels * kernel**2) ** -0.5
    torch.nn.init.uniform_(bias, -bound, bound, generator=generator)
    return weight[0].to(torch.float64), bias[0].to(torch.float64)


def save_head(path: Path, weight: Tensor, bias: Tensor, metadata: dict[str, Any]) -> None:
    """Write one head as safetensors: `weight` [1, C, k, k], `bias` [1], and how it was made as metadata, atomically."""
    tensors = {"weight": weight[None].contiguous(), "bias": bias.reshape(1).contiguous()}
    write_atomic(path, save(tensors, metadata={key: json.dumps(value) for key, value in metadata.items()}))


def load_head(path: Path) -> tuple[Heads, dict[str, Any]]:
    """Read a head written by `save_head`; raises UsageError if the file is another thing."""
    try:
        with safe_open(path, "pt") as file:
            weight, bias = file.get_tensor("weight"), file.get_tensor("bias")
            metadata = {key: json.loads(value) for key, value in (file.metadata() or {}).items()}
        if missing := {"cell", "network_key", "network", "backbone"} - set(metadata):
            raise KeyError(", ".join(sorted(missing)))
        return Heads(weight.to(torch.float64), bias.to(torch.float64), int(metadata["padding"])), metadata
    except FileNotFoundError:
        raise UsageError(f"head file {path} does not exist; a sweep writes them to RUN/heads/") from None
    except (SafetensorError, KeyError, ValueError) as error:
        raise UsageError(f"{path} is not a head that a sweep wrote: {error}") from None
