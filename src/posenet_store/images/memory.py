"""Bound the bytes that images take while they are read and decoded, over all threads of a process together."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import prod

from PIL import Image

from posenet_store.errors import ImageError
from posenet_store.images.resize import make_resize, scale_sides
from posenet_store.specs import Size

DECODERS = {"WEBP": 12, "TIFF": 6, "PPM": 6}
"""Bytes a pixel that a format's decoder takes beyond the image itself; others decode row by row."""
TILE_WIDTH, TILE_HEIGHT = 322, 323
"""Tags of a TIFF file; its decoder takes 8 bytes for each pixel of a tile, which may be larger than the image."""


class MemoryBudget:
    """`limit` bytes that threads share: each reserves what it needs, and waits while the others have too much."""

    def __init__(self, limit: int) -> None:
        self.limit, self._reserved = limit, 0
        self._turn, self._changed = threading.Lock(), threading.Condition()

    @contextmanager
    def reserve(self, count: int) -> Iterator[None]:
        """Reserve `count` bytes, at most `limit`, for the `with` block; nobody overtakes a thread that waits."""
        with self._turn, self._changed:
            self._changed.wait_for(lambda: self._reserved + count <= self.limit)
            self._reserved += count
        try:
            yield
        finally:
            with self._changed:
                self._reserved -= count
                self._changed.notify()


FILES = MemoryBudget(1 << 30)
"""For the bytes of files, until they are decoded; larger files are quarantined."""
PIXELS = MemoryBudget(1 << 31)
"""For decoding; images that need more are quarantined."""


def count_decoding(image: Image.Image, size: Size) -> int:
    """Return the bytes that an opened image takes at most until it has its size; raises ImageError if `PIXELS` has fewer.

    4 bytes a pixel are PIL's image, 4 its copy in RGB, 4 the scaled image of which the centre is cut out, which for a long
    strip is the largest; the rest is the decoder's.

    >>> count_decoding(Image.new("L", (10, 10)), 28)
    3936
    """
    pixels = image.width * image.height
    count = pixels * ((4 if image.mode == "RGB" else 8) + DECODERS.get(image.format or "", 0))
    count += 4 * prod(scale_sides(image.size, make_resize(size)))
    if image.info.get("progressive"):
        count += pixels * 2 * len(image.getbands())  # the coefficients of all scans
    tags: Mapping[int, int] = getattr(image, "tag_v2", {})
    count += 8 * tags.get(TILE_WIDTH, 0) * tags.get(TILE_HEIGHT, 0)
    if count > PIXELS.limit:
        raise ImageError(f"{image.width}x{image.height} pixels take {count:,} bytes to decode; at most {PIXELS.limit:,} are")
    return count
