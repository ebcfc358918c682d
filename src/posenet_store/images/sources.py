"""From what the user types after `--images` to an ImageSet: a folder, a file, duts-te, probes, synthetic:..."""

import os
import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import parse_qsl

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from posenet_store.errors import UsageError, unknown
from posenet_store.files import sha256
from posenet_store.images.image_set import ImageSet, load_files, load_folder
from posenet_store.images.synthetic import VERSION, draw_dead_leaves
from posenet_store.images.transforms import parse_transform, transform_images

PROBES = ("black", "white", "noise")
PROBE_SIZE = 224
DUTS = {"duts-te": ("DUTS-TE/DUTS-TE-Image", 5019), "duts-tr": ("DUTS-TR/DUTS-TR-Image", 10553)}
PHOTOS = ("astronaut.png", "brick.png", "camera.png", "chelsea.png", "coffee.png", "grass.png", "gravel.png", "rocket.jpg")
"""The photographs in scikit-image's wheel that its data/README.txt gives as public domain or CC0."""


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


def _generated(name: str, ids: tuple[str, ...], digests: tuple[str, ...], make: Callable[[int], NDArray[np.uint8]]) -> ImageSet:
    def read(index: int, size: int) -> NDArray[np.uint8]:
        return np.asarray(Image.fromarray(make(index)).resize((size, size), Image.Resampling.BILINEAR))

    return ImageSet(name, ids, digests, read)


def load_probes() -> ImageSet:
    """Return the three synthetic test images of the paper and the report."""
    images = [make_probe(name) for name in PROBES]
    return _generated("probes", PROBES, tuple(sha256(image.tobytes()) for image in images), images.__getitem__)


def load_dead_leaves(count: int = 512, seed: int = 0) -> ImageSet:
    """Return `count` dead-leaves images; the digest covers the generator's version, its seed and image 0's pixels."""
    first = sha256(draw_dead_leaves(seed, 0).tobytes())
    ids = tuple(f"dead-leaves-{index:05d}" for index in range(count))
    digests = tuple(sha256(f"{VERSION} {seed} {index} {first}".encode()) for index in range(count))
    return _generated("dead-leaves", ids, digests, lambda index: draw_dead_leaves(seed, index))


def load_photos() -> ImageSet:
    """Return the freely licensed photographs that the scikit-image package carries (extra `demo`)."""
    package = find_spec("skimage")
    if package is None or package.origin is None:
        raise UsageError("the photographs come with scikit-image; install it: pip install 'posenet-store[demo]'")
    folder = Path(package.origin).parent / "data"
    return load_files("photos", folder, [folder / name for name in PHOTOS])


def _synthetic(text: str) -> ImageSet:
    kind, _, query = text.partition("?")
    if kind != "dead-leaves":
        raise unknown("synthetic image set", kind, ["dead-leaves"])
    options = {"n": 512, "seed": 0}
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key not in options:
            raise unknown("option of synthetic:dead-leaves", key, options)
        if not re.fullmatch(r"\d+", value):
            raise UsageError(f"synthetic:dead-leaves?{key}={value}: give a whole number, as in ?n=512&seed=0")
        options[key] = int(value)
    if options["n"] < 1:
        raise UsageError("synthetic:dead-leaves?n=0 holds no image; give n=1 or more")
    return load_dead_leaves(options["n"], options["seed"])


def find_duts_root(name: str, data_root: Path | None) -> Path:
    """Return the folder that holds DUT-S: `data_root`, else $POSENET_DATA; raises UsageError if neither is given."""
    root = data_root or (Path(os.environ["POSENET_DATA"]) if "POSENET_DATA" in os.environ else None)
    if root is None:
        raise UsageError(f"{name} needs the folder that holds DUT-S: give --data-root DIR or set POSENET_DATA")
    return root


def _duts(name: str, data_root: Path | None) -> ImageSet:
    root = find_duts_root(name, data_root)
    subfolder, expected = DUTS[name]
    folder = root / subfolder
    if not folder.is_dir():
        raise UsageError(
            f"{folder} does not exist; `fetch {name}` brings it, or unpack {subfolder.split('/')[0]}.zip below {root}"
        )
    images = load_folder(folder, name)
    if len(images) != expected:
        raise UsageError(
            f"{folder} holds {len(images):,} images, {name} has {expected:,}; the copy is not complete "
            f"(give the folder itself, --images {folder}, to use it as it is)"
        )
    return images


def make_absolute(source: str) -> str:
    """Return what names the same images to a process in another folder.

    >>> make_absolute("probes")
    'probes'
    """
    plain, canvas = _split(source)
    named = plain in (*DUTS, "probes", "photos") or plain.startswith("synthetic:")
    return source if named else "@".join([str(Path(plain).expanduser().resolve()), *canvas])


def _split(source: str) -> tuple[str, list[str]]:
    """Split SRC@CANVAS; what exists under the whole name is meant as it is."""
    plain, mark, canvas = source.rpartition("@")
    return (plain, [canvas]) if mark and not Path(source).expanduser().exists() else (source, [])


def load_image_set(source: str, data_root: Path | None = None) -> ImageSet:
    """Return the ImageSet that `source` names; raises UsageError if there is no such set.

    Accepted: a folder, an image file, `duts-te`, `duts-tr`, `probes`, `photos`, `synthetic:dead-leaves?n=512&seed=0`; behind
    each `@transposed`, `@border:16:black` or `@canvas:32:white` (see `canvas`).

    >>> load_image_set("probes").ids, len(load_image_set("synthetic:dead-leaves?n=7"))
    (('black', 'white', 'noise'), 7)
    """
    plain, canvas = _split(source)
    if canvas:
        return transform_images(load_image_set(plain, data_root), parse_transform(canvas[0]))
    kind, _, rest = source.partition(":")
    if kind == "synthetic":
        return _synthetic(rest)
    if source in DUTS:
        return _duts(source, data_root)
    if source == "probes":
        return load_probes()
    if source == "photos":
        return load_photos()
    path = Path(source).expanduser()
    if path.is_dir():
        return load_folder(path)
    if path.is_file():
        return load_files(path.stem, path.parent, [path])
    named = ", ".join((*DUTS, "probes", "photos", "synthetic:dead-leaves"))
    raise UsageError(f"{source!r} is no folder and no file; give one, or one of {named}")
