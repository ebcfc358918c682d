"""Dead leaves: seeded synthetic images with the statistics of natural ones and nothing to download.

Opaque leaves whose radii follow r^-3 between two cut-offs occlude one another; the result is scale-invariant, with the
1/f amplitude spectrum and the edges of photographs (Lee, Mumford and Huang, IJCV 2001). Leaves are ellipses, boxes and
triangles in any rotation, each of one colour and scattered evenly, so that no position is drawn into the image.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

VERSION = 1
CANVAS = 256
RADII = (4.0, 128.0)
LEAVES = 9000  # fall on the canvas and its surroundings; they cover a pixel seven times on average, and miss one in 1,000
SIDES = (20, 4, 3)  # an ellipse's outline, a box, a triangle
GRAIN = 5.0


def _outlines(rng: np.random.Generator) -> list[list[float]]:
    """Return every leaf's corners as [x0, y0, x1, y1, ...] in the order in which they fall; empty if out of sight."""
    low, high = (radius**-2.0 for radius in RADII)
    radius = (low - rng.random(LEAVES) * (low - high)) ** -0.5  # inverts the distribution function of r^-3
    centre = rng.uniform(-RADII[1], CANVAS + RADII[1], (LEAVES, 2))
    aspect, angle = rng.uniform(0.35, 1.0, LEAVES), rng.uniform(0, 2 * np.pi, LEAVES)
    kind = rng.choice(len(SIDES), LEAVES, p=(0.6, 0.25, 0.15))
    visible = (np.abs(centre - CANVAS / 2) < CANVAS / 2 + radius[:, None]).all(axis=1)
    outlines: list[list[float]] = [[] for _ in range(LEAVES)]
    for number, sides in enumerate(SIDES):
        leaf = np.flatnonzero(visible & (kind == number))
        turn = 2 * np.pi * (np.arange(sides) + 0.5) / sides
        along = radius[leaf, None] * np.cos(turn)
        across = radius[leaf, None] * aspect[leaf, None] * np.sin(turn)
        cos, sin = np.cos(angle[leaf, None]), np.sin(angle[leaf, None])
        x = centre[leaf, :1] + cos * along - sin * across
        y = centre[leaf, 1:] + sin * along + cos * across
        for place, corners in zip(leaf, np.stack([x, y], axis=2).reshape(len(leaf), -1).tolist(), strict=True):
            outlines[place] = corners
    return outlines


def draw_dead_leaves(seed: int, index: int) -> NDArray[np.uint8]:
    """Return image `index` of the set `seed` as uint8 [256, 256, 3].

    >>> image = draw_dead_leaves(seed=0, index=3)
    >>> image.shape, bool((image == draw_dead_leaves(seed=0, index=3)).all())
    ((256, 256, 3), True)
    """
    rng = np.random.default_rng([VERSION, seed, index])
    palette = rng.normal(128, 25, 3)  # an image has a tone of its own, as scenes have
    light, hue = rng.normal(0, 58, (LEAVES, 1)), rng.normal(0, 14, (LEAVES, 3))
    colours = np.clip(palette + light + hue, 0, 255).astype(int).tolist()
    canvas = Image.new("RGB", (CANVAS, CANVAS))
    draw = ImageDraw.Draw(canvas)
    ground = np.clip(palette, 0, 255).astype(int).tolist()
    draw.rectangle((0, 0, CANVAS, CANVAS), fill=tuple(ground))  # the lowest leaf covers all, so no background is left
    for corners, colour in zip(_outlines(rng), colours, strict=True):
        if corners:
            draw.polygon(corners, fill=tuple(colour))
    grain = rng.normal(0, GRAIN, (CANVAS, CANVAS, 1))
    return np.clip(np.asarray(canvas) + grain, 0, 255).astype(np.uint8)
