"""A store as a torch dataset: batches that are right under any number of DataLoader workers and of ranks."""

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

Order = Callable[[int], list[Rows]]


def share(count: int, part: int, parts: int) -> tuple[int, int]:
    """Return [start, stop) of the part `part` of `count` things; the first parts are one longer if it does not divide.

    >>> [share(7, part, 3) for part in range(3)]
    [(0, 3), (3, 5), (5, 7)]
    """
    whole, more = divmod(count, parts)
    return part * whole + min(part, more), (part + 1) * whole + min(part + 1, more)


def edges(count: int, batches: int, size: int) -> list[int]:
    """Cut `count` rows into `batches` of at most `size`, full ones first, none empty.

    >>> edges(10, 3, 4), edges(8, 3, 4)
    ([0, 4, 8, 10], [0, 4, 7, 8])
    """
    return [min(batch * size, count - (batches - batch)) for batch in range(batches)] + [count]


class StoreDataset(IterableDataset[dict[str, Tensor]]):
    """Batches {name: [n, C, H, W] in the stored dtype, "row": int64 [n]}; give it to a DataLoader with `batch_size=None`.

    Every readable row comes exactly once an epoch, over all workers and ranks together; each rank gets as many batches as
    any other (of one row each: or one less). Which rows make a batch depends on seed, epoch and ranks, not on the workers.

    `set_epoch(epoch, position)` goes to another epoch, or on inside one: `position` is the number of batches that this rank
    has had of it, and what follows is what would have followed (with the same number of workers). Workers that persist
    keep the epoch that they began with.
    """

    def __init__(
        self, source: Source, names: Sequence[str], order: Order, *, batch_size: int, rank: tuple[int, int] | None = None
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise UsageError(f"a batch of {batch_size} rows is not possible; give at least 1")
        self._source, self._names, self._order, self._size = source, tuple(names), order, batch_size
        self._rank, self._ranks = rank or _current_rank()
        self.set_epoch(0)

    def set_epoch(self, epoch: int, position: int = 0) -> None:
        """Choose the epoch that the next iteration gives, and how many of its batches are left out."""
        self._epoch, self._position = epoch, position

    def _plan(self) -> tuple[list[Rows], list[int]]:
        """This rank's rows, and where its batches begin and end in them."""
        pools = self._order(self._epoch)
        total = sum(map(len, pools))
        if total < self._ranks:
            raise UsageError(f"{total} rows can't be dealt to {self._ranks} ranks")
        start, stop = share(total, self._rank, self._ranks)
        count = min(stop - start, -(-share(total, 0, self._ranks)[1] // self._size))
        return slice_pools(pools, start, stop), edges(stop - start, count, self._size)

    def __len__(self) -> int:
        """Return the batches that this rank has yet to get in this epoch."""
        return max(0, len(self._plan()[1]) - 1 - self._position)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        pools, cuts = self._plan()
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        # A DataLoader takes a batch from each worker in turn, from the first on. So that what follows `position` comes
        # in the same turn, worker 0 takes the place of the one whose turn it is; each leaves out what it has given.
        place = (worker + self._position) % workers
        first, last = share(len(cuts) - 1, place, workers)
        first = min(last, first + max(0, -(-(self._position - place) // workers)))
        sizes = np.diff(cuts[first : last + 1]).tolist()
        empty = _shared if info else np.empty
        for rows, values in iterate_batches(
            self._source, self._names, slice_pools(pools, cuts[first], cuts[last]), sizes, empty
        ):
            yield {name: _tensor(value) for name, value in values.items()} | {"row": torch.from_numpy(rows)}


def _shared(shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
    """An array in shared memory, as torch's own collation makes it: what a worker gathers there need not be copied again."""
    kind = getattr(torch, dtype)
    storage = torch.UntypedStorage._new_shared(math.prod(shape) * kind.itemsize)
    array: NDArray[Any] = torch.empty(0, dtype=kind).set_(storage).view(shape).numpy()
    return array


def _tensor(array: NDArray[Any]) -> Tensor:
    """The tensor that an array is a view of, shared as it is, or a view of the array."""
    base: object = array.base
    return base if isinstance(base, Tensor) else torch.from_numpy(array)


def _current_rank() -> tuple[int, int]:
    """Rank and number of ranks of this process; asked here, since a spawned worker has no process group."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1
