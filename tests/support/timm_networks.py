"""timm's networks for tests: the table of the documentation, and timm's own stages to compare with."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from posenet_store.specs import BackboneSpec

timm: Any = pytest.importorskip("timm")

ROW = r"^\|[^|]+\| `timm:(\w+)` \| (\d+), of (\d+) to (\d+) channels \| ([^|]+) \| (yes|no) \|$"
TABLE = (Path(__file__).parents[2] / "docs/how-to/own-network.md").read_text(encoding="utf-8")
ROWS = re.findall(ROW, TABLE, re.MULTILINE)
"""Of each family: an example, the number of its stages, channels of the first and last, tokens set aside, --positions."""
NAMES = [row[0] for row in ROWS]


def find_size(name: str) -> int:
    """Return a small size that the network takes: 4 x 4 patches."""
    return 56 if "patch14" in name else 64


def make_spec(name: str, **fields: Any) -> BackboneSpec:
    """Return how to load a network with random weights of seed 3, for small images."""
    options: dict[str, Any] = {"weights": "random:3", "size": find_size(name), "device": "cpu"}
    return BackboneSpec(f"timm:{name}", **(options | fields))


def make_plain_network(name: str, size: int) -> nn.Module:
    """Return timm's own network with the parameters of seed 3."""
    fixed = {"img_size": size} if timm.get_pretrained_cfg(name).fixed_input_size else {}
    torch.manual_seed(3)
    network: nn.Module = timm.create_model(name, **fixed).eval()
    return network


def make_pixels(size: int, count: int = 2) -> Tensor:
    """Return random images, uint8 [count, size, size, 3]."""
    return torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@torch.inference_mode()
def list_stages(network: nn.Module, inputs: Tensor) -> dict[str, Tensor]:
    """Return the stages that timm returns, by their place."""
    stages = network.forward_intermediates(inputs, intermediates_only=True)  # type: ignore[operator]
    return {str(index): stage.clone() for index, stage in enumerate(stages)}


def assert_stages_equal(features: dict[str, Tensor], network: nn.Module, inputs: Tensor) -> None:
    """Compare features with the stages that timm returns for the same inputs."""
    stages = list_stages(network, inputs)
    assert len(features) == len(stages)
    for value, stage in zip(features.values(), stages.values(), strict=True):
        torch.testing.assert_close(value, stage, rtol=1e-5, atol=1e-5 * stage.abs().max().item())
