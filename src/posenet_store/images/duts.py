"""Fetching DUT-S: download, compare, unpack, count, and only then give it its name below the data root."""

import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from posenet_store.errors import PosenetStoreError, UsageError, unknown
from posenet_store.files import fsync, read_json, sha256_file, write_json
from posenet_store.images.download import Advance, download
from posenet_store.images.image_set import SUFFIXES
from posenet_store.images.sources import DUTS
from posenet_store.images.unzip import unzip
from posenet_store.provenance import collect_provenance

SITE = "http://saliencydetection.net/duts/download"
LIMIT = 8 << 30  # bytes that an archive may unpack to; DUTS-TR, the larger one, is well below 1 GiB
RECORD = "fetched.json"


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    """One fetch at a time below a root: two would write to one part. The lock goes with the process, whatever ends it."""
    root.mkdir(parents=True, exist_ok=True)
    folder = os.open(root, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise UsageError(f"another fetch into {root} is running; wait for it") from None
    finally:
        os.close(folder)


def _count(folder: Path) -> int:
    return sum(path.suffix.lower() in SUFFIXES and not path.name.startswith(".") for path in folder.rglob("*"))


def _complete(folder: Path, top: Path, expected: int, sha256: str | None) -> bool:
    """True if the images are there; raises UsageError for a folder that is something else."""
    if not top.exists():
        return False
    if (found := _count(folder)) != expected:
        raise UsageError(
            f"{top} exists and holds {found:,} images instead of {expected:,} in {folder.name}; move it away first"
        )
    record = read_json(top / RECORD) if (top / RECORD).is_file() else {}
    if sha256 and record.get("sha256") != sha256:
        origin = f"an archive with SHA-256 {record['sha256']}" if record else "an archive that nobody recorded"
        raise UsageError(f"{top} comes from {origin}, not {sha256}; move it away to fetch it again")
    return True


def fetch_duts(
    name: str,
    root: Path,
    url: str | None = None,
    sha256: str | None = None,
    downloaded: Advance = lambda have, size: None,
    unpacked: Advance = lambda done, files: None,
) -> Path:
    """Bring `duts-te` or `duts-tr` below `root`, where `--images` looks for it, and return the folder of its images.

    Does nothing if it is there. A download goes on where an earlier one stopped; the archive is compared with `sha256`
    where that is given, and what it was is recorded in `fetched.json`. No digest of the archives is published. Raises
    UsageError for another name, a folder in the way or a missing URL, PosenetStoreError for a broken line or archive.
    """
    if name not in DUTS:
        raise unknown("data set", name, DUTS)
    place, expected = DUTS[name]
    folder, top = root / place, root / Path(place).parts[0]
    url = url or f"{SITE}/{top.name}.zip"
    with _alone(root):
        if _complete(folder, top, expected, sha256):
            return folder
        archive = root / f".{top.name}.zip"  # hidden: one that somebody put there is not ours to remove
        if not archive.exists():
            download(url, archive, downloaded)
        try:
            _install(archive, top, Path(place), expected, sha256, url, unpacked)
        except PosenetStoreError:
            archive.unlink()  # it would fail the next time as well
            raise
        archive.unlink()
    return folder


def _install(
    archive: Path, top: Path, place: Path, expected: int, sha256: str | None, url: str, unpacked: Advance
) -> None:  # fmt: skip
    """Compare and unpack an archive beside its place, count the images, and rename."""
    for old in top.parent.glob(f".{top.name}.*.tmp"):  # of a process that was killed; we are alone here
        shutil.rmtree(old)
    digest, size = sha256_file(archive), archive.stat().st_size
    if sha256 and digest != sha256:
        raise PosenetStoreError(f"{url} gave {size:,} bytes with SHA-256 {digest}, not {sha256}; the file was removed")
    temporary = top.with_name(f".{top.name}.{uuid.uuid4().hex}.tmp")
    try:
        unzip(archive, temporary, LIMIT, unpacked)
        if (found := _count(temporary / place)) != expected:
            raise PosenetStoreError(f"{url} holds {found:,} images in {place}, not {expected:,}; the file was removed")
        record = {"url": url, "sha256": digest, "bytes": size, "images": found, **collect_provenance()}
        write_json(temporary / top.name / RECORD, record)
        os.sync()  # thousands of small files: one call, before the rename that vouches for them
        (temporary / top.name).rename(top)
        fsync(top.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
