"""Sum second moments of all channels (kernel 1) from taps as they are stored, without resizing them to the grid.

On the grid a tap X of m x m is A X A', with A [28, m] the matrix of bilinear interpolation: it lies in a space of m^2
dimensions. So the product of two taps over the 784 positions is one over the m^2 coordinates of the coarser tap: with A = Q R
of that tap (Q orthonormal) and B that of the other,  <B Y B', A X A'> = <Q' B Y B' Q, R X R'>. Nothing is left out, all is
float64, and VGG-16 takes a fifth of the multiplications, ResNet-152 a seventh.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from posenet_store.heads.moments import Moments, check_and_mirror
from posenet_store.heads.products import Floats, Tile, add_products, count_images_per_product, cut_rows, list_pairs
from posenet_store.resampling import make_grid_matrix
from posenet_store.specs import GRID
from posenet_store.threads import limit_to_one_thread, map_on_threads


@dataclass(frozen=True)
class _Part:
    """Some channels of a tap of `side` x `side`, and their rows among all features."""

    tap: int
    channels: slice
    rows: slice
    side: int


class TapMomentAccumulator:
    """Sums the moments of taps [B, C, m, m], each of at most 28x28; `corners` is as in `resize_to_grid`."""

    def __init__(self, corners: bool) -> None:
        self._corners, self._images = corners, 0
        self._shifts: list[Tensor] = []

    def add(self, taps: Sequence[Tensor]) -> None:
        """Add a block: the taps of the same images."""
        if not len(taps[0]):
            return
        step = count_images_per_product(count_coordinates((tap.shape[1], tap.shape[2]) for tap in taps))
        with limit_to_one_thread() as threads:
            if not self._shifts:
                self._start([tap[:step] for tap in taps])
            for images in zip(*(tap.split(step) for tap in taps), strict=True):
                self._sum(images, threads)

    def _start(self, taps: Sequence[Tensor]) -> None:
        """Make the sums, which are about the mean of the first images."""
        self._shifts = [tap.to(torch.float64).mean((0, 2, 3)) for tap in taps]
        self._totals = [np.zeros((*tap.shape[1:],)) for tap in taps]
        sides, ends = [tap.shape[2] for tap in taps], np.cumsum([tap.shape[1] for tap in taps]).tolist()
        size = ends[-1]
        self._second = np.zeros((size, size))
        parts = [
            _Part(tap, slice(rows.start - end + len(shift), rows.stop - end + len(shift)), rows, side)
            for tap, (end, side, shift) in enumerate(zip(ends, sides, self._shifts, strict=True))
            for rows in cut_rows(end - len(shift), end, size)
        ]
        self._parts = sorted(parts, key=lambda part: -part.side)
        self._matrices = {side: make_grid_matrix(side, self._corners).numpy() for side in set(sides)}
        self._bases = {side: np.linalg.qr(matrix)[0] for side, matrix in self._matrices.items()}

    def _sum(self, taps: Sequence[Tensor], threads: int) -> None:
        """Add a few images."""
        coordinates = map_on_threads(lambda part: self._list_coordinates(part, taps[part.tap]), self._parts, threads)
        pairs = []
        for side in self._bases:
            tiles: list[Tile] = [
                (part.rows, of_part[side]) for part, of_part in zip(self._parts, coordinates, strict=True) if part.side >= side
            ]
            pairs += list_pairs(tiles, old=sum(part.side > side for part in self._parts))
        add_products(self._second, pairs, threads)
        self._images += len(taps[0])

    def _list_coordinates(self, part: _Part, tap: Tensor) -> dict[int, Floats]:
        """Return the coordinates [channels, n] of some channels among the maps of each tap that is no finer than theirs."""
        shift = self._shifts[part.tap][part.channels, None, None, None]
        features = (tap[:, part.channels].transpose(0, 1) - shift).contiguous().numpy()
        self._totals[part.tap][part.channels] += features.sum(1)
        return {
            side: _project(features, None if side == GRID else self._matrices[part.side].T @ basis)
            for side, basis in self._bases.items()
            if side <= part.side
        }

    def moments(self) -> Moments | None:
        """Return the sums, None if there was no image; raises PosenetStoreError if a feature is not finite."""
        if not self._shifts:
            return None
        totals = [_upsample(total, self._matrices[total.shape[1]]) for total in self._totals]
        second, position = torch.from_numpy(self._second), torch.from_numpy(np.concatenate(totals))
        return Moments(1, 0, torch.cat(self._shifts), self._images, check_and_mirror(second), position)


def count_coordinates(shapes: Iterable[tuple[int, int]]) -> int:
    """Return how many coordinates an image's taps, of these channels and sides, have: each among the maps of no finer ones.

    >>> count_coordinates([(64, 28), (512, 7)])
    78400
    """
    taps = list(shapes)
    return sum(side**2 * channels for side in {side for _, side in taps} for channels, other in taps if other >= side)


def _project(features: Floats, matrix: Floats | None) -> Floats:
    """Return the coordinates [C, n * k * k] of features [C, n, m, m]: M' X' M with the matrix M [m, k], or X for None.

    Transposed, which changes no product of two of them, they are two large products instead of one for each map.
    """
    if matrix is None:
        return features.reshape(len(features), -1)
    channels, images, side, _ = features.shape
    columns = (features.reshape(-1, side) @ matrix).reshape(channels, images, side, -1)
    rows = np.ascontiguousarray(columns.swapaxes(2, 3)).reshape(-1, side) @ matrix
    return rows.reshape(channels, -1)


def _upsample(total: Floats, matrix: Floats) -> Floats:
    """Return maps [C, m, m] on the grid, flat [C, 784]."""
    return (matrix @ total @ matrix.T).reshape(len(total), -1)
