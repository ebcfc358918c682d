"""What a head reads of a store, spelled as text: `aligned`, `aligned:f1+f5`, `full`, `full:f5`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from posenet_store.alignment import full
from posenet_store.errors import UsageError, unknown
from posenet_store.specs import ALIGNED, ALIGNED_CHANNELS, StoreSpec

FORMS = "aligned, aligned:f1+f2, full, full:f5"


@dataclass(frozen=True)
class Input:
    """A head's input: `kind` is aligned (3 channels a tap) or full (all channels); `taps` are positions, from 0."""

    kind: str
    taps: tuple[int, ...]
    names: tuple[str, ...]
    channels: int

    @property
    def arrays(self) -> tuple[str, ...]:
        """The store's arrays that must be read."""
        return (ALIGNED,) if self.kind == ALIGNED else self.names

    def assemble(self, values: Mapping[str, NDArray[Any]]) -> Tensor:
        """Make float32 [B, channels, 28, 28] of the arrays [B, ...] that a Reader yields."""
        if self.kind == ALIGNED:
            stored = torch.from_numpy(values[ALIGNED])
            picked = [stored[:, ALIGNED_CHANNELS * tap : ALIGNED_CHANNELS * (tap + 1)] for tap in self.taps]
            return torch.cat(picked, dim=1).to(torch.float32)
        return full([torch.from_numpy(values[name]).to(torch.float32) for name in self.names])


def parse_input(text: str, spec: StoreSpec) -> Input:
    """Return the Input that `text` names in a store; raises UsageError if the store does not hold it."""
    kind, _, chosen = text.partition(":")
    if kind not in (ALIGNED, "full"):
        raise UsageError(f"unknown input {text!r}; accepted: {FORMS}")
    known = [tap.name for tap in spec.taps]
    names = tuple(chosen.split("+")) if chosen else tuple(known)
    for name in names:
        if name not in known:
            raise unknown(f"tap in input {text!r} of {spec.folder}", name, known)
    if kind == "full" and spec.layout == "aligned":
        raise UsageError(f"input {text!r} needs all channels; {spec.folder} keeps three a tap (build it with --layout native)")
    taps = tuple(known.index(name) for name in names)
    per_tap = [ALIGNED_CHANNELS if kind == ALIGNED else spec.taps[tap].shape[0] for tap in taps]
    return Input(kind, taps, names, sum(per_tap))
