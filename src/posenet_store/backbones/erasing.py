"""Erase directions from the features of a running network, as a file of the command `erase` says.

Where a stage's features lack a target, do later stages compute it anew, and does the classifier miss it?
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor, nn

from posenet_store.backbones.backbone import Backbone
from posenet_store.backbones.checks import check_eraser
from posenet_store.backbones.inference import is_compiled
from posenet_store.backbones.weights import compute_state_digest
from posenet_store.errors import UsageError, first_line, show_value
from posenet_store.files import expand_user, sha256
from posenet_store.state_dicts import find_fault, read_safetensors

PARTS = {"left": (0, 1), "right": (1, 0), "mean": (0,)}
"""Tensor of a tap -> its axes: channels (0), erased dimensions (1)."""


@dataclass(frozen=True)
class Erasers:
    """What an eraser file holds: by module name `left` [C, r], `right` [r, C] and `mean` [C]; of which network it is.

    `label` is for people, `sha256` is over the content.
    """

    of_modules: Mapping[str, Mapping[str, Tensor]]
    backbone: str
    weights_sha256: str
    label: str
    sha256: str


def read_erasers(file: str) -> Erasers:
    """Read an eraser file; raises UsageError if it is missing, damaged or no eraser."""
    check_eraser(file)
    path = expand_user(file)
    try:
        tensors, texts = read_safetensors(path)
        modules = json.loads(texts["modules"])
        erasers = {module: {part: tensors[f"{tap}.{part}"] for part in PARTS} for tap, module in modules.items()}
        for tap, module in modules.items():
            _check_shapes(tap, erasers[module])
        label = f"erased-{'+'.join(json.loads(texts['targets']))}-{'+'.join(modules)}"
        digest = sha256(texts["modules"].encode() + compute_state_digest(tensors).encode())  # of a file it is not always one
        return Erasers(erasers, texts["backbone"], texts["weights_sha256"], label, digest)
    except (SafetensorError, KeyError, ValueError, TypeError, AttributeError, OSError, RecursionError) as error:
        raise UsageError(f"{path} is not a file that `erase` wrote: {first_line(error)}") from None


def _check_shapes(tap: str, parts: Mapping[str, Tensor]) -> None:
    """Raise ValueError if the tensors of a tap do not fit each other, or hold no finite floating numbers."""
    sizes = parts["left"].shape
    for part, axes in PARTS.items():
        fault = find_fault(parts[part]) or (None if parts[part].is_floating_point() else "holds whole numbers")
        if fault or len(sizes) != 2 or tuple(parts[part].shape) != tuple(sizes[axis] for axis in axes):
            raise ValueError(f"{tap}.{part} of shape {show_value(list(parts[part].shape))} {fault or 'does not fit'}")


def erase_inside(backbone: Backbone, file: str) -> Backbone:
    """Return a network that erases from the outputs of its modules, whoever reads them; it is another network from now on.

    Raises UsageError if the file is of another network, or the network is compiled.
    """
    erasers = read_erasers(file)
    if (erasers.backbone, erasers.weights_sha256) != (backbone.name, backbone.weights_sha256):
        raise UsageError(
            f"{file} is of {erasers.backbone} with weights {erasers.weights_sha256[:8]}, this is {backbone.name} with "
            f"{backbone.weights_sha256[:8]}; write one from a store of this network"
        )
    if is_compiled(backbone.compute):
        raise UsageError("--erase is not possible with --compile; leave one of them out")
    for module, parts in erasers.of_modules.items():
        backbone.module.get_submodule(module).register_forward_hook(_Eraser(module, parts))
    return replace(
        backbone,
        weights=f"{backbone.weights}-{erasers.label}",
        weights_sha256=sha256(f"erase {erasers.sha256} {backbone.weights_sha256}".encode()),
        erase=str(expand_user(file).resolve()),
    )


class _Eraser:
    """A hook that returns erased maps [B, C, H, W]: two convolutions of 1x1, in float32 at least."""

    def __init__(self, module: str, parts: Mapping[str, Tensor]) -> None:
        self._module = module
        self._right, self._left = (parts[name].to(torch.float32)[:, :, None, None] for name in ("right", "left"))
        self._bias = -(parts["right"].double() @ parts["mean"].double()).to(torch.float32)

    def __call__(self, _module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        """Return the output without the erased directions."""
        if output.dim() != 4 or output.shape[1] != len(self._left):
            raise UsageError(f"{self._module} returns no maps of {len(self._left)} channels; nothing can be erased there")
        device = output.device
        with torch.autocast(device.type, enabled=False):
            coordinates = F.conv2d(output.float(), self._right.to(device), self._bias.to(device))
            return output - F.conv2d(coordinates, self._left.to(device)).to(output.dtype)
