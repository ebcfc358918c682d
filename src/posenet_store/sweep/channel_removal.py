"""Which channels of a tap tell left from right, and what exact heads lose without them.

Islam et al. (ICCV 2021, arXiv 2108.07884) rank channels by how much their mean over all positions differs between an image and
its mirror image, and remove the first ones. Here exact heads of kernel 1 are solved again on the channels that remain, so that
what is lost is lost for every linear readout; as many channels drawn at random are removed beside them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from posenet_store.errors import UsageError
from posenet_store.heads.model import Heads
from posenet_store.heads.moments import MomentAccumulator, Moments
from posenet_store.heads.protocols import RidgeProtocol
from posenet_store.heads.ridge import solve_ridge
from posenet_store.heads.targets import make_target_map
from posenet_store.specs import GRID
from posenet_store.store.reader import Reader
from posenet_store.sweep.fit_ridge import find_spans
from posenet_store.sweep.inputs import Input, parse_input
from posenet_store.sweep.pooling import count_held_out
from posenet_store.sweep.score import Scorable, read_inputs, score_heads

DRAWS = 5
"""Sets of random channels for each number that is removed; they are drawn from seed 0."""


@dataclass(frozen=True)
class Ranking:
    """Channels of a tap, those that tell mirror images apart first.

    `channels` int64 [C] are their numbers, `differences` float64 [C] the means over images of |pooled(I) - pooled(mirrored I)|,
    and `signed` [C] the means of pooled(I) - pooled(mirrored I).
    """

    channels: NDArray[np.int64]
    differences: NDArray[np.float64]
    signed: NDArray[np.float64]


@dataclass(frozen=True)
class Removal:
    """SPC of each held-out image, float64 [n], without the first `removed` channels, and [n, draws] without random ones."""

    target: str
    removed: int
    spc: NDArray[np.float64]
    random: NDArray[np.float64]


def rank_channels(pooled: Tensor, mirrored: Tensor) -> Ranking:
    """Rank channels by pooled features [n, C] of images and of their mirror images.

    >>> rank_channels(torch.tensor([[1.0, 5.0]]), torch.tensor([[1.5, 2.0]])).channels.tolist()
    [1, 0]
    """
    change = (pooled - mirrored).numpy()
    differences = np.abs(change).mean(axis=0)
    order = np.argsort(-differences, kind="stable")
    return Ranking(order, differences[order], change.mean(axis=0)[order])


def score_without(
    reader: Reader, tap: str, order: Sequence[int], removed: Sequence[int], targets: Sequence[str]
) -> list[Removal]:
    """Score exact heads on a tap's channels without the first of `order`, for each number to remove and each target.

    Four fifths of the rows train, the others test. Raises UsageError if no channel would remain.
    """
    source = parse_input(f"full:{tap}", reader.spec)
    if wrong := [count for count in removed if not 0 <= count < source.channels]:
        raise UsageError(f"{wrong[0]} channels can't be removed from {tap}, which has {source.channels}; one at least remains")
    rows = reader.spec.rows
    train = rows - count_held_out(rows)
    protocol = RidgeProtocol()
    moments = [_sum_span(reader, source, *span) for span in find_spans(reader, protocol, train)]
    goals = [make_target_map(target, GRID) for target in targets]
    subsets = [channels for count in removed for channels in _list_remaining(order, count)]
    scorables = [Scorable(_solve(moments, channels, goals, protocol), goals, tuple(channels)) for channels in subsets]
    scored = score_heads(read_inputs(reader, source, train, rows), scorables)
    removals = []
    for number, count in enumerate(removed):
        first, *draws = scored[number * (1 + DRAWS) : (number + 1) * (1 + DRAWS)]
        for index, target in enumerate(targets):
            random = np.stack([of_draw[index].scores.spc for of_draw in draws], axis=1)
            removals.append(Removal(target, count, first[index].scores.spc, random))
    return removals


def _sum_span(reader: Reader, source: Input, start: int, stop: int) -> Moments:
    """Return the second moments of the readable rows of a span, of which there is at least one."""
    sums = MomentAccumulator(1, 0)
    for block in read_inputs(reader, source, start, stop):
        sums.add(block)
    moments = sums.moments()
    if moments is None:
        raise ValueError("no readable row to sum")
    return moments


def _list_remaining(order: Sequence[int], count: int) -> Iterator[list[int]]:
    """Yield the channels that remain without the first `count`, then without as many of each random draw, in their order."""
    yield sorted(order[count:])
    for draw in range(DRAWS):
        permuted = np.random.default_rng([0, draw]).permutation(len(order)).tolist()
        yield sorted(permuted[count:])


def _solve(
    moments: Sequence[Moments], channels: Sequence[int], goals: Sequence[NDArray[np.float64]], protocol: RidgeProtocol
) -> Heads:
    """Solve an exact head on some channels for each target map."""
    selected = [part.select(torch.tensor(channels)) for part in moments]
    heads = solve_ridge(selected, [torch.from_numpy(goal.copy()) for goal in goals], protocol)
    return Heads(torch.stack([head.weight for head in heads]), torch.stack([head.bias for head in heads]), 0)
