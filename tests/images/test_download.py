"""Downloads over lines that fail: what came stays, and a machine without a network is told so at once."""

import errno
import socket
import ssl
import time
from http.client import HTTPResponse
from pathlib import Path
from urllib.error import URLError

import pytest

from posenet_store.errors import PosenetStoreError
from posenet_store.images import download as downloads
from posenet_store.images.download import download
from tests.support.bad_server import Behaviour, serve_badly


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
        download(f"{url}/archive", tmp_path / "archive")
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
        download(f"{url}/archive", tmp_path / "archive")
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

    monkeypatch.setattr(downloads, "urlopen", refuse)
    lines: list[str] = []
    with pytest.raises(PosenetStoreError, match="connected to the internet"):
        download("http://example.org/archive", tmp_path / "archive", announce=lines.append)
    assert sum(waits) <= 5
    assert len(lines) == len(waits)
