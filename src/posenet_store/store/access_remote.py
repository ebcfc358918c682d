"""Read the files of a store from any static web server, S3, Google Cloud or Azure. The owner of obstore."""

import io
import os
from collections import OrderedDict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import unquote, urlsplit

from posenet_store.errors import StoreError, UsageError, first_line
from posenet_store.files import sha256
from posenet_store.store.access import Files, StoreFiles

if TYPE_CHECKING:
    from obstore.store import ClientConfig

SCHEMES = ("http", "https", "s3", "gs", "az")
CACHE_BYTES = 512 << 20


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
        self._cache: OrderedDict[str, bytes] = OrderedDict()
        options: ClientConfig | None = {"allow_http": True} if url.startswith("http://") else None
        try:
            self._store: Any = obstore.store.from_url(self._url, client_options=options)
        except Exception as error:  # obstore raises its own types, and ValueError for a malformed URL
            raise UsageError(f"{url} can't be opened: {first_line(error)}") from None

    def __str__(self) -> str:
        return self._url

    def _call(self, method: str, name: str) -> Any:
        if os.getpid() != self._process:
            raise StoreError(
                f"{self._url} was opened before this process was forked; give the DataLoader "
                "multiprocessing_context='spawn', or open the store in each process"
            )
        try:
            return getattr(self._store, method)(name)
        except FileNotFoundError:
            raise
        except Exception as error:  # connection refused, forbidden, timed out; obstore has retried already
            raise StoreError(f"{self._url}/{name} can't be read: {first_line(error)}") from None

    def read(self, name: str) -> bytes:
        """Return a file's bytes, never from memory."""
        return bytes(self._call("get", name).bytes())

    def size(self, name: str) -> int | None:
        """Return a file's size in bytes, None if it does not exist."""
        try:
            return int(self._call("head", name)["size"])
        except FileNotFoundError:
            return None

    def sha256(self, name: str) -> str:
        """Return a file's digest; the file stays in memory, since it is usually read next."""
        return sha256(self._read_cached(name))

    def open(self, name: str) -> BinaryIO:
        """Return a file in memory."""
        return io.BytesIO(self._read_cached(name))

    def _read_cached(self, name: str) -> bytes:
        if name not in self._cache:
            data = self.read(name)
            while self._cache and sum(map(len, self._cache.values())) + len(data) > CACHE_BYTES:
                self._cache.popitem(last=False)
            self._cache[name] = data
        self._cache.move_to_end(name)
        return self._cache[name]


def open_files(location: str | Path) -> Files:
    """Return the files of the store at a path (`~` is expanded) or URL; raises UsageError for an unknown scheme."""
    if isinstance(location, Path) or "://" not in location:
        return StoreFiles(Path(location).expanduser())
    url = urlsplit(location)
    if url.scheme == "file":
        return StoreFiles(Path(unquote(url.path)))
    if url.scheme in SCHEMES:
        return RemoteFiles(location)
    raise UsageError(f"unknown kind of URL {location!r}; accepted: a path, file://, {', '.join(f'{s}://' for s in SCHEMES)}")
