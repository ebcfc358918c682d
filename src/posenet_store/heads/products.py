"""Sum products of features with each other on all threads, to the same bits whatever their number.

Second moments are cut into tiles. Each is one product of a shape that does not depend on the threads, made by one of them with
a BLAS of one thread, so that neither does its rounding. All threads add to one sum: memory does not grow with the threads.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from posenet_store.threads import map_on_threads

Floats = NDArray[np.float64]
Tile = tuple[slice, Floats]
"""Rows of the second moments, and their features [rows, n]: a row has all samples of a feature."""
MIN_ROWS, MAX_ROWS, TILES = 64, 256, 8
"""Rows of a tile: less are multiplied slowly, more leave threads idle; and how many tiles share the features between."""
PRODUCT_BYTES = 32 << 20
"""Bytes of the features that are multiplied at a time: the longer their rows, the less it costs to add products."""


def count_images_per_product(numbers: int) -> int:
    """Return how many images to multiply at a time, of so many numbers each."""
    return max(1, PRODUCT_BYTES // (8 * numbers))


def cut_rows(start: int, stop: int, total: int) -> list[slice]:
    """Cut rows [start, stop) of the second moments of `total` features into those of tiles.

    >>> cut_rows(0, 150, 150)
    [slice(0, 64, None), slice(64, 128, None), slice(128, 150, None)]
    """
    step = min(MAX_ROWS, max(MIN_ROWS, total // TILES))
    return [slice(first, min(stop, first + step)) for first in range(start, stop, step)]


def list_pairs(tiles: Sequence[Tile], old: int = 0) -> list[tuple[Tile, Tile]]:
    """Return each pair of tiles once, a tile with itself too, without those of the first `old` with each other."""
    return [(tile, other) for number, tile in enumerate(tiles) if number >= old for other in tiles[: number + 1]]


def add_products(second: Floats, pairs: Iterable[tuple[Tile, Tile]], threads: int) -> None:
    """Add the products of pairs of tiles to the lower triangle of `second` [D, D]; BLAS must have one thread."""
    map_on_threads(lambda pair: _add_product(second, *pair), pairs, threads)


def _add_product(second: Floats, tile: Tile, other: Tile) -> None:
    (rows, features), (columns, others) = tile, other
    product = features @ others.T  # of a tile with itself NumPy computes one half
    if rows.start < columns.start:
        rows, columns, product = columns, rows, product.T
    second[rows, columns] += product
