"""Read rows in any order as batches, in bounded memory: whole blocks are decoded into buffers that every pool reuses."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from posenet_store.specs import StoreSpec
from posenet_store.store.chunking import split_at_blocks

Rows = NDArray[np.int64]
Allocate = Callable[[tuple[int, ...], str], NDArray[Any]]


class Source(Protocol):
    """A store whose rows are read."""

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
    """Return the rows at positions [start, stop) of the concatenated pools.

    >>> [pool.tolist() for pool in slice_pools([np.array([4, 5, 6]), np.array([0, 1])], 2, 4)]
    [[6], [0]]
    """
    firsts = np.cumsum([0, *map(len, pools)])
    slices = (pool[max(0, start - first) : max(0, stop - first)] for first, pool in zip(firsts, pools, strict=False))
    return [rows for rows in slices if len(rows)]


def draw_epoch_pools(
    bounds: list[tuple[int, int]], readable: NDArray[np.bool_], span: tuple[int, int], pool_rows: int, seed: int, epoch: int
) -> list[Rows]:
    """Return the order in which an epoch visits the readable rows of `span`, as one array of rows per pool.

    Blocks come in random order. Consecutive blocks are pooled up to `pool_rows` rows (at least one block), and the rows of
    a pool are shuffled. Rows were permuted when the store was built, so blocks are random samples and this is a sound
    shuffle. The order depends on the arguments only.

    >>> pools = draw_epoch_pools([(0, 2), (2, 4), (4, 5)], np.ones(5, dtype=bool), (0, 5), pool_rows=4, seed=0, epoch=0)
    >>> sorted(np.concatenate(pools).tolist()), max(map(len, pools)) <= 4
    ([0, 1, 2, 3, 4], True)
    """
    rng = np.random.default_rng([seed, epoch])
    parts = [np.arange(first, stop) for _, first, stop in split_at_blocks(bounds, *span)]
    pools: list[list[Rows]] = [[]]
    for index in rng.permutation(len(parts)):
        rows = parts[index][readable[parts[index]]]
        if pools[-1] and sum(map(len, pools[-1])) + len(rows) > pool_rows:
            pools.append([])
        pools[-1].append(rows)
    return [rng.permutation(np.concatenate(pool)) for pool in pools if pool]


class _PoolBuffers:
    """Buffers for the rows of one pool after another; allocating large buffers anew would cost more than decoding."""

    def __init__(self, source: Source, names: Sequence[str]) -> None:
        self._source, self._names = source, names
        self._buffers: dict[str, NDArray[Any]] = {}

    def fill(self, rows: Rows) -> Rows:
        """Decode the blocks that hold `rows`; return the position of each row in the buffers."""
        positions = np.empty(len(rows), np.int64)
        spans, used = [], 0
        for _, first, stop in split_at_blocks(self._source.bounds, int(rows.min()), int(rows.max()) + 1):
            inside = np.flatnonzero((rows >= first) & (rows < stop))
            if len(inside):
                low, high = int(rows[inside].min()), int(rows[inside].max()) + 1
                positions[inside] = rows[inside] - low + used
                spans.append((low, high, used))
                used += high - low
        for name in self._names:
            buffer = self._get_buffer(name, used)
            for low, high, offset in spans:
                self._source.read(name, low, high, buffer[offset : offset + high - low])
        return positions

    def _get_buffer(self, name: str, rows: int) -> NDArray[Any]:
        if name not in self._buffers or len(self._buffers[name]) < rows:
            self._buffers.pop(name, None)
            self._buffers[name] = np.empty((rows, *self._source.spec.arrays[name]), self._source.spec.dtype)
        return self._buffers[name]

    def copy(self, name: str, positions: Rows, out: NDArray[Any]) -> None:
        """Copy the rows at `positions` of an array's buffer to `out`."""
        np.take(self._buffers[name], positions, axis=0, out=out, mode="clip")  # any other mode would copy twice


def iterate_batches(
    source: Source, names: Sequence[str], pools: Sequence[Rows], sizes: Sequence[int], allocate: Allocate = np.empty
) -> Iterator[tuple[Rows, dict[str, NDArray[Any]]]]:
    """Yield (rows, {name: [n, C, H, W]}) in the order of the pools, `sizes[i]` rows in batch i.

    The caller may keep the batches; `allocate(shape, dtype)` makes their arrays. Memory: the largest pool and a batch.
    """
    buffers, remaining = _PoolBuffers(source, names), iter(pools)
    rows = positions = np.empty(0, np.int64)
    for size in sizes:
        batch = {name: allocate((size, *source.spec.arrays[name]), source.spec.dtype) for name in names}
        batch_rows, filled = np.empty(size, np.int64), 0
        while filled < size:
            if not len(rows):
                rows = next(remaining)
                positions = buffers.fill(rows)
            count = min(size - filled, len(rows))
            batch_rows[filled : filled + count] = rows[:count]
            for name in names:
                buffers.copy(name, positions[:count], batch[name][filled : filled + count])
            rows, positions, filled = rows[count:], positions[count:], filled + count
        yield batch_rows, batch
