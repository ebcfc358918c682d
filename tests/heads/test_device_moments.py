"""Sums and solutions on a device, with torch's CPU in place of a GPU: they are NumPy's to 1e-12, and memory may run out."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from posenet_store.errors import PosenetStoreError
from posenet_store.heads import device_moments
from posenet_store.heads.device_moments import DeviceImageMomentAccumulator, DeviceMomentAccumulator
from posenet_store.heads.moments import ImageMomentAccumulator, ImageMoments, MomentAccumulator, Moments
from posenet_store.heads.protocols import RidgeProtocol
from posenet_store.heads.ridge import solve_ridge
from posenet_store.heads.tap_moments import TapMomentAccumulator
from posenet_store.heads.targets import make_target_map
from tests.support.pretend_cuda import pretend_cuda

CPU = torch.device("cpu")


def draw_taps(images: int, dtype: torch.dtype, scale: float = 1.0, offset: float = 0.0) -> list[Tensor]:
    """Three taps, finer and coarser, of which one channel is dead and one is constant."""
    rng = torch.Generator().manual_seed(0)
    taps = [
        scale * torch.rand(images, channels, side, side, generator=rng) + offset
        for channels, side in ((5, 28), (6, 14), (7, 7))
    ]
    taps[0][:, 1], taps[2][:, 3] = 0.0, 3.0
    return [tap.to(dtype) for tap in taps]


def check_moments(actual: Moments | None, expected: Moments | None) -> None:
    """Compare about one shift, relative to the largest sum: both are float64, added in another order."""
    assert actual is not None and expected is not None
    moved = actual.shift_to(expected.shift)
    assert moved.images == expected.images
    for ours, theirs in ((moved.second, expected.second), (moved.position, expected.position)):
        assert float((ours - theirs).abs().max()) <= 1e-11 * float(theirs.abs().max())


@pytest.mark.parametrize("corners", [False, True])
@pytest.mark.parametrize(("dtype", "scale", "offset"), [
    (torch.float16, 1.0, 0.0), (torch.float32, 1e8, 0.0), (torch.float32, 1e-8, 0.0), (torch.float32, 1.0, 100.0),
])  # fmt: skip
def test_taps_are_summed_as_on_the_cpu(dtype: torch.dtype, scale: float, offset: float, corners: bool) -> None:
    taps = draw_taps(9, dtype, scale, offset)
    ours, theirs = DeviceMomentAccumulator(CPU, 1, 0, corners), TapMomentAccumulator(corners)
    for rows in (slice(0, 4), slice(4, 9)):
        for sums in (ours, theirs):
            sums.add([tap[rows] for tap in taps])
    check_moments(ours.moments(), theirs.moments())


@pytest.mark.parametrize(("kernel", "padding"), [(1, 0), (3, 0), (3, 1), (5, 2)])
def test_neighbourhoods_are_summed_as_on_the_cpu(kernel: int, padding: int) -> None:
    (block, *_), targets = draw_taps(6, torch.float32), torch.rand(2, *[28 + 2 * padding - kernel + 1] * 2, dtype=torch.float64)
    ours, theirs = DeviceMomentAccumulator(CPU, kernel, padding), MomentAccumulator(kernel, padding)
    ours.add([block])
    theirs.add(block)
    check_moments(ours.moments(), theirs.moments())
    of_images = [
        DeviceImageMomentAccumulator(CPU, 6, kernel, padding, targets),
        ImageMomentAccumulator(6, kernel, padding, targets),
    ]
    for sums in of_images:
        sums.add(block[:4])
        sums.add(block[4:])
    actual, expected = (sums.moments() for sums in of_images)
    torch.testing.assert_close(actual.second, expected.second, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(actual.cross, expected.cross, rtol=1e-12, atol=1e-12)


def test_heads_are_solved_as_on_the_cpu() -> None:
    taps = draw_taps(8, torch.float32, 1e8)
    groups = []
    for rows in (slice(0, 6), slice(6, 8)):
        sums = TapMomentAccumulator(corners=False)
        sums.add([tap[rows] for tap in taps])
        groups += [moments for moments in [sums.moments()] if moments is not None]
    targets = [torch.from_numpy(make_target_map(name, 28, (0.0, 1.0)).astype(np.float64)) for name in ("H", "G")]
    for ours, theirs in zip(
        *(solve_ridge(groups, targets, RidgeProtocol(), device=device) for device in ("cpu", None)), strict=True
    ):
        assert ours.facts == pytest.approx(theirs.facts, rel=1e-9)
        torch.testing.assert_close(ours.weight * 1e8, theirs.weight * 1e8, rtol=1e-6, atol=1e-9)
        assert bool((ours.weight[[1, 14]] == 0).all())


def limit_memory(monkeypatch: pytest.MonkeyPatch, images: int) -> list[int]:
    """Let no more images be unfolded at a time; return the tries."""
    tries: list[int] = []
    real = device_moments.unfold

    def unfold(block: Tensor, kernel: int, padding: int) -> Tensor:
        tries.append(len(block))
        if len(block) > images:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")
        return real(block, kernel, padding)

    monkeypatch.setattr(device_moments, "unfold", unfold)
    return tries


@pytest.mark.parametrize("start", [
    lambda: DeviceMomentAccumulator(torch.device("cuda"), 3, 0),
    lambda: DeviceImageMomentAccumulator(torch.device("cuda"), 9, 3, 0, torch.rand(1, 26, 26, dtype=torch.float64)),
])  # fmt: skip
def test_memory_that_runs_out_halves_the_step(
    monkeypatch: pytest.MonkeyPatch, start: Callable[[], DeviceMomentAccumulator | DeviceImageMomentAccumulator]
) -> None:
    (block, *_) = draw_taps(9, torch.float32)
    results: list[Moments | ImageMoments | None] = []
    for images in (9, 2):
        with pretend_cuda() as cuda:
            tries, sums = limit_memory(monkeypatch, images), start()
            sums.add([block]) if isinstance(sums, DeviceMomentAccumulator) else sums.add(block)
        results.append(sums.moments())
        monkeypatch.undo()
    assert tries == [9, 4, 2, 2, 2, 2, 1]
    assert cuda.calls["empty_cache"] == 2
    enough, halved = results
    if isinstance(enough, ImageMoments):
        assert isinstance(halved, ImageMoments)
        torch.testing.assert_close(enough.second, halved.second, rtol=1e-12, atol=1e-12)
    else:
        check_moments(halved, enough)  # type: ignore[arg-type]


def test_memory_that_does_not_suffice_for_an_image_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    limit_memory(monkeypatch, 0)
    sums = DeviceMomentAccumulator(CPU, 1, 0)
    with pytest.raises(PosenetStoreError, match="--device cpu"):
        sums.add([torch.rand(3, 2, 28, 28)])


def test_other_errors_are_not_hidden() -> None:
    with pytest.raises(RuntimeError):
        DeviceMomentAccumulator(CPU, 1, 0).add([torch.rand(3, 2, 28, 28), torch.rand(2, 2, 28, 28)])


def test_features_that_are_not_finite_are_an_error() -> None:
    sums = DeviceMomentAccumulator(CPU, 1, 0)
    assert sums.moments() is None
    sums.add([torch.full((1, 2, 28, 28), torch.nan)])
    with pytest.raises(PosenetStoreError, match="NaN"):
        sums.moments()
