"""A web server for a folder that misbehaves as a test says: it cuts, resets, damages or stalls its answers."""

import http.server
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from socket import SO_LINGER, SOL_SOCKET

from tests.support.servers import run_server


@dataclass
class Behaviour:
    """How a server answers; `requests` are the (method, name, range) that it got."""

    limit: int | None = None
    """Bytes of a body after which the connection is reset."""
    ranges: bool = True
    damage: Callable[[str, int], bool] = lambda name, number: False
    """(file name, number of the request for it from 0) -> whether a bit of the answer is flipped."""
    cut: Callable[[str, int], bool] = lambda name, number: False
    """(file name, number of the request for it from 0) -> whether the connection closes after half of the body."""
    length: Callable[[str, str], int | None] = lambda method, name: None
    """(method, file name) -> what an answer says its length is, whatever it has; None: the truth."""
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)

    def count(self, name: str) -> int:
        """Return the number of GET requests for a file."""
        return sum(method == "GET" and asked.endswith(name) for method, asked, _ in self.requests)


class _Handler(http.server.BaseHTTPRequestHandler):
    folder: Path
    behaviour: Behaviour
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, with_body: bool) -> None:
        path, behaviour = self.folder / self.path.lstrip("/"), self.behaviour
        number, asked = behaviour.count(self.path), self.headers["Range"]
        behaviour.requests.append((self.command, self.path, asked))
        if not path.is_file():
            self.send_error(404)
            return
        data = path.read_bytes()
        start = int(asked.removeprefix("bytes=").split("-")[0]) if asked and behaviour.ranges else 0
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Last-Modified", "Sat, 01 Jan 2000 00:00:00 GMT")  # no ETag: obstore tries nothing again without
        self.send_header("Content-Length", str(behaviour.length(self.command, path.name) or len(data) - start))
        self.end_headers()
        if with_body:
            self._send(path.name, number, data, start)

    def _send(self, name: str, number: int, data: bytes, start: int) -> None:
        behaviour = self.behaviour
        if behaviour.damage(name, number):
            middle = len(data) // 2
            data = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
        body = data[start:]
        if behaviour.cut(name, number):
            self.wfile.write(body[: len(body) // 2])
            self.close_connection = True
        elif behaviour.limit is not None and len(body) > behaviour.limit:
            self.wfile.write(body[: behaviour.limit])
            time.sleep(0.01)  # a reset drops what the client has not read yet
            self.connection.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))  # closing sends a reset
            self.close_connection = True
        else:
            self.wfile.write(body)


@contextmanager
def serve_badly(folder: Path, behaviour: Behaviour) -> Iterator[str]:
    """Serve a folder on loopback; yield its URL."""
    handler = type("Handler", (_Handler,), {"folder": folder.parent, "behaviour": behaviour})
    with run_server(handler) as url:
        yield f"{url}/{folder.name}"
