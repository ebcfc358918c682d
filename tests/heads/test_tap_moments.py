"""Sums over taps as they are stored against sums over the grid, and the heads solved from both, on features that are hard."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from posenet_store.errors import PosenetStoreError
from posenet_store.heads.metrics import score_maps
from posenet_store.heads.moments import Moments, compute_moments
from posenet_store.heads.protocols import RidgeProtocol
from posenet_store.heads.ridge import solve_ridge
from posenet_store.heads.tap_moments import TapMomentAccumulator
from posenet_store.heads.targets import TARGETS, make_target_map
from posenet_store.resampling import resize_to_grid
from tests.support.small import in_threads

SIDES = (28, 14, 14, 7, 1)
LEAST = 1e-8
"""The least penalty of `RidgeProtocol`, at which heads depend most on small eigenvalues."""


def draw_taps(
    images: int = 6, channels: int = 5, sides: Sequence[int] = SIDES, dtype: torch.dtype = torch.float16
) -> list[Tensor]:
    """Rectified noise with a ramp in it, which leaks position."""
    generator = torch.Generator().manual_seed(len(sides))
    ramps = [torch.linspace(-1, 1, side) * torch.randn(channels, 1, 1, generator=generator) for side in sides]
    return [
        (torch.randn(images, channels, side, side, generator=generator) + ramp).relu().to(dtype)
        for side, ramp in zip(sides, ramps, strict=True)
    ]


def sum_taps(taps: Sequence[Tensor], corners: bool = False, block: int = 4) -> Moments:
    sums = TapMomentAccumulator(corners)
    for images in zip(*(tap.split(block) for tap in taps), strict=True):
        sums.add(images)
    total = sums.moments()
    assert total is not None
    return total


def resize(taps: Sequence[Tensor], corners: bool = False) -> Tensor:
    return torch.cat([resize_to_grid(tap.double(), corners) for tap in taps], dim=1)


def sum_grid(taps: Sequence[Tensor], corners: bool = False) -> Moments:
    total = compute_moments([resize(taps, corners)], 1, 0)
    assert total is not None
    return total


@pytest.mark.parametrize("corners", [False, True])
@pytest.mark.parametrize("sides", [SIDES, SIDES[::-1], (7, 28, 14), (28,), (13,)])
def test_sums_are_those_of_the_resized_taps(sides: tuple[int, ...], corners: bool) -> None:
    """Both add float64 numbers in another order: 1e-12 of the largest sum is a hundred times what that changes."""
    taps = draw_taps(sides=sides)
    ours, theirs = sum_taps(taps, corners), sum_grid(taps, corners)
    theirs = theirs.shift_to(ours.shift)
    assert (ours.images, ours.count) == (6, 6 * 784)
    for name in ("second", "position"):
        difference, size = getattr(ours, name) - getattr(theirs, name), getattr(theirs, name).abs().max()
        assert difference.abs().max() < 1e-12 * size


def test_they_do_not_depend_on_threads() -> None:
    taps = draw_taps(channels=90)  # tiles of 64 and 26 channels
    alone, together = (in_threads(count, lambda: sum_taps(taps)) for count in (1, 3))
    assert torch.equal(alone.second, together.second)
    assert torch.equal(alone.position, together.position)


def make_hard(name: str) -> list[Tensor]:
    if name == "float32":
        return [tap * 1.0001 for tap in draw_taps(dtype=torch.float32)]
    if name == "scale of 1e8":
        return [tap * scale for tap, scale in zip(draw_taps(dtype=torch.float32), (1e8, 1.0, 1e-6, 2.6e8, 1.0), strict=True)]
    taps = draw_taps()
    if name == "dead":
        taps[0][:, 1], taps[2][:, 0] = 0, 7.25
    elif name == "collinear":
        taps[0][:, 1], taps[2][:, 0], taps[3][:, :2] = 3 * taps[0][:, 0], taps[2][:, 1] + taps[2][:, 2], taps[3][:, 2:4]
    elif name == "nearly collinear":  # to the last bit of float16
        taps[0][:, 1] = taps[0][:, 0] * (1 + torch.rand(6, 28, 28, generator=torch.Generator().manual_seed(9)).half() / 1024)
    elif name == "constant maps":
        taps = [tap.mean((2, 3), keepdim=True).expand_as(tap) for tap in taps]
    return taps


@pytest.mark.parametrize("kind", ["plain", "float32", "scale of 1e8", "dead", "collinear", "nearly collinear", "constant maps"])
def test_heads_score_as_those_from_the_grid(kind: str) -> None:
    """SPC of all heads within 1e-6 at every penalty, the least too: the sums differ by 1e-15, and 1e-15 / 1e-8 is 1e-7."""
    taps = make_hard(kind)
    goals = [torch.from_numpy(make_target_map(name, 28).copy()) for name in TARGETS]
    for penalty in (LEAST, 1e-4, 1.0):
        scores = []
        for moments in (sum_taps(taps), sum_grid(taps)):
            heads = solve_ridge([moments], goals, RidgeProtocol(lambdas=(penalty,)))
            weights, biases = torch.stack([head.weight for head in heads]), torch.stack([head.bias for head in heads])
            maps = torch.nn.functional.conv2d(resize(taps), weights, biases).numpy()
            scores.append([score_maps(maps[:, number], goal.numpy()).spc for number, goal in enumerate(goals)])
        ours, theirs = scores
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)


def test_nan_features_are_an_error_not_a_result() -> None:
    taps = draw_taps()
    taps[3][2, 1, 5, 5] = float("nan")
    with pytest.raises(PosenetStoreError, match="NaN or infinite"):
        sum_taps(taps)


def test_no_image_is_no_moments() -> None:
    sums = TapMomentAccumulator(False)
    sums.add([tap[:0] for tap in draw_taps()])
    assert sums.moments() is None
