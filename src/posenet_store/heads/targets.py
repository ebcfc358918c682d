"""The position maps that a head is trained to predict: H, V, G, HS, VS as functions of a size.

Patterns with other numbers are spelled `ramp:30` (degrees from H to V), `gaussian:0.25` (sigma in sides, 0.5 is G),
`stripes:4:90` (periods, up to 13, which 26 positions still resolve; direction) and `abs-ramp:0` (how far from the middle, in
the direction of a ramp). A ramp is odd: it tells the sides apart. Its absolute value is even, the same when it is mirrored.
`map:FILE` is a map of the user's own (see `own_maps`).

The formulas restate the 256x256 8-bit maps of the authors' code (islamamirul/position_information, gt_*.png;
the paper's Fig. 2). x is the column and y the row. "H" grows along x, "V" along y; "HS" (horizontal stripes) varies
along y and "VS" along x, as the authors name them. Other sizes are PIL's antialiased bilinear resize of the 8-bit
map, as both the authors' code and the report do; so are those of a map of the user's own, from its own size.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from posenet_store.errors import UsageError, unknown
from posenet_store.heads.own_maps import OWN, Map, get_own_map

NATIVE_SIZE = 256
TARGETS = ("H", "V", "G", "HS", "VS")
PATTERNS = ("ramp:ANGLE", "gaussian:SIGMA", "stripes:PERIODS:ANGLE", "abs-ramp:ANGLE", "map:FILE")
DESCRIPTIONS = {
    "H": "horizontal ramp",
    "V": "vertical ramp",
    "G": "Gaussian",
    "HS": "horizontal stripes",
    "VS": "vertical stripes",
}


def _gaussian(sigma: float) -> NDArray[np.uint8]:
    """Of `sigma` sides about pixel (N/2, N/2), the far corner black: asymmetric by one pixel, as published with sigma 1/2."""
    axis = np.arange(NATIVE_SIZE) - NATIVE_SIZE / 2
    squared = axis[:, None] ** 2 + axis[None, :] ** 2
    bell = np.exp(-squared / (2 * (NATIVE_SIZE * sigma) ** 2))
    return np.asarray(np.floor(255 * (bell - bell[0, 0]) / (1 - bell[0, 0])), dtype=np.uint8)


def _stripe_profile() -> NDArray[np.uint8]:
    """2.5 periods of a cosine; the three samples at which the published map leaves it are restored."""
    phase = 2 * np.pi * 2.5 * (np.arange(NATIVE_SIZE) + 0.5) / NATIVE_SIZE
    profile = np.clip(np.round(127 + 127.2 * np.cos(phase)), 0, 255).astype(np.uint8)
    profile[[0, 102, 255]] = [251, 255, 3]
    return profile


def _measure_along(angle: float) -> NDArray[np.float64]:
    """How far each position lies in the direction of `angle` degrees, from right (0) over down (90), from the first one."""
    axis = np.arange(NATIVE_SIZE)
    across, down = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    return np.asarray(across * axis[None, :] + down * axis[:, None])


def _stretch(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Return values as grey levels from black, the least, to white."""
    return np.asarray(np.round(255 * (values - values.min()) / np.ptp(values)), dtype=np.uint8)


def _ramp(angle: float) -> NDArray[np.uint8]:
    """A ramp that grows in the direction of `angle` degrees; 0 is H and 90 is V."""
    return _stretch(_measure_along(angle))


def _absolute_ramp(angle: float) -> NDArray[np.uint8]:
    """The absolute value of a ramp about its middle: black there, white at both ends; the same from either side."""
    along = _measure_along(angle)
    return _stretch(np.abs(along - (along.min() + along.max()) / 2))


def _stripes(periods: float, angle: float) -> NDArray[np.uint8]:
    """Return `periods` periods of a cosine in the direction of a ramp, bright where the ramp is black."""
    position = (_ramp(angle).astype(np.float64) + 0.5) / NATIVE_SIZE
    return np.asarray(np.round(127.5 + 127.5 * np.cos(2 * np.pi * periods * position)), dtype=np.uint8)


def _pattern(name: str) -> NDArray[np.uint8]:
    """A map with numbers of the user's own; raises UsageError for an unknown name or numbers that make no map."""
    kind, *texts = name.split(":")
    try:
        numbers = [float(text) for text in texts]
    except ValueError:
        numbers = []
    match kind, numbers:
        case "ramp", [angle] if np.isfinite(angle):
            return _ramp(angle)
        case "abs-ramp", [angle] if np.isfinite(angle):
            return _absolute_ramp(angle)
        case "gaussian", [sigma] if 0.02 <= sigma <= 10:
            return _gaussian(sigma)
        case "stripes", [periods, angle] if 0 < periods <= 13 and np.isfinite(angle):
            return _stripes(periods, angle)
    raise unknown("target", name, (*TARGETS, *PATTERNS))


def make_native_map(name: str) -> Map:
    """Return the map `name`: one of the published five or a pattern, 256x256 in 8 bits, or one of the user's own as it is.

    Raises UsageError for an unknown name.

    >>> make_native_map("H")[0, [0, 255]].tolist(), make_native_map("V")[255, 0].item()
    ([0, 255], 255)
    """
    ramp = np.arange(NATIVE_SIZE, dtype=np.uint8)
    rows = np.ones((NATIVE_SIZE, 1), dtype=np.uint8)
    if name.startswith(OWN):
        return get_own_map(name).copy()
    match name:
        case "H":
            return rows * ramp
        case "V":
            return (rows * ramp).T.copy()
        case "G":
            return _gaussian(0.5)
        case "HS":
            return (rows * _stripe_profile()).T.copy()
        case "VS":
            return rows * _stripe_profile()
        case _:
            return _pattern(name)


def describe_target(name: str) -> str:
    """Return a target's name for people.

    >>> describe_target("H"), describe_target("ramp:30")
    ('horizontal ramp', 'ramp:30')
    """
    return DESCRIPTIONS.get(name, name)


@lru_cache(maxsize=256)
def make_target_map(
    name: str, size: int, value_range: tuple[float, float] = (0.0, 1.0), normalise: bool = False
) -> NDArray[np.float64]:
    """Return the target `name` as a read-only float64 map of shape [size, size].

    `normalise` stretches the resized map to its full range (the authors' code does, the report does not);
    `value_range` is what black and white mean. Raises UsageError for an unknown name, an empty range, or a map that is flat
    once it is resized.

    >>> make_target_map("H", 26)[0, [0, -1]].round(4).tolist()
    [0.0196, 0.9804]
    >>> make_target_map("H", 224, (-1.0, 1.0), normalise=True)[0, [0, -1]].tolist()
    [-1.0, 1.0]
    """
    low, high = value_range
    if not (np.isfinite(low) and np.isfinite(high) and low < high):
        raise UsageError(f"target range {list(value_range)} is not accepted; give [low, high] with low < high")
    if size < 2:
        raise UsageError(f"a target of size {size} has no positions; the head's output must be at least 2x2")
    native = make_native_map(name)
    image = Image.fromarray(native).resize((size, size), Image.Resampling.BILINEAR)
    levels = np.asarray(image, dtype=np.float64)
    unit = levels / 255 if native.dtype == np.uint8 else levels.clip(0, 1)
    if np.ptp(unit) == 0:
        raise UsageError(f"target {name!r} is flat at the head's {size}x{size} positions: there is nothing to predict")
    if normalise:
        unit = (unit - unit.min()) / (unit.max() - unit.min())
    result = low + (high - low) * unit
    result.flags.writeable = False
    return result
