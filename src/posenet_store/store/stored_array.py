"""One array of a store, lazily: it has a shape and a dtype, and reads what is indexed."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posenet_store.errors import UsageError
from posenet_store.store.batching import Source
from posenet_store.store.chunking import split_at_blocks


class StoredArray:
    """One array [rows, C, H, W] of a store: `array[3:5]`, `array[[7, 1], :8]` and `np.asarray(array)` read it.

    Indexing is NumPy's, except that only one axis may be indexed by a list. Quarantined rows are NaN. Rows are read a block
    at a time, and nothing is kept.
    """

    def __init__(self, source: Source, name: str) -> None:
        self._source = source
        self.name = name
        self.shape: tuple[int, ...] = (source.spec.rows, *source.spec.arrays[name])
        self.dtype: np.dtype[Any] = np.dtype(source.spec.dtype)

    @property
    def ndim(self) -> int:
        """The number of axes: 4."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """The uncompressed bytes of all rows."""
        return int(np.prod(self.shape)) * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"<StoredArray {self.name} {list(self.shape)} {self.dtype}, {self.nbytes / 2**20:,.1f} MiB: index it to read>"

    def __iter__(self) -> Iterator[NDArray[Any]]:
        for start, stop in self._source.bounds:
            yield from self._source.read(self.name, start, stop)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError(f"{self.name} is on the disk; an array of it is always a copy")
        return self._source.read(self.name, 0, len(self)).astype(dtype or self.dtype, copy=False)

    def __getitem__(self, index: Any) -> NDArray[Any]:
        """Read what `index` selects; raises UsageError for an index that the array does not have."""
        keys = index if isinstance(index, tuple) else (index,)
        by_row = bool(keys) and keys[0] is not Ellipsis and keys[0] is not None
        first, rest = (keys[0], keys[1:]) if by_row else (slice(None), keys)
        try:
            rows = np.arange(len(self))[first]
            if rows.ndim and not isinstance(first, slice) and any(isinstance(key, list | np.ndarray) for key in rest):
                raise IndexError("two axes are indexed by lists")
            values = self._read_rows(rows)
            result: NDArray[Any] = values[(slice(None),) * rows.ndim + rest] if by_row else values[rest]
        except (IndexError, TypeError) as error:
            raise UsageError(
                f"{self.name} can't be indexed by {index!r}: {error}; give whole numbers, slices or one list within "
                f"{list(self.shape)}, such as [0:8] or [0:8, 3]"
            ) from None
        return result

    def _read_rows(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Return rows in any order and of any shape: [*rows.shape, C, H, W]; only blocks that hold one are read."""
        flat = rows.reshape(-1)
        values = np.empty((len(flat), *self.shape[1:]), self.dtype)
        if not len(flat):
            return values.reshape(*rows.shape, *self.shape[1:])
        for _, start, stop in split_at_blocks(self._source.bounds, int(flat.min()), int(flat.max()) + 1):
            indices = np.flatnonzero((flat >= start) & (flat < stop))
            if len(indices):
                first, last = int(flat[indices].min()), int(flat[indices].max())
                values[indices] = self._source.read(self.name, first, last + 1)[flat[indices] - first]
        return values.reshape(*rows.shape, *self.shape[1:])
