"""Sums of taps at their own size against plain sums, and the way they travel with moments."""

import numpy as np
import pytest
import torch
from torch import Tensor

from posenet_store.heads.moments import Moments, compute_moments
from posenet_store.heads.tap_sums import TapSumAccumulator, TapSums
from tests.support.small import in_threads

SHAPES = ((20, 33, 31), (5, 28, 28), (17, 7, 7))


def draw_taps(dtype: torch.dtype, images: int = 6) -> list[Tensor]:
    draw = torch.Generator().manual_seed(1)
    return [torch.randn(images, *shape, generator=draw).mul(3).add(5).to(dtype) for shape in SHAPES]


def add_blocks(taps: list[Tensor], block: int = 4) -> tuple[TapSums, ...]:
    sums = TapSumAccumulator()
    for images in zip(*(tap.split(block) for tap in taps), strict=True):
        sums.add(images)
    return sums.sums


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_sums_are_those_of_numpy_in_float64(dtype: torch.dtype) -> None:
    """Both add the same float64 numbers, in another order."""
    taps = draw_taps(dtype)
    for sums, tap in zip(add_blocks(taps), taps, strict=True):
        values = tap.numpy().astype(np.float64)
        np.testing.assert_allclose(sums.total, values.sum(axis=0), rtol=1e-13)
        np.testing.assert_allclose(sums.squares, (values**2).sum(axis=(0, 2, 3)), rtol=1e-13)


def test_they_do_not_depend_on_threads() -> None:
    taps = draw_taps(torch.float16)
    alone, together = (in_threads(count, lambda: add_blocks(taps)) for count in (1, 3))
    assert all(
        torch.equal(a.total, b.total) and torch.equal(a.squares, b.squares) for a, b in zip(alone, together, strict=True)
    )


def test_moments_carry_them_through_files_and_sums() -> None:
    taps = draw_taps(torch.float32)
    moments = compute_moments([torch.rand(2, 3, 28, 28)], 1, 0)
    assert moments is not None
    carrying = Moments(**{**vars(moments), "taps": add_blocks(taps)})
    copy = Moments.from_tensors(1, 0, carrying.to_tensors())
    assert copy is not None
    both = carrying + copy
    for double, single in zip(both.taps, carrying.taps, strict=True):
        assert torch.equal(double.total, 2 * single.total)
        assert torch.equal(double.squares, 2 * single.squares)
    assert both.shift_to(both.shift + 1).taps == both.taps
    assert (moments + carrying).taps == ()
