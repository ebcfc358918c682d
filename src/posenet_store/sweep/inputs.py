"""A head's input from a store, spelled as text: `aligned`, `aligned:f1+f5`, `full`, `full:f5`, `corners`, `corners:f5`."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate

from posenet_store.errors import UsageError, show_value, unknown
from posenet_store.specs import ALIGNED, ALIGNED_CHANNELS, CORNERS_SUFFIX, GRID, StoreSpec

FORMS = "aligned, aligned:f1+f2, full, full:f5, corners, corners:f5"
FULL, CORNERS = "full", "corners"


@dataclass(frozen=True)
class Input:
    """A head's input, [channels, 28, 28] an image.

    `kind` is aligned (the report's 3 channels a tap), full (all channels) or corners (all channels, on the grid of the
    official code); `taps` are positions, from 0, with `widths` channels each; `arrays` of the store must be read. Sums over all
    channels take them as `tap_shapes`, (channels, side) each: as they are stored, if they are coarser than the grid. The
    `arrays` themselves are of `stored_shapes`, (channels, height, width).
    """

    kind: str
    taps: tuple[int, ...]
    arrays: tuple[str, ...]
    widths: tuple[int, ...]
    tap_shapes: tuple[tuple[int, int], ...]
    stored_shapes: tuple[tuple[int, int, int], ...]

    @property
    def channels(self) -> int:
        """Channels of all taps together."""
        return sum(self.widths)

    @property
    def aligns_corners(self) -> bool:
        """Whether taps are resized as the official code does (see `resampling.resize_to_grid`)."""
        return self.kind == CORNERS

    def places(self, part: "Input") -> tuple[int, ...]:
        """Return the positions in this input of the channels of `part`, an input of the same kind from some of these taps."""
        starts = dict(zip(self.taps, accumulate([0, *self.widths]), strict=False))
        return tuple(starts[tap] + i for tap, width in zip(part.taps, part.widths, strict=True) for i in range(width))


def reads_all_channels(text: str) -> bool:
    """Return whether an input reads all channels of a tap, not just the report's three, which every store has."""
    return text.partition(":")[0] != ALIGNED


def parse_input(text: str, spec: StoreSpec) -> Input:
    """Return the Input that `text` names in a store; raises UsageError if the store does not hold it."""
    kind, _, listed = text.partition(":")
    if kind not in (ALIGNED, FULL, CORNERS):
        raise UsageError(f"unknown input {show_value(text)}; accepted: {FORMS}")
    known = [tap.name for tap in spec.taps]
    names = tuple(listed.split("+")) if listed else tuple(known)
    for name in names:
        if name not in known:
            raise unknown(f"tap in input {show_value(text)} of {spec.folder}", name, known)
    if reads_all_channels(text) and spec.layout == "aligned":
        raise UsageError(
            f"input {show_value(text)} needs all channels; {spec.folder} keeps three a tap "
            "(build it with --layout native or readout)"
        )
    taps = tuple(known.index(name) for name in names)
    widths = tuple(spec.taps[tap].shape[0] if reads_all_channels(text) else ALIGNED_CHANNELS for tap in taps)
    suffix = CORNERS_SUFFIX if kind == CORNERS else ""
    arrays = tuple(name + suffix if name + suffix in spec.maps else name for name in names)
    arrays = arrays if reads_all_channels(text) else (ALIGNED,)
    stored = tuple(spec.maps[name] for name in arrays)
    shapes = tuple((c, h if h == w < GRID else GRID) for c, h, w in stored)
    shapes = shapes if reads_all_channels(text) else ((sum(widths), GRID),)
    return Input(kind, taps, arrays, widths, shapes, stored)


def join_inputs(texts: Iterable[str], spec: StoreSpec) -> str:
    """Return the input whose stream serves all of `texts`, of one kind: all taps of `aligned`, else the taps in `texts`.

    The `aligned` array is read with all taps in any case, and its moments are small: later sweeps can use them too.
    """
    inputs = [parse_input(text, spec) for text in texts]
    kind = inputs[0].kind
    taps = sorted({tap for source in inputs for tap in source.taps})
    complete = kind == ALIGNED or len(taps) == len(spec.taps)
    return kind if complete else f"{kind}:{'+'.join(spec.taps[tap].name for tap in taps)}"
