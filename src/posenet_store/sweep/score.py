"""Score heads on a store: per-image scores, mean maps over the images, and the map of a sample image."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial, reduce
from operator import add, attrgetter
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from posenet_store.files import sha256
from posenet_store.heads.metrics import MapSums, Scores, score_with_map_sums
from posenet_store.store.chunking import split_at_blocks
from posenet_store.store.reader import Reader
from posenet_store.sweep.assemble import InputBlock
from posenet_store.sweep.cell import PROBES
from posenet_store.sweep.grouping import Channels, select_channels
from posenet_store.sweep.inputs import Input
from posenet_store.sweep.spans import SPANS
from posenet_store.threads import cached_property


@dataclass(frozen=True)
class Scored:
    """One head's scores over images, sums of its maps, and its map of the first image (float32 [h, w])."""

    scores: Scores
    sums: MapSums
    sample: NDArray[np.float32]

    @property
    def maps(self) -> dict[str, NDArray[np.float32]]:
        """The mean maps by name (see `MapSums.means`)."""
        return self.sums.means(self.scores)

    def arrays(self, test: str) -> dict[str, NDArray[np.float64] | NDArray[np.float32]]:
        """Return every array by its name in a run's files, such as `spc/<test>`."""
        named: dict[str, NDArray[np.float64] | NDArray[np.float32]] = vars(self.scores) | self.maps | {"map": self.sample}
        return {f"{name}/{test}": array for name, array in named.items()}


def read_blocks(reader: Reader, source: Input, start: int, stop: int) -> Iterator[InputBlock]:
    """Yield the readable rows of [start, stop) in stored order, as they lie in the store."""
    if start < stop:
        # `map` holds no block while the next is read
        yield from map(partial(InputBlock, source), reader.scan(source.arrays, start, stop))


def read_inputs(reader: Reader, source: Input, start: int, stop: int) -> Iterator[Tensor]:
    """Yield a head's input [B, C, 28, 28] for the readable rows of [start, stop), in stored order."""
    return map(attrgetter("grid"), read_blocks(reader, source, start, stop))


@dataclass(frozen=True)
class Column:
    """A test column: its name, and the rows [start, stop) of a store that are scored."""

    name: str
    reader: Reader
    start: int
    stop: int

    def split(self) -> list["Column"]:
        """Return ranges of whole blocks, each with about a twentieth of the store: what one worker scores at a time."""
        bounds = [(first, last) for _, first, last in split_at_blocks(self.reader.bounds, self.start, self.stop)]
        step = -(-len(self.reader.bounds) // SPANS)
        groups = [bounds[first : first + step] for first in range(0, len(bounds), step)]
        ranges = [replace(self, start=group[0][0], stop=group[-1][1]) for group in groups]
        return [part for part in ranges if self.reader.readable[part.start : part.stop].any()] or [self]

    def read(self, source: Input) -> Iterator[Tensor]:
        """Yield a head's input [B, C, 28, 28] for the readable rows."""
        return read_inputs(self.reader, source, self.start, self.stop)

    @cached_property
    def images_sha256(self) -> str:
        """SHA-256 over the digests of the readable images, in the order of their scores."""
        rows = np.flatnonzero(self.reader.readable[self.start : self.stop]) + self.start
        return sha256("".join(self.reader.plan.digests[row] for row in rows).encode())


def list_columns(reader: Reader, name: str | None = None) -> list[Column]:
    """Return a store's test columns: one for its image set, or one an image for the probes.

    The column of an image set is called `name`, without one as the set is.
    """
    if reader.spec.images != PROBES:
        return [Column(name or reader.spec.images, reader, 0, reader.spec.rows)]
    rows = sorted(np.flatnonzero(reader.readable).tolist(), key=lambda row: reader.plan.order[row])
    return [Column(reader.ids[row], reader, row, row + 1) for row in rows]


class Predictor(Protocol):
    """What predicts maps float64 [B, n, h, w] of a block: heads, or what is made of their maps."""

    def predict(self, inputs: Tensor, /) -> Tensor: ...


@dataclass(frozen=True)
class Scorable:
    """Heads to score: each one's target map, and the channels of the stream that they read (None: all)."""

    heads: Predictor
    targets: Sequence[NDArray[np.float64]]
    channels: Channels = None


@torch.inference_mode()
def score_heads(blocks: Iterable[Tensor], groups: Sequence[Scorable]) -> list[list[Scored]]:
    """Score every head against its target on all blocks [B, C, 28, 28]; return one list a group, one entry a head."""
    parts: list[list[list[tuple[Scores, MapSums]]]] = [[[] for _ in group.targets] for group in groups]
    samples: list[list[NDArray[np.float32]]] = [[] for _ in groups]
    for block in blocks:
        for number, group in enumerate(groups):
            targets = group.targets
            maps = group.heads.predict(select_channels(block, group.channels)).numpy()
            if not samples[number]:
                samples[number] = [maps[0, head].astype(np.float32) for head in range(len(targets))]
            for head, target in enumerate(targets):
                parts[number][head].append(score_with_map_sums(maps[:, head], target))
    return [
        [_join_parts(head_parts, sample) for head_parts, sample in zip(group_parts, group_samples, strict=True)]
        for group_parts, group_samples in zip(parts, samples, strict=True)
    ]


def _join_parts(parts: Sequence[tuple[Scores, MapSums]], sample: NDArray[np.float32]) -> Scored:
    """Join the scores and map sums of a head's blocks."""
    scores = Scores(*map(np.concatenate, zip(*(vars(part).values() for part, _ in parts), strict=True)))
    return Scored(scores, reduce(add, (sums for _, sums in parts)), sample)


def join_ranges(ranges: Sequence[list[list[Scored]]]) -> list[list[Scored]]:
    """Join what `score_heads` returned for ranges of one column, in their order."""
    return [
        [_join_parts([(part.scores, part.sums) for part in parts], parts[0].sample) for parts in zip(*of_ranges, strict=True)]
        for of_ranges in zip(*ranges, strict=True)
    ]
