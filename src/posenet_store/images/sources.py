"""Load the ImageSet that `--images` names: a folder, a file, a list, a pattern, duts-te, duts-tr, probes, synthetic:..."""

import os
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import parse_qsl

from posenet_store.errors import UsageError, suggest, unknown
from posenet_store.files import expand_user
from posenet_store.images.file_lists import is_list, is_pattern, match_files, read_list
from posenet_store.images.image_set import Advance, ImageSet, Listing, check_limit, list_folder, load_files, load_folder
from posenet_store.images.synthetic import load_dead_leaves, load_probes
from posenet_store.images.transforms import parse_transform, transform_images
from posenet_store.toml_config import parse_whole_number

DUTS = {"duts-te": ("DUTS-TE/DUTS-TE-Image", 5019), "duts-tr": ("DUTS-TR/DUTS-TR-Image", 10553)}
"""Name -> (folder below the data root, number of images)."""
PHOTOS = ("astronaut.png", "brick.png", "camera.png", "chelsea.png", "coffee.png", "grass.png", "gravel.png", "rocket.jpg")
"""The photographs in scikit-image's wheel that its data/README.txt gives as public domain or CC0."""
OPTIONS = {"n": "generated", "seed": "seeds"}
"""Options of generated images -> their ranges."""
NAMES = (*DUTS, "probes", "photos")


def load_image_set(
    source: str | Path,
    data_root: str | Path | None = None,
    limit: int | None = None,
    advance: Advance = lambda done, total: None,
) -> ImageSet:
    """Load the image set that `source` names; raises UsageError if there is no such set.

    `source` is a folder, an image file, a list of files (`test.txt`, `test.csv?column=photo`), a pattern (`photos/*.jpg`),
    `duts-te`, `duts-tr`, `probes`, `photos` or `synthetic:dead-leaves?n=512&seed=0`; append `@transposed`, `@mirrored`,
    `@cropped:0`, `@border:16:black` or `@canvas:32:white`, or several, to change the images (see `transforms`).

    DUT-S lies below `data_root`, where generated images are kept too, if it is given. With `limit` only the first images
    are loaded, and no other file is read. `advance(done, total)` is called while files are hashed.

    >>> load_image_set("probes").ids, len(load_image_set("synthetic:dead-leaves?n=7"))
    (('black', 'white', 'noise'), 7)
    """
    source, data_root = str(source), None if data_root is None else expand_user(data_root)
    check_source(source, data_root)
    check_limit(limit)
    images, transform = _split_transform(source)
    if transform is not None:
        return transform_images(load_image_set(images, data_root, limit, advance), parse_transform(transform))
    kind, _, text = source.partition(":")
    if kind == "synthetic":
        return _load_synthetic(text, data_root).take(limit)
    if source in DUTS:
        return _load_duts(source, data_root, limit, advance)
    if source == "probes":
        return load_probes().take(limit)
    if source == "photos":
        return load_photos().take(limit)
    path = expand_user(source)
    if is_list(source):
        files = read_list(source)
        return load_files(expand_user(source.partition("?")[0]).stem, files, limit, advance)
    if is_pattern(source):
        files = match_files(source)
        return load_files(files.folder.resolve().name, files, limit, advance)
    if path.is_dir():
        return load_folder(path, None, limit, advance)
    return load_files(path.stem, Listing(path.parent, (path,)), limit, advance)


def check_source(source: str, data_root: Path | None = None) -> None:
    """Raise UsageError if there is no such image set, without opening an image.

    >>> check_source("probes")
    """
    plain, transform = _split_transform(source)
    if transform is not None:
        parse_transform(transform)
        check_source(plain, data_root)
    elif plain in DUTS:
        _find_duts_folder(plain, data_root)
    elif plain in NAMES or plain.partition(":")[0] == "synthetic":
        return
    elif is_list(plain):
        read_list(plain)
    elif is_pattern(plain):
        match_files(plain)
    elif not expand_user(plain).exists():
        accepted = (*NAMES, "synthetic:dead-leaves")
        raise UsageError(
            f"{plain!r} is not a folder, a file, a list, a pattern or a known image set{suggest(plain, accepted)}; "
            f"accepted names: {', '.join(accepted)}"
        )


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


def _load_synthetic(text: str, data_root: Path | None) -> ImageSet:
    kind, _, query = text.partition("?")
    if kind != "dead-leaves":
        raise unknown("synthetic image set", kind, ["dead-leaves"])
    options = {"n": 512, "seed": 0}
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key not in OPTIONS:
            raise unknown("option of synthetic:dead-leaves", key, OPTIONS)
        options[key] = parse_whole_number(OPTIONS[key], value, f"synthetic:dead-leaves?{key}")
    return load_dead_leaves(options["n"], options["seed"], data_root)


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


def _load_duts(name: str, data_root: Path | None, limit: int | None, advance: Advance) -> ImageSet:
    folder, expected = _find_duts_folder(name, data_root), DUTS[name][1]
    files = list_folder(folder)
    if len(files.images) != expected:
        raise UsageError(
            f"{folder} holds {len(files.images):,} images, {name} has {expected:,}: the copy is incomplete; "
            f"to use these images as they are, give the folder itself: --images {folder}"
        )
    return load_files(name, files, limit, advance)
