"""Download a file over HTTP: resume with range requests, and never mix two versions of the file.

The package pooch compares digests but can't resume, which large archives on a slow server need.
"""

import errno
import http.client
import shutil
import socket
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
WAITS = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)  # seconds before each retry; after a retry that brings bytes, from the first again
OFFLINE_WAITS = 2  # of them, where there is no way to the server and nothing has come yet
NO_ROUTE = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN)
Advance = Callable[[int, int | None], None]
"""Called with the amount so far and the total (None: unknown)."""


@dataclass(frozen=True)
class _Version:
    """A version of a file on a server, told from other versions by its `validator` (ETag or date)."""

    url: str
    validator: str | None
    size: int | None


def download(
    url: str,
    path: Path,
    advance: Advance = lambda received, size: None,
    announce: Callable[[str], None] = lambda line: None,
) -> None:
    """Download `url` to `path`; a later call resumes an interrupted download if the server still has the same file.

    The bytes so far are in `path`.part, their version in `path`.part.json. If the server does not support ranges or its
    file has changed, the download starts again. `advance` gets bytes, `announce` a line before each retry. Raises
    UsageError for a missing URL, and PosenetStoreError if the connection keeps failing or the disk is full; the part is kept.
    """
    if not url.startswith(("http://", "https://")):
        raise UsageError(f"{url!r} is not accepted; give a URL that begins with http:// or https://")
    part = path.with_name(f"{path.name}.part")
    failures, begun = 0, False
    while True:
        offline, before = False, _get_size(part)
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
            offline, reason = _is_offline(error.reason), str(error.reason)
        except (http.client.HTTPException, TimeoutError, ConnectionError) as error:
            reason = str(error) or type(error).__name__
        progress = _get_size(part) > before
        failures, begun = 0 if progress else failures, begun or progress
        offline = offline and not begun
        if failures == (OFFLINE_WAITS if offline else len(WAITS)):
            raise _explain_failure(url, part, reason, failures + 1, offline)
        wait = WAITS[failures]
        announce(f"{url}: {reason}; attempt {failures + 2} of {len(WAITS) + 1} follows in {wait:.0f} s")
        time.sleep(wait)
        failures += 1
    fsync(part)
    part.replace(path)
    fsync(path.parent)
    _get_record_path(part).unlink(missing_ok=True)


def _explain_failure(url: str, part: Path, reason: str, attempts: int, offline: bool) -> PosenetStoreError:
    """Return the error for a download that is given up."""
    if offline:
        return PosenetStoreError(f"{url} can't be reached ({reason}); is this machine connected to the internet?")
    return PosenetStoreError(
        f"{url} can't be fetched ({reason}), {attempts} times in a row; {_get_size(part):,} bytes are kept in {part}; rerun "
        "the command to continue"
    )


def _is_offline(reason: str | BaseException) -> bool:
    """Return whether the reason of a URLError is that there is no name service or no route."""
    return isinstance(reason, socket.gaierror) or (isinstance(reason, OSError) and reason.errno in NO_ROUTE)


def _get_size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _get_record_path(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _read_version(url: str, part: Path) -> _Version | None:
    """Return the version of the part; None if there is no part, or if it can't be compared with the server's file."""
    try:
        version = _Version(**read_json(_get_record_path(part)))
    except (StoreError, TypeError):
        return None
    return version if _get_size(part) and version.validator is not None and version.url == url else None


def _resume(url: str, part: Path, advance: Advance) -> bool:
    """Request the missing bytes and append them; returns whether the file is complete."""
    known, received = _read_version(url, part), _get_size(part)
    if known and known.size == received:
        return True
    ranges = {"Range": f"bytes={received}-", "If-Range": str(known.validator)} if known else {}
    # identity: a compressed response would have other offsets
    request = Request(url, headers={"Accept-Encoding": "identity", "User-Agent": "posenet-store", **ranges})  # noqa: S310 - http(s)
    try:
        response = urlopen(request, timeout=TIMEOUT)  # noqa: S310
    except HTTPError as error:
        if error.code != 416:
            raise
        part.unlink()  # the server's file is shorter than the part, so it is another version
        return False
    with response:
        length = response.headers["Content-Length"]
        version = _Version(url, _get_validator(response), int(length) if length else None)
        requested = known and f"bytes {received}-{(known.size or 0) - 1}/{known.size}"
        if response.status == 206 and known and response.headers["Content-Range"] == requested:
            version = known
        else:
            part.unlink(missing_ok=True)
            if response.status == 206:  # another range than the requested one
                return False
            write_json(_get_record_path(part), vars(version))
        with part.open("ab") as file:
            _append(response, file, version.size, advance)
    return version.size is None or _get_size(part) == version.size


def _get_validator(response: http.client.HTTPResponse) -> str | None:
    """Return a strong ETag, else the date, for If-Range; a weak ETag does not promise equal bytes."""
    etag = response.headers["ETag"]
    return etag if etag and not etag.startswith("W/") else response.headers["Last-Modified"]


def _append(response: http.client.HTTPResponse, file: BinaryIO, size: int | None, advance: Advance) -> None:
    """Append a response to a file; raises PosenetStoreError if its disk has too little room."""
    received = file.tell()
    free = shutil.disk_usage(Path(file.name).parent).free
    if size is not None and size - received > free:
        raise PosenetStoreError(
            f"{file.name} needs {size - received:,} more bytes and its disk has {free:,} free; make room and rerun the command"
        )
    advance(received, size)
    while data := _read(response):
        file.write(data)
        received += len(data)
        advance(received, size)


def _read(response: http.client.HTTPResponse) -> bytes:
    """Return the next bytes as soon as some come, so that a reset loses none; a failure of the line is a ConnectionError."""
    try:
        return response.read1(CHUNK)
    except OSError as error:  # SSLError, no route, I/O error; what the disk says comes from the writing
        raise ConnectionError(str(error) or type(error).__name__) from None
