"""Score heads, of a sweep or external, on any store of the network that they read."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy import float64
from numpy.typing import NDArray
from torch import Tensor

from posenet_store.errors import UsageError
from posenet_store.heads.model import Heads
from posenet_store.images.transforms import Transform
from posenet_store.specs import GRID
from posenet_store.store.reader import Reader
from posenet_store.sweep.head_files import ExternalHead, OpenedHead, load_cell_head
from posenet_store.sweep.inputs import Input
from posenet_store.sweep.score import Column, Predictor, Scorable, Scored, list_columns, score_heads


@dataclass(frozen=True)
class Contributions:
    """What each input channel adds to a linear head's mean map: `maps` float64 [C, h, w], and `share` [C] of the target.

    The mean map over images is the bias plus the sum of `maps`. A share is the covariance of a channel's map with the target
    over the target's variance: shares sum to 1 for a head that predicts the target, and a channel that pulls against the
    others has a negative one.
    """

    names: tuple[str, ...]
    maps: NDArray[float64]
    share: NDArray[float64]

    def strongest(self, count: int) -> list[tuple[str, NDArray[float64], float]]:
        """Return (name, map, share) of the channels of the largest shares, either sign, the largest first."""
        order = np.argsort(-np.abs(self.share))[:count]
        return [(self.names[channel], self.maps[channel], float(self.share[channel])) for channel in order]


@dataclass(frozen=True)
class Evaluation:
    """One head on one store: its target (name, map `goal` [h, w], range), its scores by test column and its contributions.

    `contributions` are each channel's share of the predicted map (see `Contributions`); None if the head is not linear.
    """

    target: str
    goal: NDArray[float64]
    value_range: tuple[float, float]
    scored: dict[str, Scored]
    contributions: Contributions | None

    def rows(self) -> list[dict[str, Any]]:
        """Return a row a test column: target, test, SPC, MAE, counts."""
        return [{"target": self.target, "test": test} | scored.scores.summary() for test, scored in self.scored.items()]


@dataclass(frozen=True)
class MirroredBack:
    """Predicts from pairs [B, 2, C, 28, 28], features of an image and of its mirror image, the map of the latter, mirrored."""

    heads: Heads

    def predict(self, pairs: Tensor) -> Tensor:
        """Return maps float64 [B, n, h, w]."""
        return self.heads.predict(pairs[:, 1]).flip(3)


@dataclass(frozen=True)
class MirrorMean:
    """Predicts from pairs as `MirroredBack` does: the mean of the image's map and of the mirrored one (test-time mirroring)."""

    heads: Heads

    def predict(self, pairs: Tensor) -> Tensor:
        """Return maps float64 [B, n, h, w]."""
        return (self.heads.predict(pairs[:, 0]) + MirroredBack(self.heads).predict(pairs)) / 2


def compute_contributions(heads: Heads, mean: Tensor, goal: NDArray[float64], names: Sequence[str]) -> Contributions:
    """Compute the contributions of a single linear head's channels, given the mean input [C, 28, 28] over images.

    >>> head = Heads(torch.ones(1, 2, 1, 1).double(), torch.zeros(1).double(), 0)
    >>> goal = np.array([[0.0, 1.0], [2.0, 3.0]])
    >>> compute_contributions(head, torch.tensor(np.stack([goal / 4, goal * 3 / 4])), goal, ["f1:0", "f1:1"]).share
    array([0.25, 0.75])
    """
    inputs = mean.to(torch.float64)[None] if heads.standard is None else heads.standard(mean[None])
    weight = heads.weight.transpose(0, 1)  # each channel is a group of its own
    maps = F.conv2d(inputs, weight, padding=heads.padding, groups=len(mean))[0].numpy()
    centred = goal - goal.mean()
    return Contributions(tuple(names), maps, (maps * centred).sum(axis=(1, 2)) / (centred**2).sum())


def evaluate_head(path: Path, reader: Reader) -> Evaluation:
    """Score a head that a sweep wrote (see `CellHead.open`)."""
    return evaluate_heads([load_cell_head(path).open(reader)])[0]


def evaluate_external(head: ExternalHead, reader: Reader) -> Evaluation:
    """Score a head that another program trained (see `ExternalHead.open`)."""
    return evaluate_heads([head.open(reader)])[0]


