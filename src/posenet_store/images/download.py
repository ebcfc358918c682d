"""One file over HTTP, whatever happens to the line: resumed with ranges, never mixed from two versions of the file."""

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
WAITS = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)  # seconds before a new try; as many tries in a row may bring nothing
Advance = Callable[[int, int | None], None]


@dataclass(frozen=True)
class _Version:
    """Which bytes a server sends: `validator` (its ETag or date) tells one version of the file from another."""

    url: str
    validator: str | None
    size: int | None


def download(url: str, path: Path, advance: Advance = lambda have, size: None) -> None:
    """Fetch `url` to `path`; a later call goes on where an earlier one stopped, as long as the server has the same file.

    The part so far is `path`.part, and `path`.part.json says of which version it is. A server that knows no ranges, or
    whose file has changed, sends it from its beginning. `advance(have, size)` is told the bytes so far and of the whole
    (None: the server does not say). Raises UsageError for a URL that is not there, PosenetStoreError if the line
    stays broken or the disk has no room; the part is kept.
    """
    if not url.startswith(("http://", "https://")):
        raise UsageError(f"{url!r} is not accepted; give a URL that begins with http:// or https://")
    part = path.with_name(f"{path.name}.part")
    failures = 0
    while True:
        before = _length(part)
        try:
            if _continued(url, part, advance):
                break
            reason = "the connection ended early"
        except HTTPError as error:
            if error.code < 500 and error.code not in (408, 429):
                raise UsageError(
                    f"{url}: the server answers {error.code} {error.reason}; name another place with --url"
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
                f"in {part}: type the same command again to go on"
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


def _known(url: str, part: Path) -> _Version | None:
    """The version that the part is of; None if there is no part, or nothing tells whether the file is still the same."""
    try:
        known = _Version(**read_json(_record(part)))
    except (StoreError, TypeError):
        return None
    return known if _length(part) and known.validator is not None and known.url == url else None


def _continued(url: str, part: Path, advance: Advance) -> bool:
    """Ask for what is missing and append it; returns whether the file is complete."""
    known, have = _known(url, part), _length(part)
    if known and known.size == have:
        return True
    asked = {"Range": f"bytes={have}-", "If-Range": str(known.validator)} if known else {}
    # A compressed answer would have other offsets.
    request = Request(url, headers={"Accept-Encoding": "identity", "User-Agent": "posenet-store", **asked})  # noqa: S310 - http(s)
    try:
        answer = urlopen(request, timeout=TIMEOUT)  # noqa: S310
    except HTTPError as error:
        if error.code != 416:
            raise
        part.unlink()  # the server's file ends before our part does: it is another one
        return False
    with answer:
        whole = answer.headers["Content-Length"]
        version = _Version(url, _validator(answer), int(whole) if whole else None)
        if (
            answer.status == 206
            and known
            and answer.headers["Content-Range"] == f"bytes {have}-{(known.size or 0) - 1}/{known.size}"
        ):
            version = known
        elif answer.status == 206:  # not the range that was asked for
            part.unlink(missing_ok=True)
            return False
        else:
            part.unlink(missing_ok=True)
            write_json(_record(part), vars(version))
        with part.open("ab") as file:
            _append(answer, file, version.size, advance)
    return version.size is None or _length(part) == version.size


def _validator(answer: http.client.HTTPResponse) -> str | None:
    """What If-Range takes: a strong ETag, else the date; a weak ETag does not promise equal bytes."""
    etag = answer.headers["ETag"]
    return etag if etag and not etag.startswith("W/") else answer.headers["Last-Modified"]


def _append(answer: http.client.HTTPResponse, file: BinaryIO, size: int | None, advance: Advance) -> None:
    have = file.tell()
    free = shutil.disk_usage(Path(file.name).parent).free
    if size is not None and size - have > free:
        raise PosenetStoreError(
            f"{file.name} needs {size - have:,} bytes more and its disk has {free:,}; make room and type the same command again"
        )
    advance(have, size)
    while data := answer.read(CHUNK):
        file.write(data)
        have += len(data)
        advance(have, size)
