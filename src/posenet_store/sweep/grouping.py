"""Which heads of a pass share what: a head group is one convolution, a moment group one set of moments."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from posenet_store.heads.model import Heads
from posenet_store.heads.protocols import GradientProtocol, Protocol
from posenet_store.heads.sizes import count_moment_bytes
from posenet_store.heads.train_convolution import TrainingGroup
from posenet_store.specs import StoreSpec
from posenet_store.sweep.cell import Cell, make_cell_target
from posenet_store.sweep.inputs import FULL, Input, parse_input

Targets = dict[tuple[object, ...], Tensor]
"""Target maps float64 [h, w] by what makes them."""
Channels = tuple[int, ...] | None
"""Channels of a stream; None means all of them, in order."""


def select_channels(block: Tensor, channels: Channels) -> Tensor:
    """Return the channels of a block [B, C, 28, 28] that a group reads."""
    return block if channels is None else block[:, list(channels)]


@dataclass(frozen=True)
class HeadGroup:
    """Cells whose heads have one shape and input: they are one convolution over `channels` of the pass's stream."""

    cells: tuple[Cell, ...]
    channels: Channels
    width: int

    @property
    def shape(self) -> tuple[int, int]:
        """Kernel and padding."""
        return self.cells[0].kernel, self.cells[0].padding

    @property
    def unknowns(self) -> int:
        """Unknowns of a linear head, with its bias."""
        return self.width * self.shape[0] ** 2 + 1

    def alone(self) -> "MomentGroup":
        """Return the moment group of these heads alone."""
        return MomentGroup((self,), self.channels, self.width, self.shape)

    @property
    def gradient_protocol(self) -> GradientProtocol:
        """What trains these heads; raises TypeError if they are solved exactly."""
        protocol = self.cells[0].protocol
        if not isinstance(protocol, GradientProtocol):
            raise TypeError(f"{protocol.name} trains by no gradient step")
        return protocol


@dataclass(frozen=True)
class FittedHeads:
    """The heads of a group, in the order of its cells, and for each what the fit says of itself."""

    group: HeadGroup
    heads: Heads
    facts: tuple[dict[str, float], ...]


@dataclass(frozen=True)
class MomentGroup:
    """Head groups of one kernel and padding, `shape`, that take their moments from one set, over `channels` of the stream."""

    members: tuple[HeadGroup, ...]
    channels: Channels
    width: int
    shape: tuple[int, int]

    @property
    def reads_taps(self) -> bool:
        """Whether its sums take all taps of the stream as they are stored: no neighbourhood needs the grid."""
        return self.channels is None and self.shape == (1, 0)

    def keeps_maps(self, source: Input) -> bool:
        """Return whether its sums over a stream keep those of each tap's maps at their own size too."""
        return self.reads_taps and source.kind == FULL

    @property
    def unknowns(self) -> int:
        """Unknowns of a linear head on all channels, with its bias."""
        return self.width * self.shape[0] ** 2 + 1

    def target_cells(self) -> dict[tuple[object, ...], Cell]:
        """Return a cell for each distinct target map, by what makes it, in the order of the cells."""
        return {describe_target(cell): cell for heads in self.members for cell in heads.cells}

    def targets(self) -> Targets:
        """Return each distinct target map [h, w], float64, by what makes it, in the order of the cells."""
        cells = self.target_cells().items()
        return {description: torch.from_numpy(make_cell_target(cell).copy()) for description, cell in cells}

    def cache_key(self, source: Input) -> dict[str, Any]:
        """Return what identifies this group's moments among those of one store: channels, kernel, padding."""
        channels = None if self.channels is None else list(self.channels)
        return {"input": source.kind, "taps": list(source.taps), "channels": channels, "shape": list(self.shape)}

    def feature_indices(self, heads: HeadGroup) -> Tensor | None:
        """Return where a member's k x k features lie among the group's, None if they are all of them."""
        if heads.channels == self.channels:
            return None
        channels = range(self.width) if self.channels is None else self.channels
        positions = {channel: position for position, channel in enumerate(channels)}
        area = heads.shape[0] ** 2
        first = torch.tensor([positions[channel] for channel in heads.channels or ()]) * area
        return (first[:, None] + torch.arange(area)).flatten()


def describe_target(cell: Cell) -> tuple[object, ...]:
    """What makes a target map, at a given kernel and padding."""
    return cell.target, cell.value_range, cell.normalise


def group_cells(cells: Sequence[Cell], source: Input, spec: StoreSpec) -> list[HeadGroup]:
    """Split the cells of a pass, whose stream is `source`, into groups of one shape and input."""
    groups: dict[tuple[int, int, str, str], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.kernel, cell.padding, cell.input, _shape_name(cell.protocol)), []).append(cell)
    head_groups = []
    for (_, _, text, _), members in sorted(groups.items()):
        part = parse_input(text, spec)
        channels = source.places(part)
        everything = channels == tuple(range(source.channels))
        head_groups.append(HeadGroup(tuple(members), None if everything else channels, part.channels))
    return head_groups


def split_by_memory(groups: Sequence[MomentGroup], images: int, memory: int) -> list[list[MomentGroup]]:
    """Split moment groups into runs whose moments of `images` images stay within `memory` bytes together: each is one scan."""
    runs: list[list[MomentGroup]] = []
    total = 0
    for group in groups:
        size = count_moment_bytes(images, group.width, group.shape[0])
        if not runs or total + size > memory:
            runs.append([])
            total = 0
        runs[-1].append(group)
        total += size
    return runs


def make_training_group(heads: HeadGroup, targets: Targets) -> TrainingGroup:
    """Return a group as the training sees it: seeds, targets, and each head's learning rate and weight decay."""
    protocols = [cell.protocol for cell in heads.cells if isinstance(cell.protocol, GradientProtocol)]
    return TrainingGroup(
        *heads.shape,
        protocol=heads.gradient_protocol,
        seeds=tuple(cell.seed for cell in heads.cells),
        targets=torch.stack(list(targets.values())),
        target_indices=target_indices(heads, targets),
        rates=tuple(protocol.learning_rate for protocol in protocols),
        decays=tuple(protocol.weight_decay for protocol in protocols),
    )


def target_indices(heads: HeadGroup, targets: Targets) -> tuple[int, ...]:
    """Return where each head's target stands among the targets."""
    numbers = {description: number for number, description in enumerate(targets)}
    return tuple(numbers[describe_target(cell)] for cell in heads.cells)


def ignore_rates(protocol: Protocol) -> Protocol:
    """Return what heads of a group must agree in: everything but learning rate and weight decay."""
    return replace(protocol, learning_rate=0.0, weight_decay=0.0) if isinstance(protocol, GradientProtocol) else protocol


@cache
def _shape_name(protocol: Protocol) -> str:
    """What sorts protocols by their shape; a hundred thousand cells share a few of them."""
    return repr(ignore_rates(protocol))
