"""The position maps that a head must paint: H, V, G, HS, VS as functions of a size.

The formulas restate the 256x256 8-bit maps of the authors' code (islamamirul/position_information, gt_*.png;
the paper's Fig. 2). x is the column and y the row. "H" grows along x, "V" along y; "HS" (horizontal stripes) varies
along y and "VS" along x, as the authors name them. Other sizes are PIL's antialiased bilinear resize of the 8-bit
map, as both the authors' code and the report do.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from posenet_store.errors import UsageError, unknown

NATIVE_SIZE = 256
TARGETS = ("H", "V", "G", "HS", "VS")
DESCRIPTIONS = {
    "H": "horizontal ramp",
    "V": "vertical ramp",
    "G": "Gaussian",
    "HS": "horizontal stripes",
    "VS": "vertical stripes",
}


def _gaussian() -> NDArray[np.uint8]:
    """sigma = N/2 about pixel (N/2, N/2), stretched so that exp(-1) is black: asymmetric by one pixel, as published."""
    axis = np.arange(NATIVE_SIZE) - NATIVE_SIZE / 2
    squared = axis[:, None] ** 2 + axis[None, :] ** 2
    bell = np.exp(-squared / (2 * (NATIVE_SIZE / 2) ** 2))
    return np.asarray(np.floor(255 * (bell - np.exp(-1)) / (1 - np.exp(-1))), dtype=np.uint8)


def _stripe_profile() -> NDArray[np.uint8]:
    """2.5 periods of a cosine; the three samples at which the published map leaves it are restored."""
    phase = 2 * np.pi * 2.5 * (np.arange(NATIVE_SIZE) + 0.5) / NATIVE_SIZE
    profile = np.clip(np.round(127 + 127.2 * np.cos(phase)), 0, 255).astype(np.uint8)
    profile[[0, 102, 255]] = [251, 255, 3]
    return profile


def native_map(name: str) -> NDArray[np.uint8]:
    """Return the published 256x256 8-bit map `name`; raises UsageError for an unknown name.

    >>> native_map("H")[0, [0, 255]].tolist(), native_map("V")[255, 0].item()
    ([0, 255], 255)
    """
    ramp = np.arange(NATIVE_SIZE, dtype=np.uint8)
    rows = np.ones((NATIVE_SIZE, 1), dtype=np.uint8)
    match name:
        case "H":
            return rows * ramp
        case "V":
            return (rows * ramp).T.copy()
        case "G":
            return _gaussian()
        case "HS":
            return (rows * _stripe_profile()).T.copy()
        case "VS":
            return rows * _stripe_profile()
        case _:
            raise unknown("target", name, TARGETS)


@lru_cache(maxsize=256)
def target_map(
    name: str, size: int, value_range: tuple[float, float] = (0.0, 1.0), normalise: bool = False
) -> NDArray[np.float64]:
    """Return the target `name` as a read-only float64 map of shape [size, size].

    `normalise` stretches the resized map to its full range (the authors' code does, the report does not);
    `value_range` is what 8-bit 0 and 255 mean. Raises UsageError for an unknown name or an empty range.

    >>> target_map("H", 26)[0, [0, -1]].round(4).tolist()
    [0.0196, 0.9804]
    >>> target_map("H", 224, (-1.0, 1.0), normalise=True)[0, [0, -1]].tolist()
    [-1.0, 1.0]
    """
    low, high = value_range
    if not (np.isfinite(low) and np.isfinite(high) and low < high):
        raise UsageError(f"target range {list(value_range)} is not accepted; give [low, high] with low < high")
    if size < 2:
        raise UsageError(f"a target of size {size} has no positions; the head's output must be at least 2x2")
    image = Image.fromarray(native_map(name)).resize((size, size), Image.Resampling.BILINEAR)
    unit = np.asarray(image, dtype=np.float64) / 255
    if normalise:
        unit = (unit - unit.min()) / (unit.max() - unit.min())
    result = low + (high - low) * unit
    result.flags.writeable = False
    return result
