"""Training a pass's cells by gradient steps: in Gram space where second moments tell all, else by the convolution itself."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from posenet_store.errors import StoreError
from posenet_store.files import sha256
from posenet_store.heads.model import Heads, Standardisation
from posenet_store.heads.moments import DEAD_DEVIATION, ImageMomentAccumulator, ImageMoments
from posenet_store.heads.protocols import GradientProtocol
from posenet_store.heads.train_convolution import in_memory, train_by_convolution
from posenet_store.heads.train_gram import fits, train_in_gram_space
from posenet_store.store.reader import Reader
from posenet_store.sweep.cell import Cell
from posenet_store.sweep.grouping import FittedHeads, Goals, HeadGroup, MomentGroup, chosen, families, group_of, shifts, ways
from posenet_store.sweep.inputs import Input
from posenet_store.sweep.moment_cache import Keep, MomentCache
from posenet_store.sweep.score import read_inputs


@dataclass(frozen=True)
class Inputs:
    """The readable ones of a store's first `rows` rows, as the heads of a pass read them."""

    reader: Reader
    source: Input
    rows: int
    standard: Standardisation | None = None

    @property
    def images(self) -> int:
        """How many there are."""
        return int(self.reader.readable[: self.rows].sum())

    def blocks(self) -> Iterator[Tensor]:
        """Yield them [B, C, 28, 28] in stored order."""
        found = read_inputs(self.reader, self.source, 0, self.rows)
        return found if self.standard is None else map(self.standard, found)

    def order(self, recipe: GradientProtocol, epoch: int) -> list[NDArray[np.int64]]:
        """Return the batches of an epoch, as places in stored order."""
        place = np.cumsum(self.reader.readable) - 1
        order = np.concatenate(self.reader.epoch(self.source.arrays, 0, self.rows, seed=recipe.order_seed, epoch=epoch))
        return [place[order[first : first + recipe.batch_size]] for first in range(0, len(order), recipe.batch_size)]

    def streamed(self, recipe: GradientProtocol, epoch: int) -> Iterator[Tensor]:
        """Yield the batches of an epoch, read from the store."""
        order = {"batch_size": recipe.batch_size, "seed": recipe.order_seed, "epoch": epoch}
        found = map(self.source.assemble, self.reader.batches(self.source.arrays, 0, self.rows, **order))
        return found if self.standard is None else map(self.standard, found)

    def key(self, kind: str, unit: dict[str, Any]) -> dict[str, Any]:
        """Return the name on the shelf of what was summed over them."""
        return {"kind": kind, "rows": self.rows, "standardised": self.standard is not None} | unit


def fit_recipe(
    reader: Reader, source: Input, cells: Sequence[Cell], recipe: GradientProtocol, shelf: MomentCache
) -> list[FittedHeads]:
    """Train cells by gradient steps; `recipe` is what they agree in: the batches and what is done to the inputs.

    Linear heads whose per-image moments fit in memory are trained in Gram space, others by the convolution itself. Both
    take the same steps on the same batches; the choice shows in time only.
    """
    inputs = Inputs(reader, source, cells[0].train_rows)
    if not inputs.images:
        raise StoreError(f"{reader.files} has no readable image among its first {inputs.rows} rows to train on")
    if recipe.standardise:
        inputs = replace(inputs, standard=_standard(inputs, shelf))
    small, large = ways(families(cells, source, reader.spec), source.channels, partial(fits, inputs.images))
    return [
        *(_in_gram_space(inputs, small, recipe, shelf) if small else ()),
        *(_by_convolution(inputs, large, recipe) if large else ()),
    ]


def _standard(inputs: Inputs, shelf: MomentCache) -> Standardisation:
    """Return the standardisation of all channels over the training rows: from the shelf, or from one scan."""
    key = inputs.key("channels", {"input": inputs.source.kind, "taps": list(inputs.source.taps)})
    if (found := shelf.find(key)) is None:
        found = vars(standard_of(inputs.blocks()))
        shelf.keep(key, found)
    return Standardisation(found["shift"], found["scale"])


