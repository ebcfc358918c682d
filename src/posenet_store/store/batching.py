"""From an order of rows to batches, in bounded memory: whole blocks are decoded into one reused buffer a pool."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from posenet_store.specs import StoreSpec
from posenet_store.store.chunking import overlapping

Rows = NDArray[np.int64]
Empty = Callable[[tuple[int, ...], str], NDArray[Any]]


class Source(Protocol):
    """What rows are gathered from."""

    @property
    def spec(self) -> StoreSpec:
        """Names, shapes and dtype of the arrays."""
        ...

    @property
    def bounds(self) -> list[tuple[int, int]]:
        """(start, stop) of every block."""
        ...

    def read(self, name: str, start: int, stop: int, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Read rows [start, stop) of one array into `out`."""
        ...


def slice_pools(pools: Sequence[Rows], start: int, stop: int) -> list[Rows]:
    """Keep what lies at the places [start, stop) of the order that the pools make together.

    >>> [pool.tolist() for pool in slice_pools([np.array([4, 5, 6]), np.array([0, 1])], 2, 4)]
    [[6], [0]]
    """
    starts = np.cumsum([0, *map(len, pools)])
    parts = (pool[max(0, start - s) : max(0, stop - s)] for s, pool in zip(starts, pools, strict=False))
    return [part for part in parts if len(part)]


def draw_epoch_pools(
    bounds: list[tuple[int, int]], readable: NDArray[np.bool_], span: tuple[int, int], pool_rows: int, seed: int, epoch: int
) -> list[NDArray[np.int64]]:
    """Return the order in which an epoch visits the readable rows of `span`: one array of rows a pool.

    Blocks come in random order; consecutive ones are pooled up to `pool_rows` (one block at least) and their rows mixed.
    Rows were permuted when the store was built, so blocks are random samples and this is a sound shuffle. The order is a
    pure function of its arguments.

    >>> pools = draw_epoch_pools([(0, 2), (2, 4), (4, 5)], np.ones(5, dtype=bool), (0, 5), pool_rows=4, seed=0, epoch=0)
    >>> sorted(np.concatenate(pools).tolist()), max(map(len, pools)) <= 4
    ([0, 1, 2, 3, 4], True)
    """
    rng = np.random.default_rng([seed, epoch])
    start, stop = span
    pools: list[NDArray[np.int64]] = []
    held: list[NDArray[np.int64]] = []
    for block in rng.permutation(list(overlapping(bounds, start, stop))):
        first, end = bounds[block]
        rows = np.arange(max(first, start), min(end, stop))
        rows = rows[readable[rows]]
        if held and sum(map(len, held)) + len(rows) > pool_rows:
            pools.append(rng.permutation(np.concatenate(held)))
            held = []
        held.append(rows)
    if held:
        pools.append(rng.permutation(np.concatenate(held)))
    return pools


class _Pool:
    """Buffers that hold the rows of one pool after another; a fresh large buffer costs more than decoding into it."""

    def __init__(self, source: Source, names: Sequence[str]) -> None:
        self._source, self._names = source, names
        self._buffers: dict[str, NDArray[Any]] = {}

    def fill(self, rows: Rows) -> Rows:
        """Decode the blocks that hold `rows`, in order; return where in the buffers each row is."""
        places = np.empty(len(rows), np.int64)
        spans, used = [], 0
        bounds = self._source.bounds
        for block in overlapping(bounds, int(rows.min()), int(rows.max()) + 1):
            inside = np.flatnonzero((rows >= bounds[block][0]) & (rows < bounds[block][1]))
            if len(inside):
                low, high = int(rows[inside].min()), int(rows[inside].max()) + 1
                places[inside] = rows[inside] - low + used
                spans.append((low, high, used))
                used += high - low
        for name in self._names:
            buffer = self._buffer(name, used)
            for low, high, place in spans:
                self._source.read(name, low, high, buffer[place : place + high - low])
        return places

    def _buffer(self, name: str, rows: int) -> NDArray[Any]:
        if name not in self._buffers or len(self._buffers[name]) < rows:
            self._buffers.pop(name, None)
            self._buffers[name] = np.empty((rows, *self._source.spec.arrays[name]), self._source.spec.dtype)
        return self._buffers[name]

    def take(self, name: str, places: Rows, out: NDArray[Any]) -> None:
        """Copy rows out of a buffer."""
        np.take(self._buffers[name], places, axis=0, out=out, mode="clip")  # any other mode would copy twice


def iterate_batches(
    source: Source, names: Sequence[str], pools: Sequence[Rows], sizes: Sequence[int], empty: Empty = np.empty
) -> Iterator[tuple[Rows, dict[str, NDArray[Any]]]]:
    """Yield (rows, {name: [n, C, H, W]}) in the order of the pools, `sizes[i]` rows in batch i.

    The batches are the caller's to keep; `empty(shape, dtype)` makes them. Memory: the largest pool, and a batch.
    """
    pool, waiting = _Pool(source, names), iter(pools)
    rows = places = np.empty(0, np.int64)
    for size in sizes:
        batch = {name: empty((size, *source.spec.arrays[name]), source.spec.dtype) for name in names}
        held, numbers = 0, np.empty(size, np.int64)
        while held < size:
            if not len(rows):
                rows = next(waiting)
                places = pool.fill(rows)
            count = min(size - held, len(rows))
            numbers[held : held + count] = rows[:count]
            for name in names:
                pool.take(name, places[:count], batch[name][held : held + count])
            rows, places, held = rows[count:], places[count:], held + count
        yield numbers, batch
