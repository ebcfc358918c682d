"""Resizing against torchvision's transforms, which timm's are made of."""

import numpy as np
import pytest
from PIL import Image
from torchvision import transforms

from posenet_store.images.image_set import load_folder
from posenet_store.images.resize import resize_image
from posenet_store.images.transforms import parse_transform, transform_images
from posenet_store.specs import Resize
from tests.support.small import write_images


@pytest.mark.parametrize("sides", [(150, 90), (90, 150), (64, 64), (31, 200), (20, 20)])
@pytest.mark.parametrize("crop_pct", [0.875, 0.95, 1.0])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_the_centre_is_torchvisions(sides: tuple[int, int], crop_pct: float, interpolation: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*sides, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    mode = transforms.InterpolationMode(interpolation)
    expected = transforms.CenterCrop(64)(transforms.Resize(int(64 / crop_pct), interpolation=mode)(image))
    np.testing.assert_array_equal(resize_image(image, Resize(64, "center", crop_pct, interpolation)), np.asarray(expected))


def test_a_number_is_a_squashed_image() -> None:
    image = Image.effect_noise((50, 30), 50).convert("RGB")
    expected = np.asarray(image.resize((28, 28), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(resize_image(image, 28), expected)
    np.testing.assert_array_equal(resize_image(image, Resize(28)), expected)


def test_changed_images_are_cropped_too(tmp_path_factory: pytest.TempPathFactory) -> None:
    plain = load_folder(write_images(tmp_path_factory.mktemp("images"), 1))
    resize = Resize(28, "center", 0.875)
    inner, image = slice(4, 24), plain.read(0, resize)
    covered = transform_images(plain, parse_transform("border:32:white")).read(0, resize)
    np.testing.assert_array_equal(covered[inner, inner], image[inner, inner])
    shrunk = transform_images(plain, parse_transform("canvas:32:white")).read(0, resize)
    np.testing.assert_array_equal(shrunk[inner, inner], plain.read(0, Resize(20, "center", 0.875)))
    assert not (image == plain.read(0, 28)).all()
