"""StoreDataset: a store as a torch dataset whose batches any number of DataLoader workers and ranks share."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from posenet_store.errors import UsageError
from posenet_store.store.batching import Rows, Source, iterate_batches, slice_pools
from posenet_store.store.requests import check_count

Order = Callable[[int], list[Rows]]
"""Epoch -> its rows in order, as pools."""


def split_evenly(count: int, part: int, parts: int) -> tuple[int, int]:
    """Return [start, stop) of one of `parts` parts of `count` items; the first parts get one more if it does not divide.

    >>> [split_evenly(7, part, 3) for part in range(3)]
    [(0, 3), (3, 5), (5, 7)]
    """
    size, longer = divmod(count, parts)
    return part * size + min(part, longer), (part + 1) * size + min(part + 1, longer)


def find_batch_edges(count: int, batches: int, size: int) -> list[int]:
    """Return the edges of `batches` batches that `count` rows make: at most `size` rows each, full ones first, none empty.

    >>> find_batch_edges(10, 3, 4), find_batch_edges(8, 3, 4)
    ([0, 4, 8, 10], [0, 4, 7, 8])
    """
    return [min(batch * size, count - (batches - batch)) for batch in range(batches)] + [count]


class StoreDataset(IterableDataset[dict[str, Tensor]]):
    """Batches {name: [n, C, H, W] in the stored dtype, "row": int64 [n]}; give it to a DataLoader with `batch_size=None`.

    Over all workers and ranks together, every readable row comes exactly once per epoch. All ranks get the same number of
    batches (with batches of one row, some may get one less). The rows of a batch depend on seed, epoch and ranks, not on
    the workers.

    `set_epoch(epoch, position)` chooses an epoch and skips the first `position` batches of this rank; with the same number
    of workers the other batches are those of an uninterrupted epoch. Persistent workers keep the epoch they started with.
    """

    def __init__(
        self, source: Source, names: Sequence[str], order: Order, *, batch_size: int, rank: tuple[int, int] | None = None
    ) -> None:
        super().__init__()
        check_count("batch_size", batch_size, 1)
        if rank is not None and not 0 <= rank[0] < rank[1]:
            raise UsageError(f"rank = {rank} is not accepted; give (rank, ranks) with 0 <= rank < ranks, such as (0, 2)")
        self._source, self._names, self._order, self._size = source, tuple(names), order, batch_size
        self._rank, self._ranks = rank or _get_rank()
        self.set_epoch(0)

    def set_epoch(self, epoch: int, position: int = 0) -> None:
        """Choose the epoch of the next iteration, and how many of its batches to skip."""
        check_count("epoch", epoch, 0)
        check_count("position", position, 0)
        self._epoch, self._position = epoch, position

    def _plan_batches(self) -> tuple[list[Rows], list[int]]:
        """Return this rank's rows as pools, and the edges of its batches in them."""
        pools = self._order(self._epoch)
        total = sum(map(len, pools))
        if total < self._ranks:
            raise UsageError(f"{total} rows can't be dealt to {self._ranks} ranks")
        start, stop = split_evenly(total, self._rank, self._ranks)
        longest = split_evenly(total, 0, self._ranks)[1]
        count = min(stop - start, math.ceil(longest / self._size))
        return slice_pools(pools, start, stop), find_batch_edges(stop - start, count, self._size)

    def __len__(self) -> int:
        """Return the number of batches that are not skipped."""
        return max(0, len(self._plan_batches()[1]) - 1 - self._position)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        pools, edges = self._plan_batches()
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        # A DataLoader takes one batch from each worker in turn, first from worker 0. To continue at `position` in the same
        # order, worker 0 gets the part of the worker whose turn it is; each worker skips the batches that it has given.
        turn = (worker + self._position) % workers
        first, last = split_evenly(len(edges) - 1, turn, workers)
        first = min(last, first + max(0, math.ceil((self._position - turn) / workers)))
        sizes = np.diff(edges[first : last + 1]).tolist()
        pools = slice_pools(pools, edges[first], edges[last])
        allocate = _allocate_shared if info else np.empty
        for rows, values in iterate_batches(self._source, self._names, pools, sizes, allocate):
            yield {name: _to_tensor(value) for name, value in values.items()} | {"row": torch.from_numpy(rows)}


def _allocate_shared(shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
    """Return an array in shared memory, so that a worker's batch is not copied again (torch's own collation does so too)."""
    kind = getattr(torch, dtype)
    storage = torch.UntypedStorage._new_shared(math.prod(shape) * kind.itemsize)
    array: NDArray[Any] = torch.empty(0, dtype=kind).set_(storage).view(shape).numpy()
    return array


def _to_tensor(array: NDArray[Any]) -> Tensor:
    """Return the shared tensor of which an array is a view, else a view of the array."""
    base: object = array.base
    return base if isinstance(base, Tensor) else torch.from_numpy(array)


def _get_rank() -> tuple[int, int]:
    """Return the rank and the number of ranks; a spawned worker has no process group, so its parent calls this."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1
