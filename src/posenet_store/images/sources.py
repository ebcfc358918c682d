"""Load the ImageSet that `--images` names: a folder, file, list, pattern, tar file, duts-te, duts-tr, probes, synthetic:..."""

import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import parse_qsl

from posenet_store.errors import UsageError, suggest, unknown
from posenet_store.files import expand_user
from posenet_store.images.file_lists import (
    is_list,
    is_pattern,
    list_tar_files,
    match_files,
    name_tar_files,
    read_list,
)
from posenet_store.images.image_set import Advance, ImageSet, Listing, list_folder, load_files, load_folder
from posenet_store.images.synthetic import load_dead_leaves, load_probes
from posenet_store.images.tar_files import is_tar
from posenet_store.images.transforms import parse_transform, transform_images
from posenet_store.toml_config import parse_whole_number

DUTS = {"duts-te": ("DUTS-TE/DUTS-TE-Image", 5019), "duts-tr": ("DUTS-TR/DUTS-TR-Image", 10553)}
"""Name -> (folder below the data root, number of images)."""
PHOTOS = ("astronaut.png", "brick.png", "camera.png", "chelsea.png", "coffee.png", "grass.png", "gravel.png", "rocket.jpg")
"""The photographs in scikit-image's wheel that its data/README.txt gives as public domain or CC0."""
OPTIONS = {"n": "generated", "seed": "seeds"}
"""Options of generated images -> their ranges."""
NAMES = (*DUTS, "probes", "photos")
Load = Callable[[int | None, Advance], ImageSet]
"""Loads an image set that was found, or its first images; see `load_files`."""


def load_image_set(
    source: str | Path,
    data_root: str | Path | None = None,
    limit: int | None = None,
    advance: Advance = lambda done, total: None,
) -> ImageSet:
    """Load the image set that `source` names; raises UsageError if there is no such set.

    `source` is a folder, an image file, a list of files (`test.txt`, `test.csv?column=photo`), a pattern (`photos/*.jpg`), tar
    files (`shards-{000..012}.tar`), `duts-te`, `duts-tr`, `probes`, `photos` or `synthetic:dead-leaves?n=512&seed=0`; append
    `@transposed`, `@mirrored`, `@cropped:0`, `@border:16:black` or `@canvas:32:white`, or several, to change the images (see
    `transforms`).

    DUT-S lies below `data_root`, where generated images are kept too, if it is given. With `limit` only the first images
    are loaded, and no other file is read. `advance(done, total)` is called while files are hashed.

    >>> load_image_set("probes").ids, len(load_image_set("synthetic:dead-leaves?n=7"))
    (('black', 'white', 'noise'), 7)
    """
    return find_images(str(source), None if data_root is None else expand_user(data_root))(limit, advance)


def find_images(source: str, data_root: Path | None = None) -> Load:
    """Return how the image set that `source` names is loaded, given a limit and a progress function; no image is opened yet.

    A list or a tar file is read now, and only now. Raises UsageError if there is no such image set.
    """
    plain, transform = _split_transform(source)
    if transform is not None:
        change, load = parse_transform(transform), find_images(plain, data_root)
        return lambda limit, advance: transform_images(load(limit, advance), change)
    kind, _, text = source.partition(":")
    if kind == "synthetic":
        options = _parse_synthetic(text)
        return lambda limit, advance: load_dead_leaves(options["n"], options["seed"], data_root).take(limit)
    if source in DUTS:
        folder = _find_duts_folder(source, data_root)
        return lambda limit, advance: _load_duts(source, folder, limit, advance)
    if source in NAMES:
        return partial(_load_included, source)
    path = expand_user(source)
    if is_list(source):
        return partial(load_files, expand_user(source.partition("?")[0]).stem, read_list(source))
    if is_tar(source):
        return partial(load_files, name_tar_files(source), list_tar_files(source))
    if is_pattern(source):
        files = match_files(source)
        return partial(load_files, files.folder.resolve().name, files)
    if path.is_dir():
        return partial(load_folder, path, None)
    if not path.exists():
        accepted = (*NAMES, "synthetic:dead-leaves")
        raise UsageError(
            f"{source!r} is not a folder, a file, a list, a pattern or a known image set{suggest(source, accepted)}; "
            f"accepted names: {', '.join(accepted)}"
        )
    return partial(load_files, path.stem, Listing(path.parent, (path,)))


def _load_included(name: str, limit: int | None, advance: Advance) -> ImageSet:
    """Load `probes` or `photos`; a note says so if there is a folder or a file of that name."""
    images = (load_probes() if name == "probes" else load_photos()).take(limit)
    note = f"{name} are the images that are included under this name; those of the folder are --images ./{name}"
    return replace(images, notes=(*images.notes, note)) if Path(name).exists() else images


def make_absolute(source: str) -> str:
    """Return `source` so that it names the same images in any working directory.

    >>> make_absolute("probes")
    'probes'
    """
    images, transform = _split_transform(source)
    if transform is not None:
        return f"{make_absolute(images)}@{transform}"
    if images in NAMES or images.startswith("synthetic:"):
        return source
    return str(expand_user(images).resolve())


def _split_transform(source: str) -> tuple[str, str | None]:
    """Split SOURCE@TRANSFORM; the name of an existing file with an @ is not split."""
    images, mark, transform = source.rpartition("@")
    return (images, transform) if mark and not expand_user(source).exists() else (source, None)


def load_photos() -> ImageSet:
    """Load the freely licensed photographs of the package scikit-image (extra `demo`)."""
    package = find_spec("skimage")
    if package is None or package.origin is None:
        raise UsageError("the photographs come with scikit-image; install it: pip install 'posenet-store[demo]'")
    folder = Path(package.origin).parent / "data"
    return load_files("photos", Listing(folder, tuple(folder / name for name in PHOTOS)))


def _parse_synthetic(text: str) -> dict[str, int]:
    """Return the options of generated images; raises UsageError for an unknown kind, option or value."""
    kind, _, query = text.partition("?")
    if kind != "dead-leaves":
        raise unknown("synthetic image set", kind, ["dead-leaves"])
    options = {"n": 512, "seed": 0}
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key not in OPTIONS:
            raise unknown("option of synthetic:dead-leaves", key, OPTIONS)
        options[key] = parse_whole_number(OPTIONS[key], value, f"synthetic:dead-leaves?{key}")
    return options


def find_duts_root(name: str, data_root: Path | None) -> Path:
    """Return the folder that holds DUT-S: `data_root`, else $POSENET_DATA; raises UsageError if neither is given."""
    root = data_root or (Path(os.environ["POSENET_DATA"]) if "POSENET_DATA" in os.environ else None)
    if root is None:
        raise UsageError(f"{name} needs the folder that holds DUT-S: give --data-root DIR or set POSENET_DATA")
    return root


def _find_duts_folder(name: str, data_root: Path | None) -> Path:
    root, subfolder = find_duts_root(name, data_root), DUTS[name][0]
    folder = root / subfolder
    if not folder.is_dir():
        archive = Path(subfolder).parts[0]
        raise UsageError(f"{folder} does not exist; download it with `fetch {name}`, or unpack {archive}.zip below {root}")
    return folder


def _load_duts(name: str, folder: Path, limit: int | None, advance: Advance) -> ImageSet:
    expected, files = DUTS[name][1], list_folder(folder)
    if len(files.images) != expected:
        raise UsageError(
            f"{folder} holds {len(files.images):,} images, {name} has {expected:,}: the copy is incomplete; "
            f"to use these images as they are, give the folder itself: --images {folder}"
        )
    return load_files(name, files, limit, advance)
