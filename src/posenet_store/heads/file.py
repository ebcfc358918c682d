"""Files of trained heads: safetensors, with how the head was made as metadata."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from posenet_store.errors import UsageError
from posenet_store.files import write_atomic
from posenet_store.heads.model import Heads, Standardisation


def save_head(path: Path, heads: Heads, index: int, metadata: dict[str, Any]) -> None:
    """Write head number `index` as safetensors (see `Heads.get_tensors`), with metadata on its training, atomically."""
    described = metadata | {"padding": heads.padding, "sigmoid": heads.sigmoid, "size": heads.size}
    write_atomic(path, save(heads.get_tensors(index), metadata={key: json.dumps(value) for key, value in described.items()}))


def load_head(path: Path) -> tuple[Heads, dict[str, Any]]:
    """Read a head written by `save_head`; raises UsageError if the file is none."""
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
            Standardisation(tensors["shift"], tensors["scale"]) if "shift" in tensors else None,
        )
    except FileNotFoundError:
        raise UsageError(f"head file {path} does not exist; a sweep writes them to RUN/heads/") from None
    except (SafetensorError, KeyError, ValueError) as error:
        raise UsageError(f"{path} is not a head that a sweep wrote: {error}") from None
    return heads, metadata
