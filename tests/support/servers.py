"""Run web servers on loopback for as long as a test needs them."""

import http.server
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

POLL = 0.01  # seconds after which a server notices that it is to stop


class _Quiet(http.server.SimpleHTTPRequestHandler):
    """The plainest static server there is: it does not even know ranges."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@contextmanager
def run_server(handler: Callable[..., http.server.BaseHTTPRequestHandler]) -> Iterator[str]:
    """Answer requests with a handler, each in a thread; yield the server's URL without a slash at its end."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(POLL,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    """Serve a folder; yield its URL."""
    with run_server(partial(_Quiet, directory=str(folder.parent))) as url:
        yield f"{url}/{folder.name}"
