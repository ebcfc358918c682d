"""Generate images: the three probes (black, white, noise), and dead leaves, which have the statistics of photographs.

A dead-leaves image is a pile of opaque leaves whose radii follow r^-3 between two cut-offs. It is scale-invariant, with
the 1/f amplitude spectrum and the edges of photographs (Lee, Mumford and Huang, IJCV 2001). Leaves are uniformly coloured
ellipses, boxes and triangles in random rotation, spread uniformly, so that an image does not depend on position.
"""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from posenet_store.errors import unknown
from posenet_store.files import sha256, write_atomic
from posenet_store.images.image_set import ImageSet
from posenet_store.images.resize import resize_image
from posenet_store.specs import Size

PROBES = ("black", "white", "noise")
PROBE_SIZE = 224
VERSION = 1
CANVAS = 256
RADII = (4.0, 128.0)
LEAVES = 9000  # on the canvas and around it: a pixel is covered seven times on average, and one in 1,000 is not
SIDES = (20, 4, 3)  # of an ellipse's outline, a box, a triangle
GRAIN = 5.0


def make_probe(name: str, seed: int = 0) -> NDArray[np.uint8]:
    """Return a probe image, uint8 [224, 224, 3]: black (0), white (255), or Gaussian noise (mean 127.5, std 50, clipped).

    >>> make_probe("white").min(), make_probe("noise").std().round() > 40
    (np.uint8(255), np.True_)
    """
    shape = (PROBE_SIZE, PROBE_SIZE, 3)
    match name:
        case "black" | "white":
            return np.full(shape, 255 if name == "white" else 0, dtype=np.uint8)
        case "noise":
            noise = np.random.default_rng(seed).normal(127.5, 50, shape)
            return np.clip(noise, 0, 255).astype(np.uint8)
        case _:
            raise unknown("probe", name, PROBES)


def load_probes() -> ImageSet:
    """Return the three synthetic test images of the paper and the report."""
    images = [make_probe(name) for name in PROBES]
    return _generate("probes", PROBES, tuple(sha256(image.tobytes()) for image in images), images.__getitem__)


def load_dead_leaves(count: int = 512, seed: int = 0, folder: Path | None = None) -> ImageSet:
    """Return `count` dead-leaves images; a digest covers the generator's version, its seed and the pixels of image 0.

    Below `folder` each image is kept as a PNG when it is first read, so that the next network need not draw it again.
    """
    first = sha256(draw_dead_leaves(seed, 0).tobytes())
    ids = tuple(f"dead-leaves-{index:05d}" for index in range(count))
    digests = tuple(sha256(f"{VERSION} {seed} {index} {first}".encode()) for index in range(count))
    if folder is None:
        return _generate("dead-leaves", ids, digests, lambda index: draw_dead_leaves(seed, index))
    drawn = folder / f"dead-leaves-{VERSION}-{seed}-{first[:8]}"
    return _generate("dead-leaves", ids, digests, lambda index: _draw_once(drawn / f"{index:05d}.png", seed, index))


def _draw_once(path: Path, seed: int, index: int) -> NDArray[np.uint8]:
    """Return an image that was kept at `path`, or draw and keep it; a damaged file is drawn again."""
    try:
        return np.asarray(Image.open(path, formats=("PNG",)))
    except Exception:  # there is none, or it is damaged, which can end anywhere in PIL
        image = draw_dead_leaves(seed, index)
        text = io.BytesIO()
        Image.fromarray(image).save(text, "PNG", compress_level=1)
        write_atomic(path, text.getvalue())
        return image


def _generate(name: str, ids: tuple[str, ...], digests: tuple[str, ...], draw: Callable[[int], NDArray[np.uint8]]) -> ImageSet:
    def read(index: int, size: Size) -> NDArray[np.uint8]:
        return resize_image(Image.fromarray(draw(index)), size)

    return ImageSet(name, ids, digests, read)


def draw_dead_leaves(seed: int, index: int) -> NDArray[np.uint8]:
    """Return image `index` of the set `seed`, uint8 [256, 256, 3].

    >>> image = draw_dead_leaves(seed=0, index=3)
    >>> image.shape, bool((image == draw_dead_leaves(seed=0, index=3)).all())
    ((256, 256, 3), True)
    """
    rng = np.random.default_rng([VERSION, seed, index])
    palette = rng.normal(128, 25, 3)  # each image has its own tone, as scenes do
    light, hue = rng.normal(0, 58, (LEAVES, 1)), rng.normal(0, 14, (LEAVES, 3))
    colours = np.clip(palette + light + hue, 0, 255).astype(int).tolist()
    canvas = Image.new("RGB", (CANVAS, CANVAS))
    draw = ImageDraw.Draw(canvas)
    ground = np.clip(palette, 0, 255).astype(int).tolist()
    draw.rectangle((0, 0, CANVAS, CANVAS), fill=tuple(ground))
    for corners, colour in zip(_draw_outlines(rng), colours, strict=True):
        if corners:
            draw.polygon(corners, fill=tuple(colour))
    grain = rng.normal(0, GRAIN, (CANVAS, CANVAS, 1))
    return np.clip(np.asarray(canvas) + grain, 0, 255).astype(np.uint8)


def _draw_outlines(rng: np.random.Generator) -> list[list[float]]:
    """Return the corners [x0, y0, x1, y1, ...] of each leaf, the lowest first; empty for a leaf outside the canvas."""
    low, high = (radius**-2.0 for radius in RADII)
    radius = (low - rng.random(LEAVES) * (low - high)) ** -0.5  # inverts the distribution function of r^-3
    centre = rng.uniform(-RADII[1], CANVAS + RADII[1], (LEAVES, 2))
    aspect, angle = rng.uniform(0.35, 1.0, LEAVES), rng.uniform(0, 2 * np.pi, LEAVES)
    kind = rng.choice(len(SIDES), LEAVES, p=(0.6, 0.25, 0.15))
    visible = (np.abs(centre - CANVAS / 2) < CANVAS / 2 + radius[:, None]).all(axis=1)
    outlines: list[list[float]] = [[] for _ in range(LEAVES)]
    for number, sides in enumerate(SIDES):
        leaves = np.flatnonzero(visible & (kind == number))
        turn = 2 * np.pi * (np.arange(sides) + 0.5) / sides
        along = radius[leaves, None] * np.cos(turn)
        across = radius[leaves, None] * aspect[leaves, None] * np.sin(turn)
        cos, sin = np.cos(angle[leaves, None]), np.sin(angle[leaves, None])
        x = centre[leaves, :1] + cos * along - sin * across
        y = centre[leaves, 1:] + sin * along + cos * across
        for leaf, corners in zip(leaves, np.stack([x, y], axis=2).reshape(len(leaves), -1).tolist(), strict=True):
            outlines[leaf] = corners
    return outlines
