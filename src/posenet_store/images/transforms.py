"""Change images before a network sees them: transpose, mirror or crop them, cover their border, or shrink them onto a canvas.

The paper's follow-up (arXiv 2101.12322) varies canvas colour and the distance to the border; the report's notebook
transposes its test images (its cell 15), and its numbers for ramps can be reproduced only that way. Crops at random places take
away what stands where in photographs. Images placed in one cell of a grid are for classifying where (ICCV 2021, arXiv
2108.07884).
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
from posenet_store.specs import Resize, Size
from posenet_store.toml_config import parse_whole_number

Read = Callable[[int, Any], NDArray[np.uint8]]
SIDE = 224
"""Margins are for images of this side and are scaled for others, so that networks of any input size get the same image."""
COLOURS = {"black": (0, 0, 0), "white": (255, 255, 255), "grey": (128, 128, 128), "mean": (124, 116, 104)}
"""`mean` is ImageNet's."""
ACCEPTED = f"transposed, border:PIXELS:COLOUR, canvas:PIXELS:COLOUR with 1 to 100 pixels of {SIDE}, and \
black, white, grey, mean or RRGGBB; mirrored; cropped:SEED; placed:GRID:SEED with 2 to 16 cells a side"
ENLARGED = 2
"""A crop is cut out of the image at so many times the size: it has that part of each side."""


@dataclass(frozen=True)
class Transform:
    """A transform of images; `margin` is a number of pixels of 224 on each side, which get `colour` (uint8 RGB).

    Kind `border` covers the image's border, `canvas` shrinks the image to fit inside, `transposed` swaps rows and columns,
    `mirrored` left and right, and `cropped` shows half of each side, at a place that `seed` and the image's digest determine.
    `placed` shrinks the image into one of `grid` x `grid` cells of a black canvas (see `find_cell`).
    """

    kind: str
    margin: int = 0
    colour: tuple[int, int, int] = (0, 0, 0)
    seed: int | None = None
    grid: int = 0

    @property
    def name(self) -> str:
        """The transform's part of an image set's name.

        >>> Transform("border", 16, (0, 0, 255)).name
        'border-16-0000ff'
        """
        if self.seed is not None:
            return "-".join([self.kind, *([str(self.grid)] if self.grid else []), str(self.seed)])
        names = {rgb: name for name, rgb in COLOURS.items()}
        colour = names.get(self.colour, bytes(self.colour).hex())
        return f"{self.kind}-{self.margin}-{colour}" if self.margin else self.kind

    @property
    def change(self) -> str:
        """What the digests of transformed images cover beside those of the images."""
        return f"{self.kind} {self.margin} {bytes(self.colour).hex()}" if self.seed is None else self.name

    def digest(self, digest: str) -> str:
        """Return the digest of a transformed image, given that of the image."""
        return sha256(f"{self.change} {digest}".encode())

    def _place(self, read: Read, index: int, resize: Resize, cell: tuple[int, int]) -> NDArray[np.uint8]:
        """Return a black canvas with the image in one cell, in row and column; a canvas that is no multiple has a rest."""
        canvas, side = np.zeros((resize.size, resize.size, 3), dtype=np.uint8), resize.size // self.grid
        top, left = (number * side for number in cell)
        canvas[top : top + side, left : left + side] = read(index, replace(resize, size=side))
        return canvas

    def choose_size(self, size: Size) -> Size:
        """Return the size in which an image is read that is to have `size` in the end."""
        resize = make_resize(size)
        return replace(resize, size=ENLARGED * resize.size) if self.kind == "cropped" else size

    def read(self, images: ImageSet, index: int, size: Size) -> NDArray[np.uint8]:
        """Read image `index` and transform it, uint8 [side, side, 3]."""
        read, resize = images.read, make_resize(size)
        if self.kind == "transposed":
            return np.ascontiguousarray(read(index, size).transpose(1, 0, 2))
        if self.kind == "mirrored":
            return np.ascontiguousarray(read(index, size)[:, ::-1])
        if self.kind == "placed":
            return self._place(read, index, resize, find_cell(self.digest(images.digests[index]), self.grid))
        if self.kind == "cropped":
            enlarged = read(index, self.choose_size(size))  # first: what can't be read has no digest
            draw = np.random.default_rng([self.seed or 0, int(images.digests[index], 16)])
            top, left = draw.integers(0, (ENLARGED - 1) * resize.size, 2, endpoint=True).tolist()
            return np.ascontiguousarray(enlarged[top : top + resize.size, left : left + resize.size])
        margin = round(self.margin * resize.size / SIDE)
        inner = slice(margin, resize.size - margin)
        image = np.empty((resize.size, resize.size, 3), dtype=np.uint8)
        image[:] = self.colour
        if self.kind == "canvas":
            image[inner, inner] = read(index, replace(resize, size=resize.size - 2 * margin))
        else:
            image[inner, inner] = read(index, size)[inner, inner]
        return image


def find_cell(digest: str, grid: int) -> tuple[int, int]:
    """Return row and column of the cell in which `@placed` shows an image, given the digest of what is shown.

    >>> find_cell("00ff", 3)
    (1, 0)
    """
    return divmod(int(digest, 16) % grid**2, grid)


def parse_transform(text: str) -> Transform:
    """Parse the text after the @ of an image source; raises UsageError if it names no transform.

    >>> parse_transform("canvas:32:ff0000")
    Transform(kind='canvas', margin=32, colour=(255, 0, 0), seed=None, grid=0)
    """
    match text.split(":"):
        case [("transposed" | "mirrored") as kind]:
            return Transform(kind)
        case ["cropped", seed]:
            return Transform("cropped", seed=parse_whole_number("seeds", seed, "the seed of @cropped"))
        case ["placed", grid, seed]:
            cells = parse_whole_number("grid", grid, "the grid of @placed")
            return Transform("placed", seed=parse_whole_number("seeds", seed, "the seed of @placed"), grid=cells)
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
        return transform.read(images, index, size)

    def count_memory(index: int, size: Size) -> int:
        return images.count_memory(index, transform.choose_size(size))

    name = f"{images.name}-{transform.name}"
    digests = tuple(map(transform.digest, images.digests))
    return replace(images, name=name, digests=digests, read=read, count_memory=count_memory)
