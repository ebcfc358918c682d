"""Change images before a network sees them: transpose them, cover their border, or place them on a coloured canvas.

The paper's follow-up (arXiv 2101.12322) varies canvas colour and the distance to the border; the report's notebook
transposes its test images (its cell 15), and its numbers for ramps can be reproduced only that way.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posenet_store.errors import UsageError
from posenet_store.files import sha256
from posenet_store.images.image_set import ImageSet
from posenet_store.images.resize import make_resize
from posenet_store.specs import Size

Read = Callable[[int, Any], NDArray[np.uint8]]
SIDE = 224
"""Margins are for images of this side and are scaled for others, so that networks of any input size get the same image."""
COLOURS = {"black": (0, 0, 0), "white": (255, 255, 255), "grey": (128, 128, 128), "mean": (124, 116, 104)}
"""`mean` is ImageNet's."""
ACCEPTED = f"transposed, border:PIXELS:COLOUR, canvas:PIXELS:COLOUR with 1 to 100 pixels of {SIDE}, and \
black, white, grey, mean or RRGGBB"


@dataclass(frozen=True)
class Transform:
    """A transform of images; `margin` is a number of pixels of 224 on each side, which get `colour` (uint8 RGB).

    Kind `border` covers the image's border, `canvas` shrinks the image to fit inside, `transposed` swaps rows and columns.
    """

    kind: str
    margin: int = 0
    colour: tuple[int, int, int] = (0, 0, 0)

    @property
    def name(self) -> str:
        """The transform's part of an image set's name.

        >>> Transform("border", 16, (0, 0, 255)).name
        'border-16-0000ff'
        """
        names = {rgb: name for name, rgb in COLOURS.items()}
        colour = names.get(self.colour, bytes(self.colour).hex())
        return f"{self.kind}-{self.margin}-{colour}" if self.margin else self.kind

    def read(self, read: Read, index: int, size: Size) -> NDArray[np.uint8]:
        """Read image `index` and transform it, uint8 [side, side, 3]."""
        if self.kind == "transposed":
            return np.ascontiguousarray(read(index, size).transpose(1, 0, 2))
        resize = make_resize(size)
        margin = round(self.margin * resize.size / SIDE)
        inner = slice(margin, resize.size - margin)
        image = np.empty((resize.size, resize.size, 3), dtype=np.uint8)
        image[:] = self.colour
        if self.kind == "canvas":
            image[inner, inner] = read(index, replace(resize, size=resize.size - 2 * margin))
        else:
            image[inner, inner] = read(index, size)[inner, inner]
        return image


def parse_transform(text: str) -> Transform:
    """Parse the text after the @ of an image source; raises UsageError if it names no transform.

    >>> parse_transform("canvas:32:ff0000")
    Transform(kind='canvas', margin=32, colour=(255, 0, 0))
    """
    match text.split(":"):
        case ["transposed"]:
            return Transform("transposed")
        case [("border" | "canvas") as kind, margin, colour] if re.fullmatch(r"[1-9]\d?|100", margin, re.ASCII):
            if re.fullmatch(r"[0-9a-fA-F]{6}", colour):
                red, green, blue = bytes.fromhex(colour)
                return Transform(kind, int(margin), (red, green, blue))
            if colour in COLOURS:
                return Transform(kind, int(margin), COLOURS[colour])
    raise UsageError(f"unknown image transform {text!r}; accepted: {ACCEPTED}")


def transform_images(images: ImageSet, transform: Transform) -> ImageSet:
    """Return the transformed images as another set, with its own name and digests."""

    def read(index: int, size: Size) -> NDArray[np.uint8]:
        return transform.read(images.read, index, size)

    change = f"{transform.kind} {transform.margin} {bytes(transform.colour).hex()}"
    digests = tuple(sha256(f"{change} {digest}".encode()) for digest in images.digests)
    return replace(images, name=f"{images.name}-{transform.name}", digests=digests, read=read)
