"""The training images of a pass, as its heads read them: block by block, in batches, standardised where the protocol asks."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from posenet_store.heads.model import Standardisation
from posenet_store.heads.protocols import GradientProtocol
from posenet_store.heads.sizes import DEAD_DEVIATION
from posenet_store.store.reader import Reader
from posenet_store.sweep.assemble import InputBlock, assemble_input
from posenet_store.sweep.inputs import Input
from posenet_store.sweep.moment_cache import MomentCache
from posenet_store.sweep.score import read_blocks
from posenet_store.sweep.spans import Span, TrainingRows


@dataclass(frozen=True)
class TrainingInputs:
    """The readable ones of a store's first `rows` rows."""

    reader: Reader
    source: Input
    rows: int
    standard: Standardisation | None = None

    @property
    def training(self) -> TrainingRows:
        """Which rows these are."""
        return TrainingRows(self.source, self.rows, self.reader.spec.rows, self.standard is not None)

    @property
    def images(self) -> int:
        """How many there are."""
        return self.count_images((0, self.rows))

    def count_images(self, span: Span) -> int:
        """Return how many rows of a span are readable."""
        return int(self.reader.readable[slice(*span)].sum())

    def read(self, start: int, stop: int) -> Iterator[InputBlock]:
        """Yield those of rows [start, stop) in stored order, as they lie in the store."""
        return read_blocks(self.reader, self.source, start, stop)

    def blocks(self, start: int = 0, stop: int | None = None) -> Iterator[Tensor]:
        """Yield those of rows [start, stop), or of all, as blocks [B, C, 28, 28] in stored order."""
        blocks = map(attrgetter("grid"), self.read(start, self.rows if stop is None else stop))
        return blocks if self.standard is None else map(self.standard, blocks)

    def batch_positions(self, protocol: GradientProtocol, epoch: int) -> list[NDArray[np.int64]]:
        """Return the batches of an epoch, as positions in stored order."""
        positions = np.cumsum(self.reader.readable) - 1
        order = np.concatenate(self.reader.epoch(self.source.arrays, 0, self.rows, seed=protocol.order_seed, epoch=epoch))
        starts = range(0, len(order), protocol.batch_size)
        return [positions[order[start : start + protocol.batch_size]] for start in starts]

    def read_batches(self, protocol: GradientProtocol, epoch: int) -> Iterator[Tensor]:
        """Yield the batches of an epoch, read from the store."""
        order = {"batch_size": protocol.batch_size, "seed": protocol.order_seed, "epoch": epoch}
        batches = map(partial(assemble_input, self.source), self.reader.batches(self.source.arrays, 0, self.rows, **order))
        return batches if self.standard is None else map(self.standard, batches)

    def standardise(self, cache: MomentCache) -> "TrainingInputs":
        """Return the inputs with every channel standardised over the training rows: from the cache, or by one scan."""
        key = make_standard_key(self.training)
        if (tensors := cache.load(key)) is None:
            tensors = vars(compute_standardisation(self.blocks()))
            cache.save(key, tensors)
        return replace(self, standard=Standardisation(tensors["shift"], tensors["scale"]))


def make_standard_key(training: TrainingRows) -> dict[str, Any]:
    """Return the key in the moment cache of the channels' mean and deviation over the training rows."""
    subject = {"input": training.source.kind, "taps": list(training.source.taps)}
    return training.cache_key("channels", (0, training.count), subject)


def compute_standardisation(blocks: Iterator[Tensor]) -> Standardisation:
    """Return the standardisation of all images of some blocks [B, C, 28, 28], at least one.

    >>> compute_standardisation(iter([torch.tensor([[[[1.0, 3.0]], [[5.0, 5.0]]]])]))
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
        raise ValueError("no image to standardise by")
    mean = first / count
    variance = second / count - mean**2
    dead = variance <= DEAD_DEVIATION**2 * (variance + (mean + start) ** 2)
    return Standardisation(start + mean, torch.where(dead, 0, variance.clamp(min=0).rsqrt()))
