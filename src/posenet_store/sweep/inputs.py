"""A head's input from a store, spelled as text: `aligned`, `aligned:f1+f5`, `full`, `full:f5`, `corners`, `corners:f5`."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from posenet_store.errors import UsageError, unknown
from posenet_store.resampling import resize_to_grid
from posenet_store.specs import ALIGNED, ALIGNED_CHANNELS, CORNERS_SUFFIX, GRID, StoreSpec
from posenet_store.threads import limit_torch_to_one_thread, map_on_threads

FORMS = "aligned, aligned:f1+f2, full, full:f5, corners, corners:f5"
CORNERS = "corners"
ROWS_AT_A_TIME = 4


@dataclass(frozen=True)
class Input:
    """A head's input, [channels, 28, 28] an image.

    `kind` is aligned (the report's 3 channels a tap), full (all channels) or corners (all channels, on the grid of the
    official code); `taps` are positions, from 0, with `widths` channels each; `arrays` of the store must be read.
    """

    kind: str
    taps: tuple[int, ...]
    arrays: tuple[str, ...]
    widths: tuple[int, ...]

    @property
    def channels(self) -> int:
        """Channels of all taps together."""
        return sum(self.widths)

    def places(self, part: "Input") -> tuple[int, ...]:
        """Return the positions in this input of the channels of `part`, an input of the same kind from some of these taps."""
        starts = dict(zip(self.taps, accumulate([0, *self.widths]), strict=False))
        return tuple(starts[tap] + i for tap, width in zip(part.taps, part.widths, strict=True) for i in range(width))

    def assemble(self, values: Mapping[str, NDArray[Any]]) -> Tensor:
        """Make float32 [B, channels, 28, 28] of the arrays [B, ...] that a Reader yields."""
        arrays = [torch.from_numpy(values[name]) for name in self.arrays]
        if self.kind == ALIGNED:
            arrays = [arrays[0][:, ALIGNED_CHANNELS * tap : ALIGNED_CHANNELS * (tap + 1)] for tap in self.taps]
        output = torch.empty(len(arrays[0]), self.channels, GRID, GRID)
        with limit_torch_to_one_thread() as threads:
            count = threads if reads_all_channels(self.kind) else 1  # a few channels are copied sooner than threads start
            shares = (tensor.tensor_split(count) for tensor in (output, *arrays))
            map_on_threads(lambda share: self._fill(share[0], share[1:]), zip(*shares, strict=True), count)
        return output

    @torch.inference_mode()  # threads do not inherit it, and a tensor made in it can be filled in it only
    def _fill(self, output: Tensor, arrays: Sequence[Tensor]) -> None:
        """Convert to float32 and resize a few rows at a time, through one buffer: many allocations would fragment the heap."""
        for tap, target in zip(arrays, output.split(self.widths, dim=1), strict=True):
            if tap.shape == target.shape:
                target.copy_(tap)
                continue
            wide = torch.empty(min(len(tap), ROWS_AT_A_TIME), *tap.shape[1:])
            for rows, resized in zip(tap.split(ROWS_AT_A_TIME), target.split(ROWS_AT_A_TIME), strict=True):
                resized.copy_(resize_to_grid(wide[: len(rows)].copy_(rows), self.kind == CORNERS))


def reads_all_channels(text: str) -> bool:
    """Return whether an input reads all channels of a tap, not just the report's three, which every store has."""
    return text.partition(":")[0] != ALIGNED


def parse_input(text: str, spec: StoreSpec) -> Input:
    """Return the Input that `text` names in a store; raises UsageError if the store does not hold it."""
    kind, _, listed = text.partition(":")
    if kind not in (ALIGNED, "full", CORNERS):
        raise UsageError(f"unknown input {text!r}; accepted: {FORMS}")
    known = [tap.name for tap in spec.taps]
    names = tuple(listed.split("+")) if listed else tuple(known)
    for name in names:
        if name not in known:
            raise unknown(f"tap in input {text!r} of {spec.folder}", name, known)
    if reads_all_channels(text) and spec.layout == "aligned":
        raise UsageError(
            f"input {text!r} needs all channels; {spec.folder} keeps three a tap (build it with --layout native or readout)"
        )
    taps = tuple(known.index(name) for name in names)
    widths = tuple(spec.taps[tap].shape[0] if reads_all_channels(text) else ALIGNED_CHANNELS for tap in taps)
    suffix = CORNERS_SUFFIX if kind == CORNERS else ""
    arrays = tuple(name + suffix if name + suffix in spec.arrays else name for name in names)
    return Input(kind, taps, arrays if reads_all_channels(text) else (ALIGNED,), widths)


def join_inputs(texts: Iterable[str], spec: StoreSpec) -> str:
    """Return the input whose stream serves all of `texts`, of one kind: all taps of `aligned`, else the taps in `texts`.

    The `aligned` array is read with all taps in any case, and its moments are small: later sweeps can use them too.
    """
    inputs = [parse_input(text, spec) for text in texts]
    kind = inputs[0].kind
    taps = sorted({tap for source in inputs for tap in source.taps})
    complete = kind == ALIGNED or len(taps) == len(spec.taps)
    return kind if complete else f"{kind}:{'+'.join(spec.taps[tap].name for tap in taps)}"
