"""List the images that a text or CSV file names, that match a pattern, or that tar files hold."""

import csv
import glob
import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from urllib.parse import parse_qsl

from posenet_store.errors import UsageError, first_line, unknown
from posenet_store.files import check_not_endless, expand_user
from posenet_store.images.image_set import Listing, has_image_name, is_image, sort_by_name
from posenet_store.images.tar_files import TarMember, find_archives, list_members

SUFFIXES = (".txt", ".csv")
COLUMNS = ("path", "file", "filename", "file_name", "image")
"""Columns of a CSV file in which paths are looked for."""
MAX_LISTED = 2**20
"""Images of a list at most: a hundred times DUT-S."""
MAX_BYTES = 256 << 20


def is_list(source: str) -> bool:
    """Return whether `source` is LIST.txt, LIST.csv or LIST.csv?column=NAME, and no folder of that name.

    >>> is_list("test.csv?column=photo"), is_list("photo.jpg")
    (True, False)
    """
    return source.partition("?")[0].lower().endswith(SUFFIXES) and not expand_user(source).is_dir()


def is_pattern(source: str) -> bool:
    """Return whether `source` is a pattern such as `photos/**/*.jpg`, and no file or folder of that name."""
    return glob.has_magic(source) and not is_list(source) and not expand_user(source).exists()


def read_list(source: str) -> Listing:
    """List the files that a list names, a line each, in its order; relative paths start at the list's folder.

    Empty lines of a text file, and those that begin with #, are passed over. A CSV file has a header; its paths are in the
    column that `?column=NAME` names, else in the first of `COLUMNS`. Raises UsageError if a file is missing or named twice.
    """
    name, _, query = source.partition("?")
    path = expand_user(name)
    try:
        if check_not_endless(path).st_size > MAX_BYTES:
            raise UsageError(f"the list {path} has more than {MAX_BYTES >> 20} MiB")
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = list(_read_column(file, path, query) if path.suffix.lower() == ".csv" else _read_lines(file))
    except FileNotFoundError:
        raise UsageError(f"the list {path} does not exist") from None
    except OSError as error:
        raise UsageError(f"the list {path} can't be read ({error.strerror or error})") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"the list {path} can't be read ({first_line(error)}); it is a text or CSV file in UTF-8") from None
    seen: dict[Path, int] = {}
    for number, text in lines:
        image = path.parent / expand_user(text)
        if not image.is_file():
            raise UsageError(f"{path}, line {number}: {image} is no file; paths start at the list's folder")
        if image in seen:
            raise UsageError(f"{path}, line {number}: {text} is in line {seen[image]} too; each image belongs there once")
        seen[image] = number
    if not 0 < len(seen) <= MAX_LISTED:
        raise UsageError(f"{path} names {len(seen):,} images; accepted: 1 to {MAX_LISTED:,}")
    return Listing(path.parent, tuple(seen))


def _read_lines(file: Iterator[str]) -> Iterator[tuple[int, str]]:
    """Yield the number and text of each line of a text file that names an image."""
    for number, line in enumerate(file, 1):
        if (text := line.strip()) and not text.startswith("#"):
            yield number, text


def _read_column(file: Iterator[str], path: Path, query: str) -> Iterator[tuple[int, str]]:
    """Yield the number of its line, and the path, of each row of a CSV file."""
    rows = csv.DictReader(file)
    names = rows.fieldnames or ()
    options = dict(parse_qsl(query, keep_blank_values=True))
    for name in options.keys() - {"column"}:
        raise unknown("option of a list", name, ["column"])
    column = options.get("column") or next((name for name in COLUMNS if name in names), None)
    if column not in names:
        raise UsageError(f"{path} has the columns {', '.join(names)}; name that of the paths: --images '{path}?column=NAME'")
    for row in rows:
        if text := row[column]:
            yield rows.line_num, text


def list_tar_files(source: str) -> Listing:
    """List the images in the tar files that `source` names, in their order; of several files, names begin with the file's.

    Raises UsageError if one is missing, damaged or hostile (see `tar_files`), names an image twice, or there is no image.
    """
    archives, ignored = find_archives(source), list[str]()
    images: dict[str, TarMember] = {}
    for member in chain.from_iterable(map(list_members, archives)):
        if not member.plain or not has_image_name(Path(member.name)):
            ignored.append(member.name)
            continue
        name = f"{member.archive.name}/{member.name}" if len(archives) > 1 else member.name
        if name in images:
            raise UsageError(f"{member.archive} holds {member.name!r:.200} twice; each image belongs there once")
        images[name] = member
    if not 0 < len(images) <= MAX_LISTED:
        raise UsageError(f"{source} holds {len(images):,} images; accepted: 1 to {MAX_LISTED:,}")
    return Listing(archives[0].parent, tuple(images.values()), tuple(ignored), names=tuple(images))


def name_tar_files(source: str) -> str:
    """Return what an image set of tar files is called: their common name.

    >>> name_tar_files("data/train-{000..012}.tar"), name_tar_files("a.tar")
    ('train', 'a')
    """
    stem = expand_user(source).name.removesuffix(expand_user(source).suffix)
    return re.split(r"[{*?\\[]", stem)[0].strip("-_.") or expand_user(source).absolute().parent.name


def match_files(pattern: str) -> Listing:
    """List the images that match a pattern, sorted by path; other files are `ignored`. Raises UsageError if there is none."""
    paths = [Path(name) for name in glob.glob(str(expand_user(pattern)), recursive=True) if Path(name).is_file()]  # noqa: PTH207
    folder = Path(*_list_plain_parts(expand_user(pattern)))
    images = sort_by_name(filter(is_image, paths), folder)
    if not images:
        raise UsageError(f"no image matches {pattern}")
    return Listing(folder, tuple(images), tuple(sorted(path.name for path in paths if not is_image(path))))


def _list_plain_parts(pattern: Path) -> Iterator[str]:
    """Yield the folders of a pattern before its first wildcard."""
    for part in pattern.parent.parts:
        if glob.has_magic(part):
            return
        yield part
