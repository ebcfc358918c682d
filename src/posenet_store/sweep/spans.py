"""Spans of a store's rows whose moments are kept: twentieths, which any holdout, folds and amount of images can share."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

from posenet_store.sweep.inputs import Input

if TYPE_CHECKING:
    from posenet_store.sweep.training_inputs import TrainingInputs

SPANS = 20
Span = tuple[int, int]
"""Rows [start, stop) of a store."""


class Sliceable(Protocol):
    """Images of a block, of which slices are others."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice, /) -> Self: ...


Block = TypeVar("Block", bound=Sliceable)
Read = Callable[[int, int], Iterator[Block]]
"""What yields the blocks of rows [start, stop)."""


def cut_into_spans(rows: int) -> list[Span]:
    """Return the twentieths of a store's rows that hold any; a holdout of some twentieths begins where one of them does.

    >>> cut_into_spans(10)[:2], len(cut_into_spans(1000)), cut_into_spans(1000)[16]
    ([(0, 1), (1, 2)], 20, (800, 850))
    """
    cuts = [rows - round((SPANS - number) / SPANS * rows) for number in range(SPANS + 1)]
    return [span for span in pairwise(cuts) if span[0] < span[1]]


def find_span(row: int, spans: Sequence[Span]) -> int:
    """Return the position of the span that holds a row."""
    return next(position for position, (start, stop) in enumerate(spans) if start <= row < stop)


@dataclass(frozen=True)
class TrainingRows:
    """The rows that train: the first `count` of a store's `stored`, read as `source`, standardised or as they are."""

    source: Input
    count: int
    stored: int
    standardised: bool = False

    def split(self, groups: Sequence[Span] | None = None) -> list[Span]:
        """Return groups of rows (by default one, of all) cut at the bounds of the store's twentieths.

        >>> TrainingRows(None, 90, 200).split([(0, 25), (25, 33)])
        [(0, 10), (10, 20), (20, 25), (25, 30), (30, 33)]
        """
        spans = cut_into_spans(self.stored)
        parts = ((max(a, start), min(b, stop)) for start, stop in groups or [(0, self.count)] for a, b in spans)
        return [part for part in parts if part[0] < part[1]]

    def cache_key(self, kind: str, span: Span, subject: Mapping[str, Any]) -> dict[str, Any]:
        """Return the key in the moment cache of what is summed over a span; what is standardised depends on all rows."""
        standard = {"standardised": self.count} if self.standardised else {}
        return {"kind": kind, "rows": list(span)} | standard | dict(subject)


def count_rows(spans: Sequence[Span]) -> int:
    """Return how many rows some spans have together."""
    return sum(stop - start for start, stop in spans)


def read_spans(inputs: "TrainingInputs", spans: Sequence[Span], read: Read[Block]) -> Iterator[tuple[Span, Block]]:
    """Yield the images of ascending spans as (span, part of a block that `read` yields); adjacent spans are read in one scan.

    A block that several spans share is decoded once.
    """
    for adjacent in _join_adjacent(spans):
        position, remaining = 0, inputs.count_images(adjacent[0])
        for block in read(adjacent[0][0], adjacent[-1][1]):
            first, images = 0, len(block)
            while first < images:
                while not remaining:
                    position += 1
                    remaining = inputs.count_images(adjacent[position])
                count = min(remaining, images - first)
                yield adjacent[position], block[first : first + count]
                first, remaining = first + count, remaining - count
            del block  # so that its memory is free while the next is read


def iterate_spans(
    inputs: "TrainingInputs", spans: Sequence[Span], lacking: Sequence[Span], read: Read[Block]
) -> Iterator[tuple[Span, Iterator[Block]]]:
    """Yield each of some ascending spans with its blocks: those of `lacking` from shared scans, others when asked for."""
    stream = groupby(read_spans(inputs, lacking, read), key=itemgetter(0))
    for span in spans:
        yield span, map(itemgetter(1), next(stream)[1]) if span in lacking else _read_later(read, span)


def _read_later(read: Read[Block], span: Span) -> Iterator[Block]:
    """Yield the blocks of a span, of which none is read before the first is asked for."""
    yield from read(*span)


def _join_adjacent(spans: Sequence[Span]) -> list[list[Span]]:
    """Return runs of spans without a gap.

    >>> _join_adjacent([(0, 5), (5, 9), (12, 15)])
    [[(0, 5), (5, 9)], [(12, 15)]]
    """
    runs: list[list[Span]] = []
    for span in spans:
        if runs and runs[-1][-1][1] == span[0]:
            runs[-1].append(span)
        else:
            runs.append([span])
    return runs