def evaluate_heads(heads: Sequence[OpenedHead]) -> list[Evaluation]:
    """Score heads on their stores, those that read the same input of a store in one scan; return them in their order.

    With stores of `mirrored` images there are two more columns for each test: the maps of mirrored images against the
    mirrored target, and the mean of both maps against the target (test-time mirroring). Raises UsageError if such a store
    does not hold the mirror images of the same rows.
    """
    groups: dict[tuple[int, Input], list[int]] = {}
    for number, head in enumerate(heads):
        groups.setdefault((id(head.reader), head.source), []).append(number)
    evaluations: dict[int, Evaluation] = {}
    for numbers in groups.values():
        evaluations |= zip(numbers, _evaluate([heads[number] for number in numbers]), strict=True)
    return [evaluations[number] for number in range(len(heads))]


def _evaluate(heads: Sequence[OpenedHead]) -> list[Evaluation]:
    """Score heads that read one input of one store."""
    source, reader, mirrored = heads[0].source, heads[0].reader, heads[0].mirrored
    columns: dict[str, list[Scored]] = {}
    total = torch.zeros(source.channels, GRID, GRID, dtype=torch.float64)
    for column in list_columns(reader):
        columns[column.name] = _score(_add_images(column.read(source), total), heads, [head.heads for head in heads])
    images = sum(len(scored[0].scores.spc) for scored in columns.values())
    names = [
        f"{reader.spec.taps[tap].name}:{n}" for tap, width in zip(source.taps, source.widths, strict=True) for n in range(width)
    ]
    for column, other in _pair_columns(reader, mirrored) if mirrored else ():
        for name, kind in (("mirrored", MirroredBack), ("both ways", MirrorMean)):
            pairs = map(torch.stack, zip(column.read(source), other.read(source), strict=True), repeat(1))
            columns[f"{column.name}, {name}"] = _score(pairs, heads, [kind(head.heads) for head in heads])
    return [
        Evaluation(
            head.target,
            head.goal,
            head.value_range,
            {name: scored[number] for name, scored in columns.items()},
            compute_contributions(head.heads, total / images, head.goal, names) if images and head.heads.is_linear else None,
        )
        for number, head in enumerate(heads)
    ]


def _score(blocks: Iterable[Tensor], heads: Sequence[OpenedHead], predictors: Sequence[Predictor]) -> list[Scored]:
    """Score what each predictor makes of the blocks against the target of its head."""
    groups = [Scorable(predictor, [head.goal]) for head, predictor in zip(heads, predictors, strict=True)]
    return [scored for (scored,) in score_heads(blocks, groups)]


def check_mirrored(reader: Reader, mirrored: Reader) -> None:
    """Raise UsageError if a store is not that of the mirror images of another, by their digests, of the same network.

    What is recorded of an image is the digest of its file, and of what was changed in it.
    """
    if reader.spec.network_key != mirrored.spec.network_key:
        raise UsageError(
            f"{mirrored.name} holds features of {mirrored.spec.network}, {reader.name} those of {reader.spec.network}; "
            "backbone, weights, taps, padding and preprocessing must be the same"
        )
    digests = tuple(map(Transform("mirrored").digest, reader.plan.digests))
    same = (digests == mirrored.plan.digests, reader.bounds == mirrored.bounds)
    if not all(same) or not np.array_equal(reader.readable, mirrored.readable):
        raise UsageError(
            f"{mirrored.name} does not hold the mirror images of {reader.name}, row by row and readable alike; build it with "
            f"the --images of {reader.name}, and @mirrored behind them"
        )


def _pair_columns(reader: Reader, mirrored: Reader) -> list[tuple[Column, Column]]:
    """Return each test column with that of the mirrored images (see `check_mirrored`)."""
    check_mirrored(reader, mirrored)
    return list(zip(list_columns(reader), list_columns(mirrored, mirrored.spec.images), strict=True))


def _add_images(blocks: Iterable[Tensor], total: Tensor) -> Iterator[Tensor]:
    """Yield blocks [B, C, 28, 28] and add their images to `total`."""
    for block in blocks:
        total += block.sum(dim=0, dtype=torch.float64)
        yield block
