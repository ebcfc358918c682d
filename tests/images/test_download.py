"""Downloads over lines that fail: what came stays, and a machine without a network is told so at once."""

import errno
import itertools
import socket
import ssl
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from http.client import HTTPResponse
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.error import URLError
from urllib.request import OpenerDirector

import pytest

from posenet_store.errors import PosenetStoreError, UsageError
from posenet_store.images import download as downloads
from posenet_store.images.download import download
from tests.support.bad_server import Behaviour, serve_badly
from tests.support.servers import run_server

LIMIT = 1 << 20


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that would be made."""
    made: list[float] = []
    monkeypatch.setattr(time, "sleep", made.append)
    return made


def test_a_line_that_is_reset_again_and_again_gets_on(tmp_path: Path, waits: list[float]) -> None:
    """Each time before a whole chunk has come."""
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "archive").write_bytes(data := bytes(range(256)) * 40)
    behaviour = Behaviour(limit=1000)
    with serve_badly(folder, behaviour) as url:
        download(f"{url}/archive", tmp_path / "archive", LIMIT)
    assert (tmp_path / "archive").read_bytes() == data
    assert len(behaviour.requests) > len(downloads.WAITS) + 1


@pytest.mark.parametrize(
    "error", [ssl.SSLError("bad record"), OSError(errno.EHOSTUNREACH, "no route"), OSError(errno.EIO, "eio")]
)
def test_an_error_within_a_body_is_tried_again(
    tmp_path: Path, waits: list[float], monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    folder, errors = tmp_path / "served", [error]
    folder.mkdir()
    (folder / "archive").write_bytes(b"whole")
    real = HTTPResponse.read1

    def read1(response: HTTPResponse, size: int) -> bytes:
        if errors:
            raise errors.pop()
        return real(response, size)

    monkeypatch.setattr(HTTPResponse, "read1", read1)
    with serve_badly(folder, Behaviour()) as url:
        download(f"{url}/archive", tmp_path / "archive", LIMIT)
    assert (tmp_path / "archive").read_bytes() == b"whole"
    assert waits == [downloads.WAITS[0]]


@pytest.mark.parametrize(
    "reason", [socket.gaierror(-2, "Name or service not known"), OSError(errno.ENETUNREACH, "unreachable")]
)
def test_without_a_network_that_is_said_after_seconds(
    tmp_path: Path, waits: list[float], monkeypatch: pytest.MonkeyPatch, reason: OSError
) -> None:
    def refuse(*arguments: object, **options: object) -> object:
        raise URLError(reason)

    monkeypatch.setattr(OpenerDirector, "open", refuse)
    lines: list[str] = []
    with pytest.raises(PosenetStoreError, match="connected to the internet"):
        download("http://example.org/archive", tmp_path / "archive", LIMIT, announce=lines.append)
    assert sum(waits) <= 5
    assert len(lines) == len(waits)


Answer = tuple[int, dict[str, str], Iterable[bytes]]


@contextmanager
def serve_answers(answers: Mapping[str, Answer]) -> Iterator[str]:
    """Answer each path with a status, headers and a body, as they are; yield the server's URL."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

        def do_GET(self) -> None:
            status, headers, body = answers[self.path]
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            with suppress(ConnectionError):
                for piece in body:
                    self.wfile.write(piece)

    with run_server(Handler) as url:
        yield url


HOSTILE: dict[str, Answer] = {
    "ftp": (302, {"Location": "ftp://127.0.0.1/archive"}, ()),
    "file": (302, {"Location": "file:///etc/passwd"}, ()),
    "data": (301, {"Location": "data:,x"}, ()),
    "an address that is none": (302, {"Location": "http://[x/"}, ()),
    "a port that is none": (302, {"Location": "http://127.0.0.1:x/"}, ()),
    "a host that is none": (302, {"Location": f"http://{'a' * 70}.example/"}, ()),
    "no host": (302, {"Location": "http:///archive"}, ()),
    "itself": (302, {"Location": "/archive"}, ()),
    "no place": (302, {}, ()),
    "length abc": (200, {"Content-Length": "abc"}, (b"x",)),
    "length with a control character": (200, {"Content-Length": "\x1d1"}, (b"x",)),
    "length -1": (200, {"Content-Length": "-1"}, (b"x",)),
    "length of 5000 digits": (200, {"Content-Length": "9" * 5000}, (b"x",)),
    "length 10^15": (200, {"Content-Length": str(10**15)}, (b"x",)),
    "416 at first": (416, {}, ()),
    "endless": (200, {}, itertools.repeat(bytes(1 << 16))),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_server_is_told_in_a_sentence_at_once(tmp_path: Path, waits: list[float], name: str) -> None:
    with serve_answers({"/archive": HOSTILE[name]}) as url, pytest.raises(UsageError, match="--url") as error:
        download(f"{url}/archive", tmp_path / "archive", LIMIT)
    assert "/archive" in str(error.value)
    assert len(str(error.value)) < 500
    assert waits == []
    assert list(tmp_path.iterdir()) == []


def test_a_redirect_to_http_is_followed(tmp_path: Path) -> None:
    answers: dict[str, Answer] = {"/moved": (302, {"Location": "/archive"}, ()), "/archive": (200, {}, (b"whole",))}
    with serve_answers(answers) as url:
        download(f"{url}/moved", tmp_path / "archive", LIMIT)
    assert (tmp_path / "archive").read_bytes() == b"whole"


def test_a_server_that_falls_silent_is_given_up(tmp_path: Path, waits: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "TIMEOUT", 0.05)
    end = threading.Event()

    def fall_silent() -> Iterator[bytes]:
        yield b"x"
        end.wait(10)

    class Body:
        __iter__ = staticmethod(fall_silent)

    with serve_answers({"/archive": (200, {"Content-Length": "9"}, Body())}) as url:
        with pytest.raises(PosenetStoreError, match="timed out"):
            download(f"{url}/archive", tmp_path / "archive", LIMIT)
        end.set()
    assert tuple(waits) == downloads.WAITS


def test_a_validator_that_no_header_can_have_is_not_used(tmp_path: Path, waits: list[float]) -> None:
    """A folded header: sending it back would be refused by this side."""
    headers = {"ETag": '"a\r\n b"', "Content-Length": "5"}
    bodies = iter([(b"wh",), (b"whole",)])

    class Body:
        __iter__ = staticmethod(lambda: iter(next(bodies)))

    with serve_answers({"/archive": (200, headers, Body())}) as url:
        download(f"{url}/archive", tmp_path / "archive", LIMIT)
    assert (tmp_path / "archive").read_bytes() == b"whole"
