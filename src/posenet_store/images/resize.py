"""Resize an image to a square for a network: squashed, or its centre, as timm's transforms do for evaluation."""

from math import floor

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from posenet_store.specs import Resize, Size


def make_resize(size: Size) -> Resize:
    """Return how to resize; a number is the side of a squashed, bilinearly filtered image."""
    return Resize(size) if isinstance(size, int) else size


def resize_image(image: Image.Image, size: Size) -> NDArray[np.uint8]:
    """Return an RGB image as uint8 [size, size, 3].

    `center` scales the shorter side to `size / crop_pct` pixels and cuts out the middle; `squash` scales both sides to it.

    >>> resize_image(Image.new("RGB", (40, 30), (9, 8, 7)), 28).shape
    (28, 28, 3)
    """
    resize = make_resize(size)
    target, shorter = floor(resize.size / resize.crop_pct), min(image.size)
    squash = resize.crop_mode == "squash"
    sides = [target if squash or side == shorter else int(target * side / shorter) for side in image.size]
    scaled = image.resize((sides[0], sides[1]), Image.Resampling[resize.interpolation.upper()])
    left, top = (round((side - resize.size) / 2) for side in sides)
    return np.asarray(scaled.crop((left, top, left + resize.size, top + resize.size)))
