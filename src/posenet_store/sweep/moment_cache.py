"""Cache moments next to the stores, so that later sweeps need not read the features again.

A file holds named tensors of one moment group (see `grouping`) and one span of rows (see `spans`): of the span's images one
by one for gradient steps, of their sums for ridge. It is a cache: keyed by the store's content and what was summed, checked by
CRC-32C, and safe to delete.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from posenet_store.files import canonical_json, crc32c, replace_atomically, sha256

VERSION = 3
Save = Callable[[Mapping[str, Any], Mapping[str, Tensor]], object]


@dataclass(frozen=True)
class MomentCache:
    """The cached moments of one store; without a `folder` nothing is saved or loaded."""

    folder: Path | None
    store_id: str

    def _path(self, subject: Mapping[str, Any]) -> tuple[Path | None, str]:
        key = canonical_json({"version": VERSION, "store_id": self.store_id} | dict(subject)).decode()
        return self.folder and self.folder / f"{subject['kind']}-{sha256(key.encode())[:16]}.safetensors", key

    def holds(self, subject: Mapping[str, Any], names: Iterable[str] = ()) -> bool:
        """Return whether tensors of these names are saved under `subject`; their bytes are not read, and may be damaged."""
        path, _ = self._path(subject)
        if path is None or not path.is_file():
            return False
        try:
            with safe_open(path, "pt") as file:
                return set(names) <= set(file.keys())
        except (SafetensorError, OSError):
            return False

    def load(self, subject: Mapping[str, Any]) -> dict[str, Tensor] | None:
        """Load the tensors saved under `subject`; None if there are none or the file is damaged."""
        path, key = self._path(subject)
        if path is None or not path.is_file():
            return None
        try:
            with safe_open(path, "pt") as file:
                recorded = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        except (SafetensorError, OSError):
            return None
        return tensors if recorded == {"key": key, "checks": _compute_checksums(tensors)} else None

    def save(self, subject: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Save tensors under `subject`; do nothing if they can't be written (a read-only folder, a full disk)."""
        path, key = self._path(subject)
        if path is None:
            return
        try:
            with replace_atomically(path) as temporary:
                # as bytes, because the library makes files that only their owner may read
                temporary.write_bytes(save(dict(tensors), {"key": key, "checks": _compute_checksums(tensors)}))
        except (SafetensorError, OSError):
            return

    @contextmanager
    def save_in_background(self) -> Iterator[Save]:
        """Yield a `save` that writes in a thread; when the block ends, everything is written."""
        with ThreadPoolExecutor(1) as writer:
            yield lambda subject, tensors: writer.submit(self.save, subject, tensors)


def _compute_checksums(tensors: Mapping[str, Tensor]) -> str:
    """Return the CRC-32C of each tensor, as JSON."""
    sums = {name: crc32c(tensor.reshape(-1).view(torch.uint8).numpy().data) for name, tensor in tensors.items()}
    return json.dumps(sums, sort_keys=True)
