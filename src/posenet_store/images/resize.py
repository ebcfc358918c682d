"""Resize an image to a square for a network: squashed, or its centre, as timm's transforms do for evaluation."""

from math import floor

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from posenet_store.specs import Resize, Size


def make_resize(size: Size) -> Resize:
    """Return how to resize; a number is the side of a squashed, bilinearly filtered image."""
    return Resize(size) if isinstance(size, int) else size


def scale_sides(sides: tuple[int, int], resize: Resize) -> tuple[int, int]:
    """Return the sides of a scaled image before its centre is cut out.

    >>> scale_sides((40, 30), Resize(28)), scale_sides((40, 30), Resize(21, "center", 0.7))
    ((28, 28), (40, 30))
    """
    target, shorter = floor(resize.size / resize.crop_pct), min(sides)
    squash = resize.crop_mode == "squash"
    width, height = (target if squash or side == shorter else int(target * side / shorter) for side in sides)
    return width, height


def resize_image(image: Image.Image, size: Size) -> NDArray[np.uint8]:
    """Return an RGB image as uint8 [size, size, 3].

    `center` scales the shorter side to `size / crop_pct` pixels and cuts out the middle; `squash` scales both sides to it.

    >>> resize_image(Image.new("RGB", (40, 30), (9, 8, 7)), 28).shape
    (28, 28, 3)
    """
    resize = make_resize(size)
    sides = scale_sides(image.size, resize)
    scaled = image.resize(sides, Image.Resampling[resize.interpolation.upper()])
    left, top = (round((side - resize.size) / 2) for side in sides)
    return np.asarray(scaled.crop((left, top, left + resize.size, top + resize.size)))
