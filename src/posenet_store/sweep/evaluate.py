"""Score heads, of a sweep or external, on any store of the network that they read."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
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
from posenet_store.heads.file import load_head
from posenet_store.heads.model import Heads
from posenet_store.heads.own_maps import MAPS, load_maps
from posenet_store.heads.targets import make_target_map
from posenet_store.specs import GRID, StoreSpec
from posenet_store.state_dicts import is_finite, read_state_dict
from posenet_store.store.reader import Reader
from posenet_store.sweep.cell import make_cell_target, output_size, parse_cell
from posenet_store.sweep.inputs import Input, parse_input
from posenet_store.sweep.results import RunFiles, read_result
from posenet_store.sweep.score import Column, Predictor, Scorable, Scored, list_columns, score_heads


@dataclass(frozen=True)
class ExternalHead:
    """What the file of an external head does not contain: its target, what it reads, and its padding."""

    target: str
    input: str = "aligned"
    padding: int = 0
    value_range: tuple[float, float] = (0.0, 1.0)
    normalise: bool = False


@dataclass(frozen=True)
class OpenedHead:
    """A head with all that scoring it needs: what it predicts (the map `goal` [h, w] of a target, its range) and reads.

    `input` is what it reads as text, `source` the same in a store.
    """

    name: str
    heads: Heads
    input: str
    target: str
    goal: NDArray[float64]
    value_range: tuple[float, float]
    source: Input


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


def load_cell_head(path: Path) -> tuple[Heads, dict[str, Any]]:
    """Load a head that a sweep wrote (see `load_head`); raises StoreError if it lies in a run that has it otherwise.

    Raises UsageError if its training diverged.

    A head that was copied from its run has nothing to be compared with.
    """
    files = RunFiles(path.absolute().parent.parent)
    load_maps(files.root / MAPS)
    if files.head(path.stem) == path.absolute() and files.record(path.stem).is_file():
        read_result(files, path.stem)
    heads, metadata = load_head(path)
    if not all(map(is_finite, heads.get_tensors(0).values())):
        raise UsageError(f"{path} holds NaN or infinite numbers: its training diverged, and it predicts nothing")
    return heads, metadata


def check_network(path: Path, metadata: Mapping[str, Any], spec: StoreSpec) -> None:
    """Raise UsageError if a store of another network than the head's is to score it; `metadata` are those of `load_head`."""
    if metadata["network_key"] != spec.network_key:
        raise UsageError(
            f"{path.name} reads features of {metadata['network']}; {spec.folder} holds those of "
            f"{spec.network} (backbone, weights, taps, padding and preprocessing must be the same)"
        )


def open_head(path: Path, reader: Reader) -> OpenedHead:
    """Open a head that a sweep wrote; raises UsageError if the store is of another network."""
    heads, metadata = load_cell_head(path)
    check_network(path, metadata, reader.spec)
    cell = parse_cell(metadata["cell"], path.name)
    goal, source = make_cell_target(cell), parse_input(cell.input, reader.spec)
    _check_fit(path, heads, source, goal)
    return OpenedHead(path.name, heads, cell.input, cell.target, goal, cell.value_range, source)


def _check_fit(path: Path, heads: Heads, source: Input, goal: NDArray[float64]) -> None:
    """Raise UsageError if a head reads another number of channels than its input has, or predicts a map of another size."""
    weights = [*(weight for weight, _ in heads.hidden), heads.weight]
    side = GRID
    for weight in weights:
        side = max(side + 2 * heads.padding - weight.shape[-1] + 1, 0)
    if weights[0].shape[-3] != source.channels or not side or (heads.size or side) != len(goal):
        raise UsageError(
            f"{path.name} reads {weights[0].shape[-3]} channels and predicts maps of side {heads.size or side}; its cell says "
            f"{source.channels} channels and side {len(goal)}: it is damaged, or not a head that a sweep wrote"
        )