def standard_of(blocks: Iterator[Tensor]) -> Standardisation:
    """Return the standardisation of all images of some blocks [B, C, 28, 28], at least one.

    >>> standard_of(iter([torch.tensor([[[[1.0, 3.0]], [[5.0, 5.0]]]])]))
    Standardisation(shift=tensor([2., 5.], dtype=torch.float64), scale=tensor([1., 0.], dtype=torch.float64))
    """
    start: Tensor | None = None
    count, first, second = 0, torch.zeros(()), torch.zeros(())
    for block in blocks:
        values = block.to(torch.float64).transpose(0, 1).flatten(1)
        start = values.mean(dim=1) if start is None else start  # sums about it do not cancel
        values = values - start[:, None]
        count, first, second = count + values.shape[1], first + values.sum(dim=1), second + (values**2).sum(dim=1)
    if start is None:
        raise ValueError("there is nothing to standardise in no image")
    mean = first / count
    variance = second / count - mean**2
    dead = variance <= DEAD_DEVIATION**2 * (variance + (mean + start) ** 2)
    return Standardisation(start + mean, torch.where(dead, 0, variance.clamp(min=0).rsqrt()))


def _in_gram_space(
    inputs: Inputs, made: Sequence[MomentGroup], recipe: GradientProtocol, shelf: MomentCache
) -> list[FittedHeads]:
    """One scan for the moments of as many units as fit in memory together, then their steps without reading again."""
    fitted = []
    for some in shifts(made, inputs.rows):
        goals = [unit.goals() for unit in some]
        with shelf.meanwhile() as keep:  # the disk is written to while heads are trained
            moments = _moments(inputs, some, goals, shelf, keep)
            for unit, maps, whole in zip(some, goals, moments, strict=True):
                for family in unit.families:
                    mine, group = whole.select(unit.features(family)), group_of(family, maps)
                    standard = inputs.standard and inputs.standard.select(family.channels)
                    heads = train_in_gram_space(mine, partial(inputs.order, recipe), family.width, group, standard)
                    fitted.append(FittedHeads(family, heads, divergence(heads)))
    return fitted


def _moments(
    inputs: Inputs, made: Sequence[MomentGroup], goals: Sequence[Goals], shelf: MomentCache, keep: Keep
) -> list[ImageMoments]:
    """Return each unit's moments of every image: from the shelf, or summed in one scan and kept there."""
    keys = [inputs.key("images", unit.key(inputs.source)) for unit in made]
    found = [_from_shelf(shelf, key, maps) for key, maps in zip(keys, goals, strict=True)]
    collectors = {
        place: ImageMomentAccumulator(inputs.images, *made[place].shape, torch.stack(list(goals[place].values())))
        for place, one in enumerate(found)
        if one is None
    }
    for block in inputs.blocks() if collectors else ():
        for place, collector in collectors.items():
            collector.add(chosen(block, made[place].channels))
    for place, collector in collectors.items():
        whole = collector.moments()
        keep(keys[place], {"second": whole.second})
        for number, target in enumerate(goals[place].values()):
            keep(keys[place] | {"target": _digest(target)}, {"cross": whole.cross[:, number].contiguous()})
        found[place] = whole
    return [one for one in found if one is not None]


def _from_shelf(shelf: MomentCache, key: dict[str, Any], maps: Goals) -> ImageMoments | None:
    targets = list(maps.values())
    crosses = [shelf.find(key | {"target": _digest(target)}) for target in targets]
    second = shelf.find(key) if all(crosses) else None
    if second is None:
        return None
    return ImageMoments(second["second"], torch.stack([one["cross"] for one in crosses if one], dim=1), targets[0].numel())


def _digest(target: Tensor) -> str:
    return sha256(target.numpy().tobytes())


def _by_convolution(inputs: Inputs, made: Sequence[HeadGroup], recipe: GradientProtocol) -> list[FittedHeads]:
    """Train by the convolution itself: from memory where the input fits, else from the store in every epoch."""
    held = torch.cat(list(inputs.blocks())) if in_memory(inputs.images, inputs.source.channels) else None

    def batches(epoch: int) -> Iterator[Tensor]:
        if held is not None:
            return (held[torch.from_numpy(batch)] for batch in inputs.order(recipe, epoch))
        return inputs.streamed(recipe, epoch)

    groups = [group_of(family, MomentGroup((family,), family.channels, family.width).goals()) for family in made]
    read = [family.channels for family in made]
    trained = train_by_convolution(
        batches, recipe.count_epochs(inputs.images), inputs.source.channels, groups, read, inputs.standard
    )
    return [FittedHeads(family, heads, divergence(heads)) for family, heads in zip(made, trained, strict=True)]


def divergence(heads: Heads) -> tuple[dict[str, float], ...]:
    """Mark the heads that ran away; their neighbours are as they would be without them."""
    finite = [
        all(bool(value.isfinite().all()) for value in heads.tensors(place).values()) for place in range(len(heads.weight))
    ]
    return tuple({} if sound else {"diverged": 1.0} for sound in finite)
