"""Download a file over HTTP: resume with range requests, and never mix two versions of the file.

The package pooch compares digests but can't resume, which large archives on a slow server need.
"""

import errno
import http.client
import re
import shutil
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from posenet_store.errors import PosenetStoreError, StoreError, UsageError
from posenet_store.files import fsync, read_json, write_json

CHUNK = 1 << 20
TIMEOUT = 60.0  # seconds without a byte
WAITS = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)  # seconds before each retry; after a retry that brings bytes, from the first again
OFFLINE_WAITS = 2  # of them, where there is no way to the server and nothing has come yet
NO_ROUTE = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN)
ADVICE = "give another URL with --url"
Advance = Callable[[int, int | None], None]
"""Called with the amount so far and the total (None: unknown)."""


@dataclass(frozen=True)
class _Version:
    """A version of a file on a server, told from other versions by its `validator` (ETag or date)."""

    url: str
    validator: str | None
    size: int | None


class _HttpRedirects(HTTPRedirectHandler):
    """Follow redirects to http and https only; Python's own would also open ftp."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: http.client.HTTPMessage, newurl: str
    ) -> Request | None:
        """Return the request for where the server redirects to; raises UsageError if that is not accepted."""
        if urlsplit(newurl).scheme not in ("http", "https"):
            raise UsageError(f"{req.full_url}: the server redirects to {newurl!r:.200}, which is not http or https; {ADVICE}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def download(
    url: str,
    path: Path,
    limit: int,
    advance: Advance = lambda received, size: None,
    announce: Callable[[str], None] = lambda line: None,
) -> None:
    """Download `url`, at most `limit` bytes, to `path`; a later call resumes it if the server still has the same file.

    The bytes so far are in `path`.part, their version in `path`.part.json. If the server does not support ranges or its
    file has changed, the download starts again. `advance` gets bytes, `announce` a line before each retry. Raises
    UsageError if the URL gives no such file or a larger one, and PosenetStoreError if the connection keeps failing or the
    disk is full; the part is kept.
    """
    if not url.startswith(("http://", "https://")):
        raise UsageError(f"{url!r} is not accepted; give a URL that begins with http:// or https://")
    part = path.with_name(f"{path.name}.part")
    failures, begun = 0, False
    while True:
        offline, before = False, _get_size(part)
        try:
            if _resume(url, part, limit, advance):
                break
            reason = "the connection ended early"
        except HTTPError as error:
            if error.code < 500 and error.code not in (408, 429):
                raise UsageError(f"{url}: the server answers {error.code} {error.reason}; {ADVICE}") from None
            reason = f"{error.code} {error.reason}"
        except URLError as error:
            if isinstance(error.reason, str):  # no host, an unknown protocol: nothing was sent
                raise UsageError(f"{url} can't be opened ({error.reason}); {ADVICE}") from None
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


def _open(request: Request) -> http.client.HTTPResponse:
    """Send a request; raises UsageError if its URL, or where the server redirects to, is none."""
    try:
        return cast(http.client.HTTPResponse, build_opener(_HttpRedirects).open(request, timeout=TIMEOUT))
    except (http.client.InvalidURL, ValueError) as error:
        raise UsageError(f"{request.full_url}, or where its server redirects to, is no URL ({error}); {ADVICE}") from None


def _resume(url: str, part: Path, limit: int, advance: Advance) -> bool:
    """Request the missing bytes and append them; returns whether the file is complete."""
    known, received = _read_version(url, part), _get_size(part)
    if known and known.size == received:
        return True
    ranges = {"Range": f"bytes={received}-", "If-Range": str(known.validator)} if known else {}
    # identity: a compressed response would have other offsets
    request = Request(url, headers={"Accept-Encoding": "identity", "User-Agent": "posenet-store", **ranges})  # noqa: S310 - http(s)
    try:
        response = _open(request)
    except HTTPError as error:
        if error.code != 416 or not known:
            raise
        part.unlink()  # the server's file is shorter than the part, so it is another version
        return False
    with response:
        version = _Version(url, _get_validator(response), _parse_length(response, url))
        requested = known and f"bytes {received}-{(known.size or 0) - 1}/{known.size}"
        if response.status == 206 and known and response.headers["Content-Range"] == requested:
            version = known
        else:
            part.unlink(missing_ok=True)
            if response.status == 206:  # another range than the requested one
                return False
            write_json(_get_record_path(part), vars(version))
        if (version.size or 0) > limit or not _append(response, part, version.size, limit, advance):
            for path in (part, _get_record_path(part)):
                path.unlink(missing_ok=True)
            raise UsageError(f"{url} gives more than {limit:,} bytes, which can't be the file; {ADVICE}")
    return version.size is None or _get_size(part) == version.size


def _get_validator(response: http.client.HTTPResponse) -> str | None:
    """Return a strong ETag, else the date, for If-Range; a weak ETag does not promise equal bytes."""
    etag = response.headers["ETag"]
    validator: str | None = etag if etag and not etag.startswith("W/") else response.headers["Last-Modified"]
    return validator if validator and validator.isascii() and validator.isprintable() else None  # else no header can have it


def _parse_length(response: http.client.HTTPResponse, url: str) -> int | None:
    """Return the length of a body, None if the server does not say it; raises UsageError if it says no number."""
    length = response.headers["Content-Length"]
    if length is not None and not re.fullmatch("[0-9]{1,18}", length):
        raise UsageError(f"{url}: the server says Content-Length: {length!r:.60}, which is no number of bytes; {ADVICE}")
    return None if length is None else int(length)


def _append(response: http.client.HTTPResponse, part: Path, size: int | None, limit: int, advance: Advance) -> bool:
    """Append a response to a file; returns False as soon as it has more than `limit` bytes.

    Raises PosenetStoreError if the disk has too little room.
    """
    received, free = _get_size(part), shutil.disk_usage(part.parent).free
    if size is not None and size - received > free:
        raise PosenetStoreError(
            f"{part} needs {size - received:,} more bytes and its disk has {free:,} free; make room and rerun the command"
        )
    advance(received, size)
    with part.open("ab") as file:
        while received <= limit and (data := _read(response)):
            file.write(data)
            received += len(data)
            advance(received, size)
    return received <= limit


def _read(response: http.client.HTTPResponse) -> bytes:
    """Return the next bytes as soon as some come, so that a reset loses none; a failure of the line is a ConnectionError."""
    try:
        return response.read1(CHUNK)
    except OSError as error:  # SSLError, no route, I/O error; what the disk says comes from the writing
        raise ConnectionError(str(error) or type(error).__name__) from None