def open_external_head(path: Path, reader: Reader, head: ExternalHead) -> OpenedHead:
    """Open a head that another program trained, saved as the state dict of one `torch.nn.Conv2d`.

    Raises UsageError if the file holds something else, or the convolution does not fit the store's features.
    """
    heads, source = load_external_head(path, head.padding), parse_input(head.input, reader.spec)
    channels, kernel = heads.weight.shape[1:3]
    if channels != source.channels:
        raise UsageError(
            f"{path.name} reads {channels} channels; {head.input!r} of {reader.name} has {source.channels}: "
            "give the network (--backbone, --taps) and the input (--input) that it was trained on"
        )
    goal = make_target_map(head.target, output_size(kernel, head.padding), head.value_range, head.normalise)
    return OpenedHead(path.name, heads, head.input, head.target, goal, head.value_range, source)


def load_external_head(path: Path, padding: int) -> Heads:
    """Load one convolution [1, C, k, k], with or without a bias, from a state dict, whatever its names."""
    state = read_state_dict(path)
    weights = [
        value for value in state.values() if value.dim() == 4 and value.shape[0] == 1 and value.shape[2] == value.shape[3]
    ]
    biases = [value for value in state.values() if value.shape == (1,)]
    if len(weights) != 1 or len(biases) > 1 or len(state) != len(weights) + len(biases):
        shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in list(state.items())[:4])
        raise UsageError(f"{path} is no single convolution with one output ([1, C, k, k] and a bias [1]): it holds {shapes}")
    if not all(value.is_floating_point() for value in state.values()):
        raise UsageError(f"{path} holds whole numbers; save the convolution as it was trained, in floating point")
    bias = biases[0].to(torch.float64) if biases else torch.zeros(1, dtype=torch.float64)
    return Heads(weights[0].to(torch.float64), bias, padding)


def evaluate_head(path: Path, reader: Reader) -> Evaluation:
    """Score a head that a sweep wrote (see `open_head`)."""
    return evaluate_heads([open_head(path, reader)], reader)[0]


def evaluate_external(path: Path, reader: Reader, head: ExternalHead) -> Evaluation:
    """Score a head that another program trained (see `open_external_head`)."""
    return evaluate_heads([open_external_head(path, reader, head)], reader)[0]


def evaluate_heads(heads: Sequence[OpenedHead], reader: Reader, mirrored: Reader | None = None) -> list[Evaluation]:
    """Score heads on a store, those that read the same input in one scan; return an Evaluation of each, in their order.

    With the store of the `mirrored` images there are two more columns for each test: the maps of mirrored images against the
    mirrored target, and the mean of both maps against the target (test-time mirroring). Raises UsageError if that store
    does not hold the mirror images of the same rows.
    """
    evaluations: dict[int, Evaluation] = {}
    for source in dict.fromkeys(head.source for head in heads):
        numbers = [number for number, head in enumerate(heads) if head.source == source]
        evaluated = _evaluate([heads[number] for number in numbers], source, reader, mirrored)
        evaluations |= dict(zip(numbers, evaluated, strict=True))
    return [evaluations[number] for number in range(len(heads))]


def _evaluate(heads: Sequence[OpenedHead], source: Input, reader: Reader, mirrored: Reader | None) -> list[Evaluation]:
    """Score heads that read one input."""
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
    """Raise UsageError if a store can't be that of the mirror images of another: itself, other rows, or another network."""
    if mirrored.name == reader.name:
        raise UsageError(f"{reader.name} is given twice; the second is the store of the mirrored images: --images SRC@mirrored")
    same = (reader.ids == mirrored.ids, reader.bounds == mirrored.bounds, np.array_equal(reader.readable, mirrored.readable))
    if not all(same) or reader.spec.network_key != mirrored.spec.network_key:
        raise UsageError(f"{mirrored.name} does not hold the mirror images of {reader.name}, row by row and readable alike")


def _pair_columns(reader: Reader, mirrored: Reader) -> list[tuple[Column, Column]]:
    """Return each test column with that of the mirrored images (see `check_mirrored`)."""
    check_mirrored(reader, mirrored)
    return list(zip(list_columns(reader), list_columns(mirrored, mirrored.spec.images), strict=True))


def _add_images(blocks: Iterable[Tensor], total: Tensor) -> Iterator[Tensor]:
    """Yield blocks [B, C, 28, 28] and add their images to `total`."""
    for block in blocks:
        total += block.sum(dim=0, dtype=torch.float64)
        yield block
