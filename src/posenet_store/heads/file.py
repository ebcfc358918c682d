"""Files of trained heads: safetensors, with how the head was made as metadata."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save
from torch import Tensor

from posenet_store.errors import UsageError, first_line, show_value
from posenet_store.files import write_atomic
from posenet_store.heads.model import Heads, Standardisation
from posenet_store.heads.targets import PATTERNS, TARGETS
from posenet_store.state_dicts import find_fault, read_safetensors
from posenet_store.toml_config import check_range

METADATA = {
    "cell": dict, "network_key": str, "network": str, "backbone": str, "images": str, "weights_kind": str,
    "network_padding": str, "network_sha256": str, "images_sha256": str, "padding": int, "sigmoid": bool, "size": int,
}  # fmt: skip
"""What the metadata of every head have, with their types."""


def save_head(path: Path, heads: Heads, index: int, metadata: dict[str, Any]) -> None:
    """Write head number `index` as safetensors (see `Heads.get_tensors`), with metadata on its training, atomically."""
    described = metadata | {"padding": heads.padding, "sigmoid": heads.sigmoid, "size": heads.size}
    write_atomic(path, save(heads.get_tensors(index), metadata={key: json.dumps(value) for key, value in described.items()}))


def load_head(path: Path) -> tuple[Heads, dict[str, Any]]:
    """Read a head written by `save_head`; raises UsageError if the file is none."""
    try:
        tensors, texts = read_safetensors(path)
        metadata = {key: json.loads(value) for key, value in texts.items()}
        return _make_heads(tensors, metadata), metadata
    except FileNotFoundError:
        raise UsageError(f"head file {path} does not exist; a sweep writes them to RUN/heads/") from None
    except (SafetensorError, KeyError, ValueError, RecursionError, UsageError) as error:
        raise UsageError(
            f"{path} is not a head that a sweep wrote, RUN/heads/ID.safetensors ({first_line(error)}); with --target, one of "
            f"{', '.join((*TARGETS, *PATTERNS))}, a state dict (.pth, .safetensors) of one torch.nn.Conv2d is accepted too"
        ) from None


def _make_heads(tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> Heads:
    """Build the head of a file; raises KeyError, ValueError or UsageError if its content is none of a head."""
    if missing := METADATA.keys() - metadata.keys():
        raise KeyError(", ".join(sorted(missing)))
    if wrong := [name for name, kind in METADATA.items() if type(metadata[name]) is not kind]:
        raise ValueError(f"{wrong[0]} = {show_value(metadata[wrong[0]])}")
    check_range("paddings", metadata["padding"], "padding")
    check_range("size", metadata["size"], "size")
    for name, value in tensors.items():
        # training may have diverged: the images of such a head are counted, and it is no error
        if fault := find_fault(value, finite=False) or (None if value.is_floating_point() else "holds whole numbers"):
            raise ValueError(f"{name} {fault}")
    layers = range(sum(name.startswith("hidden.") for name in tensors) // 2)
    parts = ("", *(f"hidden.{n}." for n in layers))
    known = {part + name for part in parts for name in ("weight", "bias")} | {"shift", "scale"}.intersection(tensors)
    if tensors.keys() != known or len(known) % 2:
        raise ValueError(f"its tensors are {show_value(sorted(tensors))}")
    numbers = {name: value.to(torch.float64) for name, value in tensors.items()}
    hidden = tuple((numbers[f"hidden.{n}.weight"], numbers[f"hidden.{n}.bias"]) for n in layers)
    standard = Standardisation(numbers["shift"], numbers["scale"]) if "shift" in numbers else None
    _check_shapes([*hidden, (numbers["weight"], numbers["bias"])], standard)
    return Heads(
        numbers["weight"],
        numbers["bias"],
        metadata["padding"],
        tuple((weight[None], bias[None]) for weight, bias in hidden),
        metadata["sigmoid"],
        metadata["size"],
        standard,
    )


def _check_shapes(convolutions: Sequence[tuple[Tensor, Tensor]], standard: Standardisation | None) -> None:
    """Raise ValueError if convolutions, [out, in, k, k] with a bias [out], do not follow each other to a single map."""
    channels = [weight.shape[:1] for weight, _ in convolutions]
    for (weight, bias), before in zip(convolutions, [convolutions[0][0].shape[1:2], *channels], strict=False):
        square = weight.dim() == 4 and 1 <= weight.shape[2] == weight.shape[3]
        if not square or weight.shape[1:2] != before or bias.shape != weight.shape[:1]:
            raise ValueError(f"a convolution of shape {list(weight.shape)}, with a bias {list(bias.shape)}, where none fits")
    if channels[-1] != (1,):
        raise ValueError(f"it predicts {channels[-1][0]} maps")
    if standard is not None and {standard.shift.shape, standard.scale.shape} != {convolutions[0][0].shape[1:2]}:
        raise ValueError("it standardises another number of channels than it reads")
