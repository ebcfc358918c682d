"""Erase directions from the features of a running network, as a file of the command `erase` says.

Where a stage's features lack a target, do later stages compute it anew, and does the classifier miss it?
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import save
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from posenet_store.backbones.backbone import Backbone
from posenet_store.backbones.checks import check_eraser
from posenet_store.backbones.inference import is_compiled
from posenet_store.backbones.weights import compute_state_digest
from posenet_store.errors import UsageError, first_line, show_value
from posenet_store.files import expand_user, sha256, write_atomic
from posenet_store.specs import StoreSpec
from posenet_store.state_dicts import find_fault, read_safetensors

PARTS = {"left": (0, 1), "right": (1, 0), "mean": (0,)}
"""Tensor of a stage -> its axes: channels (0), erased dimensions (1)."""
StageParts = Mapping[str, Tensor]
"""What is erased at a stage, float64: `left` [C, r], `right` [r, C] and `mean` [C]."""


@dataclass(frozen=True)
class ErasedNetwork:
    """The network of an eraser: the features of another one are others, also where its weights are the same."""

    backbone: str
    weights_sha256: str
    padding: str
    preprocess: str
    size: int

    @classmethod
    def of(cls, network: StoreSpec | Backbone) -> "ErasedNetwork":
        """Return that of a store, or of a network at hand."""
        name = network.name if isinstance(network, Backbone) else network.backbone
        return cls(name, network.weights_sha256, network.padding, network.preprocess.kind, network.preprocess.size)


@dataclass(frozen=True)
class Erasers:
    """What is erased inside a network: of each stage its module and its parts, in the order of the forward pass.

    `targets` are erased; with a `seed` as many random directions are, which that seed has drawn.
    """

    modules: Mapping[str, str]
    parts: Mapping[str, StageParts]
    network: ErasedNetwork
    targets: tuple[str, ...]
    seed: int | None = None

    @property
    def erased(self) -> str:
        """What is erased, for people."""
        return "+".join(self.targets) if self.seed is None else f"random{self.seed}"

    @property
    def label(self) -> str:
        """What is erased where, for people."""
        return f"erased-{self.erased}-{'+'.join(self.modules)}"

    @property
    def dimensions(self) -> dict[str, int]:
        """How many dimensions are erased at each stage."""
        return {stage: parts["left"].shape[1] for stage, parts in self.parts.items()}

    @property
    def sha256(self) -> str:
        """A digest of what is erased where; of a file it is not always one."""
        return sha256(json.dumps(self.modules).encode() + compute_state_digest(self._list_tensors()).encode())

    def _list_tensors(self) -> dict[str, Tensor]:
        return {f"{stage}.{part}": self.parts[stage][part].contiguous() for stage in self.modules for part in PARTS}

    def save(self, path: Path) -> None:
        """Write the file that `read_erasers` reads."""
        facts = {"modules": self.modules, "network": asdict(self.network), "targets": self.targets, "seed": self.seed}
        write_atomic(path, save(self._list_tensors(), {name: json.dumps(fact) for name, fact in facts.items()}))


def read_erasers(file: str) -> Erasers:
    """Read an eraser file; raises UsageError if it is missing, damaged or no eraser."""
    check_eraser(file)
    path = expand_user(file)
    try:
        tensors, texts = read_safetensors(path)
        modules, network, targets, seed = (json.loads(texts[name]) for name in ("modules", "network", "targets", "seed"))
        parts = {stage: {part: tensors[f"{stage}.{part}"] for part in PARTS} for stage in modules}
        for stage in modules:
            _check_shapes(stage, parts[stage])
        if not all(isinstance(text, str) for text in (*targets, *modules.values())) or not isinstance(seed, int | None):
            raise ValueError(f"targets = {show_value(targets)}, seed = {show_value(seed)}")
        return Erasers(modules, parts, ErasedNetwork(**network), tuple(targets), seed)
    except (SafetensorError, KeyError, ValueError, TypeError, AttributeError, OSError, RecursionError) as error:
        raise UsageError(f"{path} is not a file that `erase` wrote: {first_line(error)}") from None


def _check_shapes(stage: str, parts: StageParts) -> None:
    """Raise ValueError if the tensors of a stage do not fit each other, or hold no finite floating numbers."""
    sizes = parts["left"].shape
    for part, axes in PARTS.items():
        fault = find_fault(parts[part]) or (None if parts[part].is_floating_point() else "holds whole numbers")
        if fault or len(sizes) != 2 or tuple(parts[part].shape) != tuple(sizes[axis] for axis in axes):
            raise ValueError(f"{stage}.{part} of shape {show_value(list(parts[part].shape))} {fault or 'does not fit'}")


def erase_inside(backbone: Backbone, file: str) -> Backbone:
    """Return a network that erases from the outputs of its modules, whoever reads them; it is another network from now on.

    Raises UsageError if the file is of another network, or the network is compiled.
    """
    erasers, network = read_erasers(file), ErasedNetwork.of(backbone)
    if differing := [(name, value, getattr(network, name)) for name, value in vars(erasers.network).items()
                     if value != getattr(network, name)]:  # fmt: skip
        name, value, other = differing[0]
        raise UsageError(
            f"{file} is of a network with {name} {_shorten(value)}, and that of this one is {_shorten(other)}; "
            "write one from a store of this network"
        )
    if is_compiled(backbone.compute):
        raise UsageError("--erase is not possible with --compile; leave one of them out")
    for stage, module in erasers.modules.items():
        add_eraser(backbone, module, erasers.parts[stage])
    return replace(
        backbone,
        weights=f"{backbone.weights}-{erasers.label}",
        weights_sha256=sha256(f"erase {erasers.sha256} {backbone.weights_sha256}".encode()),
        erase=str(expand_user(file).resolve()),
    )


def _shorten(value: Any) -> str:
    """Return a value for people, of a digest the first digits."""
    return str(value)[:8] if len(str(value)) == 64 else show_value(value)


def add_eraser(backbone: Backbone, module: str, parts: StageParts) -> RemovableHandle:
    """Erase from the output of a module from now on; return what ends it; raises UsageError if there is no such module."""
    try:
        return backbone.module.get_submodule(module).register_forward_hook(_Eraser(module, parts))
    except AttributeError:
        raise UsageError(f"{backbone.name} has no module {show_value(module)} here; write the eraser once more") from None


class _Eraser:
    """A hook that returns erased maps [B, C, H, W]: two convolutions of 1x1, in float32 at least."""

    def __init__(self, module: str, parts: StageParts) -> None:
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
