"""Which heads of a pass share what: families are one convolution, units are one set of moments."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from posenet_store.heads.model import Heads
from posenet_store.heads.moments import moment_bytes
from posenet_store.heads.protocols import GradientProtocol, Protocol
from posenet_store.heads.train_convolution import TrainingGroup
from posenet_store.heads.train_gram import MAX_BYTES
from posenet_store.specs import StoreSpec
from posenet_store.sweep.cell import Cell, make_cell_target
from posenet_store.sweep.inputs import Input, parse_input

Goals = dict[tuple[object, ...], Tensor]
"""Target maps float64 [h, w] by what makes them."""
Places = tuple[int, ...] | None
"""Channels of a stream; None means all of them, in order."""


def chosen(block: Tensor, channels: Places) -> Tensor:
    """Return the channels of a block [B, C, 28, 28] that a family or unit reads."""
    return block if channels is None else block[:, list(channels)]


@dataclass(frozen=True)
class HeadGroup:
    """Cells whose heads have one shape and input: they are one convolution over `channels` of the pass's stream."""

    cells: tuple[Cell, ...]
    channels: Places
    width: int

    @property
    def shape(self) -> tuple[int, int]:
        """Kernel and padding."""
        return self.cells[0].kernel, self.cells[0].padding

    @property
    def recipe(self) -> GradientProtocol:
        """What trains these heads; raises TypeError if they are solved exactly."""
        protocol = self.cells[0].protocol
        if not isinstance(protocol, GradientProtocol):
            raise TypeError(f"{protocol.name} trains by no gradient step")
        return protocol


@dataclass(frozen=True)
class FittedHeads:
    """The heads of a family, in the order of its cells, and for each what the fit says of itself."""

    family: HeadGroup
    heads: Heads
    facts: tuple[dict[str, float], ...]


@dataclass(frozen=True)
class MomentGroup:
    """Families of one kernel and padding that take their moments from one set, over `channels` of the stream."""

    families: tuple[HeadGroup, ...]
    channels: Places
    width: int

    @property
    def shape(self) -> tuple[int, int]:
        """Kernel and padding."""
        return self.families[0].shape

    def targets(self) -> dict[tuple[object, ...], Cell]:
        """Return a cell for each distinct target map, by what makes it, in the order of the cells."""
        return {goal_of(cell): cell for family in self.families for cell in family.cells}

    def goals(self) -> Goals:
        """Return each distinct target map [h, w], float64, by what makes it, in the order of the cells."""
        return {goal: torch.from_numpy(make_cell_target(cell).copy()) for goal, cell in self.targets().items()}

    def key(self, source: Input) -> dict[str, Any]:
        """Return what tells this unit's moments from others of one store: the channels that are summed, kernel, padding."""
        mine = None if self.channels is None else list(self.channels)
        return {"input": source.kind, "taps": list(source.taps), "channels": mine, "shape": list(self.shape)}

    def features(self, family: HeadGroup) -> Tensor | None:
        """Return where a family's k x k features lie among the unit's, None if they are all of them."""
        if family.channels == self.channels:
            return None
        mine = range(self.width) if self.channels is None else self.channels
        place = {channel: number for number, channel in enumerate(mine)}
        area = family.shape[0] ** 2
        first = torch.tensor([place[channel] for channel in family.channels or ()]) * area
        return (first[:, None] + torch.arange(area)).flatten()


def goal_of(cell: Cell) -> tuple[object, ...]:
    """What makes a target map, at a given kernel and padding."""
    return cell.target, cell.value_range, cell.normalise


def families(cells: Sequence[Cell], source: Input, spec: StoreSpec) -> list[HeadGroup]:
    """Split the cells of a pass, whose stream is `source`, into families."""
    groups: dict[tuple[int, int, str, str], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.kernel, cell.padding, cell.input, _shape_name(cell.protocol)), []).append(cell)
    made = []
    for (_, _, text, _), group in sorted(groups.items()):
        part = parse_input(text, spec)
        channels = source.places(part)
        everything = channels == tuple(range(source.channels))
        made.append(HeadGroup(tuple(group), None if everything else channels, part.channels))
    return made


def units(
    made: Sequence[HeadGroup], channels: int, fits: Callable[[int, int], bool]
) -> tuple[list[MomentGroup], list[HeadGroup]]:
    """Return units over all `channels` of a stream where `fits(channels, kernel)`, else one a family; then what fits nowhere.

    A unit is not made smaller for the heads at hand: what a head comes out as must not depend on its company.
    """
    found, rest = [], []
    for (kernel, _), group in groupby(made, key=lambda family: family.shape):
        members = tuple(group)
        if fits(channels, kernel):
            found.append(MomentGroup(members, None, channels))
            continue
        found += [MomentGroup((one,), one.channels, one.width) for one in members if fits(one.width, kernel)]
        rest += [one for one in members if not fits(one.width, kernel)]
    return found, rest


def ways(
    made: Sequence[HeadGroup], channels: int, fits: Callable[[int, int], bool]
) -> tuple[list[MomentGroup], list[HeadGroup]]:
    """Return units that gradient steps train in Gram space, and the families whose moments do not tell all, or do not fit."""
    small, large = units([family for family in made if family.recipe.is_linear], channels, fits)
    return small, large + [family for family in made if not family.recipe.is_linear]


def shifts(made: Sequence[MomentGroup], images: int) -> list[list[MomentGroup]]:
    """Split units into runs whose moments of `images` images stay within 1 GiB together: each run is one scan."""
    runs: list[list[MomentGroup]] = []
    held = 0
    for unit in made:
        size = moment_bytes(images, unit.width, unit.shape[0])
        if not runs or held + size > MAX_BYTES:
            runs.append([])
            held = 0
        runs[-1].append(unit)
        held += size
    return runs


def group_of(family: HeadGroup, goals: Goals) -> TrainingGroup:
    """Return a family's heads as a training group: seeds, targets, and each head's learning rate and weight decay."""
    recipes = [cell.protocol for cell in family.cells if isinstance(cell.protocol, GradientProtocol)]
    return TrainingGroup(
        *family.shape,
        protocol=family.recipe,
        seeds=tuple(cell.seed for cell in family.cells),
        targets=torch.stack(list(goals.values())),
        target_indices=places_of(family, goals),
        rates=tuple(recipe.learning_rate for recipe in recipes),
        decays=tuple(recipe.weight_decay for recipe in recipes),
    )


def places_of(family: HeadGroup, goals: Goals) -> tuple[int, ...]:
    """Return where each head's target stands among the goals."""
    numbers = {goal: number for number, goal in enumerate(goals)}
    return tuple(numbers[goal_of(cell)] for cell in family.cells)


def shape_of(protocol: Protocol) -> Protocol:
    """Return what heads of a family must agree in: everything but learning rate and weight decay."""
    return replace(protocol, learning_rate=0.0, weight_decay=0.0) if isinstance(protocol, GradientProtocol) else protocol


@cache
def _shape_name(protocol: Protocol) -> str:
    """What sorts protocols by their shape; a hundred thousand cells share a few of them."""
    return repr(shape_of(protocol))


def stream_of(protocol: Protocol) -> tuple[object, ...]:
    """Return what heads of a pass must agree in: the order and size of batches, and what is done to the inputs."""
    if not isinstance(protocol, GradientProtocol):
        return (protocol,)
    order = protocol.batch_size, protocol.epochs, protocol.min_steps, protocol.order_seed
    return (protocol.name, *order, protocol.standardise)
