"""Target maps of the user's own: a square grey PNG or .npy file, spelled `map:FILE`.

A map is known by its content: `map:face.png` becomes `map:face-3f2a1b0c9d8e`, which ends in the first digits of the digest of
its values. Cells have that name, so that another map makes other cells, and no cell names a file. Every process that is handed
a cell finds the map by that name once it has loaded the maps that the run keeps.
"""

import io
import re
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray
from PIL import Image

from posenet_store.errors import DamageWarning, UsageError, first_line
from posenet_store.files import check_not_endless, expand_user, sha256, write_atomic

OWN = "map:"
"""Begins the name of a target that is a map of the user's own."""
MAX_SIDE = 2048
MAX_BYTES = MAX_SIDE**2 * 8 + 4096
"""Of a file: the largest map in float64, and its header."""
MAPS = "maps"
"""The folder of a run that keeps the maps of its cells."""
LEAST_SPAN = 1 / 255
"""One of 256 grey levels; what spans less of the range from black to white is flat."""
DIGITS, LETTERS = 12, 40
"""Of a name: hexadecimal digits of the digest, and letters of the file's name."""
WHITE = {"u1": 255, "u2": 65_535, "f2": 1, "f4": 1, "f8": 1}
"""What stands for white in numbers of a kind; 0 is black."""

Map = NDArray[np.uint8] | NDArray[np.float32]
"""A map [s, s]: 8-bit grey levels, or numbers from 0 to 1."""
_known: dict[str, Map] = {}


def load_target(text: str, folder: Path = Path()) -> str:
    """Return the name of a target as cells have it; of `map:FILE`, a path from `folder`, the map is read and is known from now.

    Raises UsageError if the file holds no map (see `read_map`).

    >>> load_target("H")
    'H'
    """
    if not text.startswith(OWN) or text in _known:
        return text
    path = folder / expand_user(text.removeprefix(OWN))
    values = read_map(path)
    name = name_map(values, path.stem)
    _known[name] = values
    return name


def get_own_map(name: str) -> Map:
    """Return a map by the name that `load_target` gave it; raises UsageError if no map of that name is known here."""
    if name not in _known:
        raise UsageError(
            f"the map of target {name!r} is not here: a run keeps it in its folder maps/, where its heads are looked for; "
            "rerun the sweep, or give the file: map:FILE"
        )
    return _known[name]


def name_map(values: Map, label: str) -> str:
    """Return a map's name: the label, without letters that a table or a folder may not have, and digits of its digest.

    >>> name_map(np.eye(2, dtype=np.uint8), "my face")
    'map:my-face-31fd904ef601'
    """
    digest = sha256(f"{values.dtype.str} {len(values)} ".encode() + values.tobytes())
    return f"{OWN}{re.sub(r'[^A-Za-z0-9_.]+', '-', label)[:LETTERS]}-{digest[:DIGITS]}"


def read_map(path: Path) -> Map:
    """Read a square map from a PNG or .npy file; no code in a file is ever run.

    Raises UsageError for a file that can't be read, a map that is not square, is coloured or flat, or holds NaN or numbers
    beyond black and white.
    """
    try:
        if check_not_endless(path).st_size > MAX_BYTES:
            raise UsageError(f"{path} is too large for a map: {MAX_SIDE}x{MAX_SIDE} are the most")
        data = path.read_bytes()
        values = _read_npy(data) if path.suffix.lower() == ".npy" else _read_png(data)
    except UsageError:
        raise
    except OSError as error:
        raise UsageError(f"map {path} can't be read ({error.strerror or first_line(error)}); give a PNG or .npy file") from None
    except Exception as error:  # a damaged file can end anywhere in PIL
        raise UsageError(f"map {path} is not accepted: {first_line(error)}; give a square grey PNG, or a .npy file") from None
    return _check_map(values, path)


def _check_shape(shape: tuple[int, ...]) -> None:
    """Raise ValueError if a map may not have a shape."""
    if len(shape) != 2 or shape[0] != shape[1] or not 2 <= shape[0] <= MAX_SIDE:
        raise ValueError(f"it is {'x'.join(map(str, shape))}, not square with a side of 2 to {MAX_SIDE}")


def _read_npy(data: bytes) -> NDArray[Any]:
    stream = io.BytesIO(data)
    read_header = npy.read_array_header_1_0 if npy.read_magic(stream) == (1, 0) else npy.read_array_header_2_0
    shape, _, kind = read_header(stream)
    _check_shape(shape)  # before there is memory for it
    if kind.str[1:] not in WHITE:
        raise ValueError(f"it holds {kind}; accepted are uint8, uint16, and floating point numbers from 0 to 1")
    return np.asarray(np.load(io.BytesIO(data), allow_pickle=False))


def _read_png(data: bytes) -> NDArray[Any]:
    with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
        _check_shape((image.height, image.width))
        if image.mode.startswith("I"):
            return np.asarray(image).astype(np.uint16)
        channels = np.asarray(image.convert("RGB"))
    if (channels != channels[..., :1]).any():
        raise ValueError("it is coloured, and a target is grey")
    return channels[..., 0]


def _check_map(values: NDArray[Any], path: Path) -> Map:
    """Return a map's values as 8-bit grey levels, or as float32 from 0 to 1; raises UsageError if they make no target."""
    white = WHITE[values.dtype.str[1:]]
    if not np.isfinite(values).all():
        raise UsageError(f"map {path} holds NaN or infinite numbers; a target has a number at each position")
    low, high = values.min().item(), values.max().item()
    if low < 0 or high > white:
        raise UsageError(f"map {path} holds {low:g} to {high:g}; scale it to 0 (black) to {white} (white)")
    if high - low < LEAST_SPAN * white:
        raise UsageError(
            f"map {path} is flat ({low:g} to {high:g}): every position is the same, and there is nothing to predict"
        )
    if white == 255:
        return np.ascontiguousarray(values, dtype=np.uint8)
    return np.ascontiguousarray(values.astype(np.float64) / white, dtype=np.float32)


def save_maps(folder: Path, targets: Iterable[str]) -> None:
    """Write those of the targets that are maps of the user's own to a run's folder of maps, unless they are there."""
    for name in sorted({target for target in targets if target.startswith(OWN)}):
        stream, path = io.BytesIO(), folder / f"{name.removeprefix(OWN)}.npy"
        np.save(stream, get_own_map(name), allow_pickle=False)
        if not path.is_file() or path.read_bytes() != stream.getvalue():
            write_atomic(path, stream.getvalue())


def load_maps(folder: Path) -> None:
    """Make the maps that a run keeps known here; warns of each that is damaged."""
    for path in sorted(folder.glob("*.npy")):
        try:
            values = read_map(path)
            intact = name_map(values, path.stem.rpartition("-")[0]) == OWN + path.stem
        except UsageError:
            intact = False
        if intact:
            _known[OWN + path.stem] = values
        else:
            warnings.warn(f"{path} is damaged; rerun the sweep to restore it", DamageWarning, stacklevel=2)
