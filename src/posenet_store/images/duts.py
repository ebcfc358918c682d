"""Fetch DUT-S: download the archive, compare its digest, unpack it, count the images, then move them to the data root."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from posenet_store.errors import PosenetStoreError, UsageError, unknown
from posenet_store.files import fsync, lock_folder, make_folder, read_json, sha256_file, write_json
from posenet_store.images.download import Advance, download
from posenet_store.images.image_set import SUFFIXES
from posenet_store.images.sources import DUTS
from posenet_store.images.unzip import unzip
from posenet_store.provenance import collect_provenance
from posenet_store.temporaries import name_temporary, remove_abandoned

SITE = "http://saliencydetection.net/duts/download"
LIMIT = 8 << 30  # bytes that an archive may unpack to; DUTS-TR, the larger one, needs well below 1 GiB
ARCHIVE_BYTES = 2 << 30
"""The most that is downloaded; DUTS-TR.zip, the larger archive, has some 260 MB."""
RECORD = "fetched.json"


def _count_images(folder: Path) -> int:
    return sum(path.suffix.lower() in SUFFIXES and not path.name.startswith(".") for path in folder.rglob("*"))


def _is_complete(folder: Path, top: Path, expected: int, sha256: str | None) -> bool:
    """Return whether the images exist already; raises UsageError if `top` holds something else."""
    if not top.exists():
        return False
    if (count := _count_images(folder)) != expected:
        raise UsageError(
            f"{top} exists and holds {count:,} images instead of {expected:,} in {folder.name}; move it away first"
        )
    record = read_json(top / RECORD) if (top / RECORD).is_file() else {}
    if sha256 and record.get("sha256") != sha256:
        origin = f"an archive with SHA-256 {record['sha256']}" if record else "an unrecorded archive"
        raise UsageError(f"{top} comes from {origin}, not {sha256}; move it away to fetch it again")
    return True


def fetch_duts(
    name: str,
    root: Path,
    url: str | None = None,
    sha256: str | None = None,
    advance_download: Advance = lambda received, size: None,
    advance_unzip: Advance = lambda done, files: None,
    announce: Callable[[str], None] = lambda line: None,
) -> Path:
    """Download `duts-te` or `duts-tr` to `root`, where `--images` looks for it; return the folder of its images.

    Does nothing if the images exist, and resumes an interrupted download. The archive is compared with `sha256` if given
    (no digest is published); its URL and digest are recorded in `fetched.json`. Raises UsageError for an unknown name, a
    folder in the way or a missing URL, PosenetStoreError for a failing connection or a damaged archive.
    """
    if name not in DUTS:
        raise unknown("data set", name, DUTS)
    subfolder, expected = DUTS[name]
    folder, top = root / subfolder, root / Path(subfolder).parts[0]
    url = url or f"{SITE}/{top.name}.zip"
    make_folder(root)
    with lock_folder(root, f"another fetch into {root} is running; wait for it", announce):
        if _is_complete(folder, top, expected, sha256):
            return folder
        archive = root / f".{top.name}.zip"  # hidden, so that an archive of the user's is never removed
        if not archive.exists():
            download(url, archive, ARCHIVE_BYTES, advance_download, announce)
        try:
            _install(archive, top, Path(subfolder), expected, sha256, url, advance_unzip)
        except PosenetStoreError as error:
            archive.unlink()  # otherwise the next fetch would fail, too
            raise PosenetStoreError(f"{error}; the archive was removed: rerun the command to fetch it again") from None
        archive.unlink()
    return folder


def _install(
    archive: Path, top: Path, subfolder: Path, expected: int, sha256: str | None, url: str, advance: Advance
) -> None:  # fmt: skip
    """Compare the archive, unpack it to a temporary folder, count the images, and rename the folder to `top`."""
    remove_abandoned(top.parent.glob(f".{top.name}.*.tmp"))
    digest, size = sha256_file(archive), archive.stat().st_size
    if sha256 and digest != sha256:
        raise PosenetStoreError(f"{url} gave {size:,} bytes with SHA-256 {digest}, not {sha256}")
    temporary = name_temporary(top)
    try:
        unzip(archive, temporary, LIMIT, advance)
        if (count := _count_images(temporary / subfolder)) != expected:
            raise PosenetStoreError(f"{url} holds {count:,} images in {subfolder}, not {expected:,}")
        record = {"url": url, "sha256": digest, "bytes": size, "images": count, **collect_provenance()}
        write_json(temporary / top.name / RECORD, record)
        os.sync()  # one call for thousands of small files, before the rename that declares them complete
        (temporary / top.name).rename(top)
        fsync(top.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
