"""What a head reads of a store, spelled as text: `aligned`, `aligned:f1+f5`, `full`, `full:f5`, `corners`, `corners:f5`."""

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
        """Return where the channels of `part`, an input of the same kind and of some of these taps, lie in this one."""
        starts = dict(zip(self.taps, accumulate([0, *self.widths]), strict=False))
        return tuple(starts[tap] + i for tap, width in zip(part.taps, part.widths, strict=True) for i in range(width))

    def assemble(self, values: Mapping[str, NDArray[Any]]) -> Tensor:
        """Make float32 [B, channels, 28, 28] of the arrays [B, ...] that a Reader yields."""
        arrays = [torch.from_numpy(values[name]) for name in self.arrays]
        if self.kind == ALIGNED:
            arrays = [arrays[0][:, ALIGNED_CHANNELS * tap : ALIGNED_CHANNELS * (tap + 1)] for tap in self.taps]
        whole = torch.empty(len(arrays[0]), self.channels, GRID, GRID)
        with limit_torch_to_one_thread() as threads:
            count = threads if reads_all_channels(self.kind) else 1  # a few channels are copied sooner than threads start
            shares = (some.tensor_split(count) for some in (whole, *arrays))
            map_on_threads(lambda share: self._fill(share[0], share[1:]), zip(*shares, strict=True), count)
        return whole

    @torch.inference_mode()  # a thread of its own does not inherit it, and what the caller made in it could not be filled
    def _fill(self, whole: Tensor, arrays: Sequence[Tensor]) -> None:
        """Widen and resize a few rows at a time, through one buffer: pieces of the heap for each would tear it up."""
        for tap, target in zip(arrays, whole.split(self.widths, dim=1), strict=True):
            if tap.shape == target.shape:
                target.copy_(tap)
                continue
            wide = torch.empty(min(len(tap), ROWS_AT_A_TIME), *tap.shape[1:])
            for rows, some in zip(tap.split(ROWS_AT_A_TIME), target.split(ROWS_AT_A_TIME), strict=True):
                some.copy_(resize_to_grid(wide[: len(rows)].copy_(rows), self.kind == CORNERS))


def reads_all_channels(text: str) -> bool:
    """True if an input reads more of a tap than the report's three channels, which every store has."""
    return text.partition(":")[0] != ALIGNED


def parse_input(text: str, spec: StoreSpec) -> Input:
    """Return the Input that `text` names in a store; raises UsageError if the store does not hold it."""
    kind, _, chosen = text.partition(":")
    if kind not in (ALIGNED, "full", CORNERS):
        raise UsageError(f"unknown input {text!r}; accepted: {FORMS}")
    known = [tap.name for tap in spec.taps]
    names = tuple(chosen.split("+")) if chosen else tuple(known)
    for name in names:
        if name not in known:
            raise unknown(f"tap in input {text!r} of {spec.folder}", name, known)
    if reads_all_channels(text) and spec.layout == "aligned":
        raise UsageError(
            f"input {text!r} needs all channels; {spec.folder} keeps three a tap (build it with --layout native or readout)"
        )
    taps = tuple(known.index(name) for name in names)
    widths = tuple(spec.taps[tap].shape[0] if reads_all_channels(text) else ALIGNED_CHANNELS for tap in taps)
    own_grid = [name + CORNERS_SUFFIX if kind == CORNERS else name for name in names]
    arrays = tuple(own if own in spec.arrays else name for own, name in zip(own_grid, names, strict=True))
    return Input(kind, taps, arrays if reads_all_channels(text) else (ALIGNED,), widths)


def join_inputs(texts: Iterable[str], spec: StoreSpec) -> str:
    """Return the input whose stream serves all of `texts`, which are of one kind: all taps of `aligned`, else those asked for.

    `aligned` is read whole in any case, and its moments are small: the same ones then serve every later question.
    """
    inputs = [parse_input(text, spec) for text in texts]
    kind = inputs[0].kind
    taps = sorted({tap for one in inputs for tap in one.taps})
    whole = kind == ALIGNED or len(taps) == len(spec.taps)
    return kind if whole else f"{kind}:{'+'.join(spec.taps[tap].name for tap in taps)}"
