"""What is done to images before a network sees them: transposed, their border painted over, or put on a coloured canvas.

The paper's follow-up (arXiv 2101.12322) takes canvas colour and the distance to the border as factors; the report's notebook
transposes its test images (its cell 15), and its numbers for ramps can only be had with that.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from posenet_store.errors import UsageError
from posenet_store.files import sha256
from posenet_store.images.image_set import ImageSet

Read = Callable[[int, int], NDArray[np.uint8]]
SIDE = 224
"""Margins are told for images of this side, and scale with others: networks of different input sizes see the same."""
MOST = 100  # leaves 3 of the 28 pixels that a head without a network reads
COLOURS = {"black": (0, 0, 0), "white": (255, 255, 255), "grey": (128, 128, 128), "mean": (124, 116, 104)}
"""`mean` is ImageNet's."""
ACCEPTED = f"transposed, border:PIXELS:COLOUR, canvas:PIXELS:COLOUR with 1 to {MOST} pixels of {SIDE}, and \
black, white, grey, mean or RRGGBB"


@dataclass(frozen=True)
class Transform:
    """How an image is shown: `margin` pixels on each side, of 224, are painted in `colour` (uint8 RGB).

    `border` paints over the image, `canvas` shrinks the image into what is left, `transposed` swaps rows and columns.
    """

    kind: str
    margin: int = 0
    colour: tuple[int, int, int] = (0, 0, 0)

    @property
    def name(self) -> str:
        """Part of the image set's name.

        >>> Transform("border", 16, (0, 0, 255)).name
        'border-16-0000ff'
        """
        named = {rgb: name for name, rgb in COLOURS.items()}
        colour = named.get(self.colour, "".join(f"{part:02x}" for part in self.colour))
        return f"{self.kind}-{self.margin}-{colour}" if self.margin else self.kind

    def show(self, read: Read, index: int, size: int) -> NDArray[np.uint8]:
        """Return the image `index` as shown, uint8 [size, size, 3]."""
        if self.kind == "transposed":
            return np.ascontiguousarray(read(index, size).transpose(1, 0, 2))
        margin = round(self.margin * size / SIDE)
        inner = size - 2 * margin
        shown = np.empty((size, size, 3), dtype=np.uint8)
        shown[:] = self.colour
        within = slice(margin, margin + inner)
        shown[within, within] = read(index, inner) if self.kind == "canvas" else read(index, size)[within, within]
        return shown


def parse_transform(text: str) -> Transform:
    """Return the Canvas that `text` names; raises UsageError if there is no such thing.

    >>> parse_transform("canvas:32:ff0000")
    Transform(kind='canvas', margin=32, colour=(255, 0, 0))
    """
    kind, *rest = text.split(":")
    if kind == "transposed" and not rest:
        return Transform(kind)
    match rest:
        case [margin, colour] if kind in ("border", "canvas") and re.fullmatch(r"\d+", margin) and 1 <= int(margin) <= MOST:
            if re.fullmatch(r"[0-9a-fA-F]{6}", colour):
                red, green, blue = bytes.fromhex(colour)
                return Transform(kind, int(margin), (red, green, blue))
            if colour in COLOURS:
                return Transform(kind, int(margin), COLOURS[colour])
    raise UsageError(f"images can't be shown as {text!r}; accepted: {ACCEPTED}")


def transform_images(images: ImageSet, canvas: Transform) -> ImageSet:
    """Return the same images as `canvas` shows them: another set, with its own name and digests."""

    def read(index: int, size: int) -> NDArray[np.uint8]:
        return canvas.show(images.read, index, size)

    digests = tuple(sha256(f"{canvas} {digest}".encode()) for digest in images.digests)
    return ImageSet(f"{images.name}-{canvas.name}", images.ids, digests, read, images.ignored)
