"""The generator's promises: seeded, scale-invariant, opaque, and with no position drawn in."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from posenet_store.images import synthetic as module
from posenet_store.images.synthetic import CANVAS, draw_dead_leaves, load_dead_leaves


@cache
def stack(count: int) -> NDArray[np.uint8]:
    """Return the first images of seed 0, drawn once for all tests."""
    return np.stack([draw_dead_leaves(0, index) for index in range(count)])


def test_an_image_is_a_function_of_seed_and_index() -> None:
    np.random.default_rng().random()
    assert (draw_dead_leaves(0, 5) == stack(64)[5]).all()
    assert stack(64).shape == (64, CANVAS, CANVAS, 3)
    assert stack(64).dtype == np.uint8


@pytest.mark.parametrize("other", [(0, 1), (1, 0), (1, 1)])
def test_another_index_or_seed_is_another_image(other: tuple[int, int]) -> None:
    difference = np.abs(draw_dead_leaves(*other).astype(int) - draw_dead_leaves(0, 0).astype(int))
    assert difference.mean() > 20


def test_swapping_seed_and_index_gives_another_image() -> None:
    assert (draw_dead_leaves(2, 3) != draw_dead_leaves(3, 2)).any()


def test_the_spectrum_falls_as_that_of_photographs() -> None:
    grey = stack(64)[:24].mean(axis=3)
    grey -= grey.mean(axis=(1, 2), keepdims=True)
    power = (np.abs(np.fft.fft2(grey)) ** 2).mean(axis=0)
    frequency = np.fft.fftfreq(CANVAS, 1 / CANVAS)
    ring = np.rint(np.hypot(frequency[:, None], frequency[None, :])).astype(int).ravel()
    radial = np.bincount(ring, power.ravel()) / np.bincount(ring)
    k = np.arange(3, 65)
    slope, intercept = np.polyfit(np.log(k), np.log(radial[k]), 1)
    assert -3 < slope < -1.8
    # A power law over all these scales, not a mere mean slope: nowhere is it off by a factor of three.
    assert np.abs(np.log(radial[k]) - slope * np.log(k) - intercept).max() < np.log(3)


def test_no_background_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = stack(64)[:24]
    new = Image.new
    monkeypatch.setattr(Image, "new", lambda mode, size, color=0: new(mode, size, (255, 0, 255)))
    assert [int((draw_dead_leaves(0, index) != expected[index]).sum()) for index in range(24)] == [0] * 24


def test_what_falls_between_the_leaves_is_little_and_has_the_tone_of_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    outlines: list[list[float]] = []
    polygon = ImageDraw.ImageDraw.polygon

    def spy(self: ImageDraw.ImageDraw, corners: list[float], fill: tuple[int, ...]) -> None:
        outlines.append(corners)
        polygon(self, corners, fill=fill)

    gaps = []
    for index in range(24):
        outlines.clear()
        with monkeypatch.context() as patch:
            patch.setattr(ImageDraw.ImageDraw, "polygon", spy)
            image = draw_dead_leaves(0, index)
        missed = Image.new("1", (CANVAS, CANVAS), 1)
        draw = ImageDraw.Draw(missed)
        for corners in outlines:
            draw.polygon(corners, fill=0)
        gaps.append(image[np.asarray(missed)])
        assert len(gaps[-1]) < 0.01 * CANVAS**2
    assert len(np.concatenate(gaps)) < 0.002 * 24 * CANVAS**2
    # Black specks would be an edge of full contrast each; the ground is drawn from the same tones as the leaves.
    assert abs(np.concatenate(gaps).mean() - 128) < 40


def test_the_mean_image_is_flat() -> None:
    mean = stack(64).mean(axis=(0, 3))
    for axis in (0, 1):
        assert np.abs(mean.mean(axis=axis) - mean.mean()).max() < 15
    # Nor are the borders or the centre special.
    assert abs(mean[64:192, 64:192].mean() - mean.mean()) < 10


def test_contrast_does_not_depend_on_the_place() -> None:
    deviation = stack(64).astype(float).std(axis=(0, 3))
    assert np.abs(deviation.mean(axis=0) / deviation.mean() - 1).max() < 0.2
    assert np.abs(deviation.mean(axis=1) / deviation.mean() - 1).max() < 0.2


def test_images_use_the_range_without_being_clipped_to_it() -> None:
    images = stack(64)
    assert 100 < images.mean() < 156
    assert 40 < images.std() < 80
    assert ((images == 0) | (images == 255)).mean() < 0.06


def test_images_have_edges_and_flat_leaves() -> None:
    # Neighbours mostly differ by the grain alone, and at outlines by much more.
    step = np.abs(np.diff(stack(64)[:8].mean(axis=3), axis=2))
    assert np.median(step) < 3 * module.GRAIN
    assert (step > 40).mean() > 0.02


def test_images_in_a_folder_are_drawn_once_and_again_where_a_file_is_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = load_dead_leaves(3, seed=7, folder=tmp_path)
    first = [images.read(index, 64) for index in range(3)]
    (path,) = tmp_path.iterdir()
    damaged = path / "00001.png"
    damaged.write_bytes(damaged.read_bytes()[:5000])
    drawn: list[int] = []

    def draw(seed: int, index: int) -> NDArray[np.uint8]:
        drawn.append(index)
        return draw_dead_leaves(seed, index)

    monkeypatch.setattr(module, "draw_dead_leaves", draw)
    again = load_dead_leaves(3, seed=7, folder=tmp_path)
    assert all((again.read(index, 64) == image).all() for index, image in enumerate(first))
    assert drawn == [0, 1]  # image 0 for its digest
    assert again.digests == load_dead_leaves(3, seed=7).digests
