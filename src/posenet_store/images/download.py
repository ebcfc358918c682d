"""Download one file over HTTP, resuming with range requests and never mixing two versions of the file.

The pooch package compares digests but cannot resume, which these archives on a slow server need.
"""

import http.client
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from posenet_store.errors import PosenetStoreError, StoreError, UsageError
from posenet_store.files import fsync, read_json, write_json

CHUNK = 1 << 20
TIMEOUT = 60.0  # seconds without a byte
WAITS = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)  # seconds before each retry; a retry that brings bytes starts the list again
Advance = Callable[[int, int | None], None]


@dataclass(frozen=True)
class _Version:
    """A version of a file on a server: `validator` (its ETag or date) differs from that of another version."""

    url: str
    validator: str | None
    size: int | None


def download(url: str, path: Path, advance: Advance = lambda have, size: None) -> None:
    """Download `url` to `path`; a later call resumes an interrupted download if the server still has the same file.

    The bytes so far are in `path`.part, their version in `path`.part.json. If the server supports no ranges, or its file
    has changed, the download starts again. `advance(have, size)` gets the bytes so far and in all (None: unknown). Raises
    UsageError for a missing URL, PosenetStoreError if the connection keeps failing or the disk is full; the part is kept.
    """
    if not url.startswith(("http://", "https://")):
        raise UsageError(f"{url!r} is not accepted; give a URL that begins with http:// or https://")
    part = path.with_name(f"{path.name}.part")
    failures = 0
    while True:
        before = _length(part)
        try:
            if _resume(url, part, advance):
                break
            reason = "the connection ended early"
        except HTTPError as error:
            if error.code < 500 and error.code not in (408, 429):
                raise UsageError(
                    f"{url}: the server answers {error.code} {error.reason}; give another URL with --url"
                ) from None
            reason = f"{error.code} {error.reason}"
        except URLError as error:
            reason = str(error.reason)
        except (http.client.HTTPException, TimeoutError, ConnectionError) as error:
            reason = str(error) or type(error).__name__
        failures = 0 if _length(part) > before else failures
        if failures == len(WAITS):
            raise PosenetStoreError(
                f"{url} can't be fetched ({reason}), {failures + 1} times in a row; {_length(part):,} bytes are kept "
                f"in {part}; rerun the command to continue"
            )
        time.sleep(WAITS[failures])
        failures += 1
    fsync(part)
    part.replace(path)
    fsync(path.parent)
    _record(part).unlink(missing_ok=True)


def _length(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _record(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _read_version(url: str, part: Path) -> _Version | None:
    """Return the version of the part; None if there is no part, or no way to tell whether the file is still the same."""
    try:
        known = _Version(**read_json(_record(part)))
    except (StoreError, TypeError):
        return None
    return known if _length(part) and known.validator is not None and known.url == url else None


def _resume(url: str, part: Path, advance: Advance) -> bool:
    """Request the missing bytes and append them; returns whether the file is complete."""
    known, have = _read_version(url, part), _length(part)
    if known and known.size == have:
        return True
    ranges = {"Range": f"bytes={have}-", "If-Range": str(known.validator)} if known else {}
    # A compressed response would have other offsets.
    request = Request(url, headers={"Accept-Encoding": "identity", "User-Agent": "posenet-store", **ranges})  # noqa: S310 - http(s)
    try:
        answer = urlopen(request, timeout=TIMEOUT)  # noqa: S310
    except HTTPError as error:
        if error.code != 416:
            raise
        part.unlink()  # the server's file is shorter than the part, so it is another version
        return False
    with answer:
        length = answer.headers["Content-Length"]
        version = _Version(url, _get_validator(answer), int(length) if length else None)
        if (
            answer.status == 206
            and known
            and answer.headers["Content-Range"] == f"bytes {have}-{(known.size or 0) - 1}/{known.size}"
        ):
            version = known
        elif answer.status == 206:  # not the requested range
            part.unlink(missing_ok=True)
            return False
        else:
            part.unlink(missing_ok=True)
            write_json(_record(part), vars(version))
        with part.open("ab") as file:
            _append(answer, file, version.size, advance)
    return version.size is None or _length(part) == version.size


def _get_validator(answer: http.client.HTTPResponse) -> str | None:
    """Return a strong ETag, else the date, for If-Range; a weak ETag does not promise equal bytes."""
    etag = answer.headers["ETag"]
    return etag if etag and not etag.startswith("W/") else answer.headers["Last-Modified"]


def _append(answer: http.client.HTTPResponse, file: BinaryIO, size: int | None, advance: Advance) -> None:
    have = file.tell()
    free = shutil.disk_usage(Path(file.name).parent).free
    if size is not None and size - have > free:
        raise PosenetStoreError(
            f"{file.name} needs {size - have:,} more bytes and its disk has {free:,} free; make room and rerun the command"
        )
    advance(have, size)
    while data := answer.read(CHUNK):
        file.write(data)
        have += len(data)
        advance(have, size)
