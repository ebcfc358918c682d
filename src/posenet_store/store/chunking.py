"""Compute the order of rows, the bounds of blocks and the sizes of rows and chunks; pure integer arithmetic."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posenet_store.specs import StoreSpec

TAPS_BLOCK_ROWS = 64
ALIGNED_BLOCK_ROWS = 256
CHUNK_BYTES = 2 << 20


def choose_block_rows(layout: str) -> int:
    """Return the rows of a block: 64 images with taps (about 200 MB if native), 256 without (6 MB)."""
    return ALIGNED_BLOCK_ROWS if layout == "aligned" else TAPS_BLOCK_ROWS


def draw_row_order(rows: int, seed: int, extended_at: Sequence[int] = ()) -> list[int]:
    """Return the image index of every row: a seeded permutation, so that each block is a random sample.

    The images by which a store was extended follow its first ones, permuted on their own.

    >>> sorted(draw_row_order(5, seed=0)), draw_row_order(5, seed=0) == draw_row_order(5, seed=0)
    ([0, 1, 2, 3, 4], True)
    >>> draw_row_order(5, 0, [3])[:3] == draw_row_order(3, 0)
    True
    """
    parts = (start + np.random.default_rng(seed).permutation(stop - start) for start, stop in pairwise([0, *extended_at, rows]))
    return [int(index) for part in parts for index in part]


def split_into_batches(start: int, stop: int, size: int, edges: Sequence[int] = ()) -> list[tuple[int, int]]:
    """Split rows [start, stop) into batches of at most `size` rows; none crosses one of the `edges`.

    >>> split_into_batches(0, 5, 2), split_into_batches(2, 7, 3, [1, 3])
    ([(0, 2), (2, 4), (4, 5)], [(2, 3), (3, 6), (6, 7)])
    """
    parts = pairwise([start, *(edge for edge in edges if start < edge < stop), stop])
    return [(row, min(row + size, last)) for first, last in parts for row in range(first, last, size)]


def compute_block_bounds(rows: int, block_rows: int) -> list[tuple[int, int]]:
    """Return (start, stop) of every block; the last one may be shorter.

    >>> compute_block_bounds(5, 2)
    [(0, 2), (2, 4), (4, 5)]
    """
    return [(start, min(start + block_rows, rows)) for start in range(0, rows, block_rows)]


def choose_chunk_rows(block_rows: int, row_bytes: int) -> int:
    """Return the rows of an inner chunk: the largest divisor of the block that stays within 2 MiB.

    >>> choose_chunk_rows(64, 401_408), choose_chunk_rows(64, 5_000_000)
    (4, 1)
    """
    return next((n for n in range(block_rows, 0, -1) if block_rows % n == 0 and n * row_bytes <= CHUNK_BYTES), 1)


def take_chunk(values: NDArray[Any], start: int, rows: int) -> NDArray[Any]:
    """Return the chunk of `rows` rows that begins at row `start`, contiguous; NaN fills it up where `values` ends.

    >>> take_chunk(np.arange(3.0)[:, None], 2, 2).tolist()
    [[2.0], [nan]]
    """
    chunk = values[start : start + rows]
    if len(chunk) < rows:
        chunk = np.concatenate([chunk, np.full((rows - len(chunk), *chunk.shape[1:]), np.nan, chunk.dtype)])
    return np.ascontiguousarray(chunk)


def list_chunks(arrays: Mapping[str, NDArray[Any]], rows: Mapping[str, int]) -> list[tuple[str, int]]:
    """Return (array, first row) of every chunk of `rows[array]` rows.

    >>> list_chunks({"f1": np.zeros(3), "f2": np.zeros(3)}, {"f1": 1, "f2": 2})
    [('f1', 0), ('f1', 1), ('f1', 2), ('f2', 0), ('f2', 2)]
    """
    return [(name, start) for name, values in arrays.items() for start in range(0, len(values), rows[name])]


def count_row_bytes(spec: StoreSpec, names: Iterable[str] | None = None) -> int:
    """Return the uncompressed bytes of one image in the arrays `names` of a store; None is all of them."""
    arrays = spec.arrays
    values = sum(math.prod(arrays[name]) for name in (arrays if names is None else names))
    return values * np.dtype(spec.dtype).itemsize


def split_at_blocks(bounds: Sequence[tuple[int, int]], start: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """Split the rows [start, stop) at the bounds of blocks: yield (block, first row, last row + 1) of each part.

    >>> list(split_at_blocks([(0, 2), (2, 4), (4, 5)], 1, 3))
    [(0, 1, 2), (1, 2, 3)]
    """
    parts = ((block, max(first, start), min(last, stop)) for block, (first, last) in enumerate(bounds))
    return (part for part in parts if part[1] < part[2])
