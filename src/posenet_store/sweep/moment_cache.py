"""Moments kept beside the stores: what one sweep has summed, the next one need not read again.

A file holds named tensors of one unit (see `families`): of all images one by one for the report's recipe, of their sums
for ridge. It is a cache: keyed by the store's content and what was summed, checked by CRC-32C, and safe to delete.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from posenet_store.files import canonical_json, crc32c, replace_atomically, sha256

VERSION = 2
Keep = Callable[[Mapping[str, Any], Mapping[str, Tensor]], object]


@dataclass(frozen=True)
class MomentCache:
    """The kept moments of one store; with `folder` None nothing is kept and nothing is found."""

    folder: Path | None
    store_id: str

    def _path(self, what: Mapping[str, Any]) -> tuple[Path | None, str]:
        key = canonical_json({"version": VERSION, "store_id": self.store_id} | dict(what)).decode()
        return self.folder and self.folder / f"{what['kind']}-{sha256(key.encode())[:16]}.safetensors", key

    def find(self, what: Mapping[str, Any]) -> dict[str, Tensor] | None:
        """Return the tensors kept under `what`, None if there are none that are whole."""
        path, key = self._path(what)
        if path is None or not path.is_file():
            return None
        try:
            with safe_open(path, "pt") as file:
                recorded = file.metadata() or {}
                found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        except (SafetensorError, OSError):
            return None
        return found if recorded == {"key": key, "checks": _checks(found)} else None

    def keep(self, what: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Keep tensors under `what`; where they can't be written (a store shared read-only, a full disk) they are not."""
        path, key = self._path(what)
        if path is None:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replace_atomically(path) as temporary:
                save_file(dict(tensors), temporary, metadata={"key": key, "checks": _checks(tensors)})
        except (SafetensorError, OSError):
            return

    @contextmanager
    def meanwhile(self) -> Iterator[Keep]:
        """Yield a `keep` that writes in a thread while the caller goes on; at the end of the block all is written."""
        with ThreadPoolExecutor(1) as writer:
            yield lambda what, tensors: writer.submit(self.keep, what, tensors)


def _checks(tensors: Mapping[str, Tensor]) -> str:
    sums = {name: crc32c(tensor.reshape(-1).view(torch.uint8).numpy().data) for name, tensor in tensors.items()}
    return json.dumps(sums, sort_keys=True)
