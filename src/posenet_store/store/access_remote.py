"""Read the files of a store from any static web server, S3, Google Cloud or Azure. The owner of obstore."""

import io
import itertools
import os
import time
from collections import OrderedDict
from collections.abc import Hashable
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple
from urllib.parse import unquote, urlsplit

from posenet_store.errors import StoreError, UsageError, first_line
from posenet_store.files import expand_user, sha256
from posenet_store.store.access import JSON_BYTES, Files, StoreFiles

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig

SCHEMES = ("http", "https", "s3", "gs", "az")
CACHE_BYTES = 512 << 20
PIECE_BYTES = 64 << 10  # what is lost at most when an answer breaks off
WAITS = (0.2, 0.5, 1.0, 2.0)  # seconds before each request for the rest of an answer; after more bytes from the first again
CLIENT: "ClientConfig" = {
    "connect_timeout": timedelta(seconds=10),
    "read_timeout": timedelta(seconds=30),  # without a byte
    "timeout": timedelta(hours=6),  # of a whole answer, which a slow line may need
}
"""For web servers; the clouds' environment variables set theirs."""
RETRIES: "RetryConfig" = {
    "max_retries": 5,
    "backoff": {"init_backoff": timedelta(seconds=0.2), "max_backoff": timedelta(seconds=3), "base": 2},
    "retry_timeout": timedelta(seconds=60),
}
"""How a request without an answer is repeated: for some ten seconds."""


class _CachedFile(NamedTuple):
    """A file in memory, and the number of the fetch with which it came."""

    fetch: int
    data: bytes


class _BrokenOffError(Exception):
    """An answer ended early."""


class RemoteFiles:
    """The files of a store behind a URL; each is read as a whole, since its record has a digest of all of it.

    The files read last stay in memory, up to 512 MiB or one file. Credentials and regions come from the cloud's own
    environment variables.
    """

    def __init__(self, url: str) -> None:
        if find_spec("obstore") is None:
            raise UsageError(f"reading {url} needs the package obstore; install it: pip install 'posenet-store[remote]'")
        import obstore.store

        self._url = url.rstrip("/")
        self._process = os.getpid()
        self._cache: OrderedDict[str, _CachedFile] = OrderedDict()
        self._sizes: dict[str, int] = {}
        """What `size` returned, which callers have compared with a record; no more is fetched."""
        self._lock, self._fetches = Lock(), itertools.count()
        client: ClientConfig | None = CLIENT | {"allow_http": True} if url.startswith("http") else None
        try:
            self._store: Any = obstore.store.from_url(self._url, client_options=client, retry_config=RETRIES)
        except Exception as error:  # obstore raises its own types, and ValueError for a malformed URL
            raise UsageError(f"{url} can't be opened: {first_line(error)}") from None

    def __str__(self) -> str:
        return self._url

    def advise(self, purpose: str) -> str:
        """Return what to do about an incomplete or damaged store."""
        return f"rerun the build-store command {purpose} where the store was built, and copy it to the server again"

    def _call(self, method: str, name: str, **options: Any) -> Any:
        from obstore.exceptions import NotSupportedError

        if os.getpid() != self._process:
            raise StoreError(
                f"{self._url} was opened before this process was forked; give the DataLoader "
                "multiprocessing_context='spawn', or open the store in each process"
            )
        try:
            return getattr(self._store, method)(name, **options)
        except (FileNotFoundError, NotSupportedError):
            raise
        except Exception as error:  # connection refused, forbidden, timed out; obstore has retried already
            raise self._explain(name, error) from None

    def _explain(self, name: str, error: Exception) -> StoreError:
        return StoreError(f"{self._url}/{name} can't be read: {first_line(error)}; is the server reachable?")

    def read(self, name: str) -> bytes:
        """Return a JSON file's bytes, never from memory; raises StoreError if it is larger than `JSON_BYTES`."""
        return self._fetch(name, JSON_BYTES)

    def _fetch(self, name: str, limit: int) -> bytes:
        """Return a file's bytes, at most `limit`; an answer that breaks off is continued where it ended."""
        pieces: list[bytes] = []
        failures = 0
        while True:
            before = sum(map(len, pieces))
            try:
                self._receive(name, pieces, limit)
                return b"".join(pieces)
            except _BrokenOffError as error:
                failures = 0 if sum(map(len, pieces)) > before else failures
                if failures == len(WAITS):
                    raise self._explain(name, error) from None
            time.sleep(WAITS[failures])
            failures += 1

    def _receive(self, name: str, pieces: list[bytes], limit: int) -> None:
        """Append what is missing of a file to `pieces`, all of it if the server knows no ranges.

        A file that is replaced on the server meanwhile does not have its digest, and is fetched again for that. Raises
        StoreError if the file is larger than `limit`, before it has come.
        """
        from obstore.exceptions import NotSupportedError

        received = sum(map(len, pieces))
        try:
            answer = self._call("get", name, options={"range": {"offset": received}} if received else None)
        except NotSupportedError:
            pieces.clear()
            answer = self._call("get", name)
        if (size := int(answer.meta["size"])) > limit:
            raise StoreError(f"{self._url}/{name} has {size:,} bytes; at most {limit:,} are read: is it a file of this store?")
        try:
            pieces.extend(answer.stream(min_chunk_size=PIECE_BYTES))
        except Exception as error:
            raise _BrokenOffError(first_line(error)) from None

    def size(self, name: str) -> int | None:
        """Return a file's size in bytes, None if it does not exist."""
        try:
            size = self._sizes[name] = int(self._call("head", name)["size"])
        except FileNotFoundError:
            return None
        return size

    def sha256(self, name: str) -> str:
        """Return a file's digest; the file stays in memory, since it is usually read next."""
        return sha256(self._read_cached(name))

    def open(self, name: str) -> BinaryIO:
        """Return a file in memory."""
        return io.BytesIO(self._read_cached(name))

    def identify(self, name: str) -> Hashable:
        """Return the number of the fetch with which a file in memory came, None if it is not there."""
        cached = self._cache.get(name)
        return cached and cached.fetch

    def forget(self, name: str) -> bool:
        """Drop a file from memory, so that it is fetched again; returns whether it was there."""
        with self._lock:
            return self._cache.pop(name, None) is not None

    def _read_cached(self, name: str) -> bytes:
        with self._lock:
            if name in self._cache:
                self._cache.move_to_end(name)
                return self._cache[name].data
        data = self._fetch(name, self._sizes.get(name, JSON_BYTES))
        with self._lock:
            self._cache.pop(name, None)
            while self._cache and sum(len(file.data) for file in self._cache.values()) + len(data) > CACHE_BYTES:
                self._cache.popitem(last=False)
            self._cache[name] = _CachedFile(next(self._fetches), data)
        return data


def open_files(location: str | Path) -> Files:
    """Return the files of the store at a path (`~` is expanded) or URL; raises UsageError for an unknown scheme."""
    if isinstance(location, Path) or "://" not in location:
        return StoreFiles(expand_user(location))
    url = urlsplit(location)
    if url.scheme == "file":
        return StoreFiles(Path(unquote(url.path)))
    if url.scheme in SCHEMES:
        return RemoteFiles(location)
    raise UsageError(f"unknown kind of URL {location!r}; accepted: a path, file://, {', '.join(f'{s}://' for s in SCHEMES)}")
