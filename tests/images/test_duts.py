"""fetch duts-te against a server on loopback that drops lines, ignores ranges, changes the file, and sends evil archives."""

import errno
import hashlib
import http.server
import io
import json
import os
import shutil
import stat
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from posenet_store.cli import main
from posenet_store.errors import PosenetStoreError, UsageError
from posenet_store.files import lock_folder
from posenet_store.images import download as downloads
from posenet_store.images import duts as fetches
from posenet_store.images import unzip as unpacks
from posenet_store.images.sources import DUTS, load_image_set
from posenet_store.temporaries import name_temporary
from tests.support.servers import run_server

COUNT = 5


def jpeg(shade: int) -> bytes:
    file = io.BytesIO()
    Image.effect_noise((64, 48), 20 + shade).convert("RGB").save(file, "JPEG", quality=95)
    return file.getvalue()


def zipped(entries: dict[str, bytes], links: tuple[str, ...] = ()) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in entries.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = ((stat.S_IFLNK if name in links else stat.S_IFREG) | 0o644) << 16
            archive.writestr(info, data)
    return file.getvalue()


def duts(count: int = COUNT) -> dict[str, bytes]:
    images = {f"DUTS-TE/DUTS-TE-Image/{n}.jpg": jpeg(n) for n in range(count)}
    return images | {f"DUTS-TE/DUTS-TE-Mask/{n}.png": b"mask" for n in range(count)}


@dataclass
class Site:
    """What the server sends, how it fails, and the (path, Range) of the requests that came."""

    data: bytes
    etag: str | None = '"one"'
    ranges: bool = True
    drops: list[int] = field(default_factory=list)
    """Bytes after which the line of each coming answer is cut; then none is."""
    statuses: list[int] = field(default_factory=list)
    between: Callable[["Site"], None] = lambda site: None
    """Called after a line was cut."""
    chunked: bool = False
    asked: list[str | None] = field(default_factory=list)
    url: str = ""


def handler(site: Site) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

        def do_GET(self) -> None:
            site.asked.append(self.headers["Range"])
            if site.statuses:
                self.send_error(site.statuses.pop(0))
                return
            start, data = 0, site.data
            resumes = self.headers["Range"] and site.ranges and self.headers["If-Range"] == site.etag
            if resumes:
                start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
                if start >= len(data):
                    self.send_error(416)
                    return
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            else:
                self.send_response(200)
            if site.etag:
                self.send_header("ETag", site.etag)
            self.send_header("Connection", "close")
            if site.chunked:
                self.send_header("Transfer-Encoding", "chunked")
            else:
                self.send_header("Content-Length", str(len(data) - start))
            self.end_headers()
            self.close_connection = True
            stop = start + site.drops.pop(0) if site.drops else None
            body = data[start:stop]
            self.wfile.write(b"%x\r\n%b\r\n" % (len(body), body) if site.chunked else body)
            if stop is not None:
                site.between(site)
            elif site.chunked:
                self.wfile.write(b"0\r\n\r\n")

    return Handler


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(downloads, "WAITS", (0.01,) * 3)
    monkeypatch.setattr(downloads, "CHUNK", 1000)
    monkeypatch.setitem(DUTS, "duts-te", (DUTS["duts-te"][0], COUNT))
    actual = Site(zipped(duts()))
    with run_server(handler(actual)) as url:
        actual.url = f"{url}/DUTS-TE.zip"
        yield actual


def typed(site: Site, root: Path, *words: str) -> Result:
    return CliRunner().invoke(main, ["fetch", "duts-te", "--data-root", str(root), "--url", site.url, *words])


def whole(site: Site, root: Path) -> None:
    """Everything is there, byte for byte, and nothing else: no part, no archive, no temporary."""
    (top,) = root.iterdir()
    for name, data in duts().items():
        if name.endswith("jpg"):
            assert hashlib.sha256((root / name).read_bytes()).digest() == hashlib.sha256(archived(site.data, name)).digest()
        assert len(data) > 0
    record = json.loads((top / "fetched.json").read_text())
    assert record["sha256"] == hashlib.sha256(site.data).hexdigest()
    assert (record["bytes"], record["images"], record["url"]) == (len(site.data), COUNT, site.url)


def archived(data: bytes, name: str) -> bytes:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return archive.read(name)


def test_what_is_fetched_is_what_images_looks_for_and_a_rerun_asks_nobody(site: Site, tmp_path: Path) -> None:
    done = typed(site, tmp_path)
    assert done.exit_code == 0, done.output
    assert done.stdout == f"{tmp_path}/DUTS-TE/DUTS-TE-Image\n"
    whole(site, tmp_path)
    assert len(load_image_set("duts-te", tmp_path)) == COUNT
    before = len(site.asked)
    assert typed(site, tmp_path).exit_code == 0
    assert len(site.asked) == before


def test_the_data_root_may_be_an_environment_variable(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSENET_DATA", str(tmp_path))
    assert CliRunner().invoke(main, ["fetch", "duts-te", "--url", site.url]).exit_code == 0
    monkeypatch.delenv("POSENET_DATA")
    missing = CliRunner().invoke(main, ["fetch", "duts-te", "--url", site.url])
    assert (missing.exit_code, "give --data-root DIR or set POSENET_DATA" in missing.stderr) == (2, True)


def test_dropped_lines_are_resumed_where_they_broke(site: Site, tmp_path: Path) -> None:
    site.drops = [3000, 0, 0, 2000]  # progress sets the count of failures back
    assert typed(site, tmp_path).exit_code == 0
    assert site.asked == [None, "bytes=3000-", "bytes=3000-", "bytes=3000-", "bytes=5000-"]
    whole(site, tmp_path)


def test_a_later_command_goes_on_where_an_earlier_one_gave_up(site: Site, tmp_path: Path) -> None:
    site.drops = [4000, 0, 0, 0, 0]
    gave_up = typed(site, tmp_path)
    assert gave_up.exit_code == 1
    assert "4,000 bytes are kept in" in gave_up.stderr
    tries = [line for line in gave_up.stderr.splitlines() if "the connection ended early; attempt" in line]
    assert [line.split("attempt ")[1][:6] for line in tries] == ["2 of 4", "3 of 4", "4 of 4"]
    assert "Traceback" not in gave_up.output
    site.drops, site.asked = [], []
    assert typed(site, tmp_path).exit_code == 0
    assert site.asked == ["bytes=4000-"]
    whole(site, tmp_path)


@pytest.mark.parametrize("kind", ["no ranges", "no validator", "a weak etag", "chunked"])
def test_without_safe_ranges_it_begins_again(site: Site, tmp_path: Path, kind: str) -> None:
    site.ranges = kind != "no ranges"
    site.etag = {"no validator": None, "a weak etag": 'W/"one"', "chunked": None}.get(kind, site.etag)
    site.chunked = kind == "chunked"
    site.drops = [3000, 4000]
    assert typed(site, tmp_path).exit_code == 0
    assert len(site.asked) == 3
    whole(site, tmp_path)


def test_a_file_that_changes_in_between_is_never_mixed(site: Site, tmp_path: Path) -> None:
    other = zipped(duts() | {"DUTS-TE/readme.txt": b"second edition"})

    def change(site: Site) -> None:
        site.data, site.etag = other, '"two"'

    site.drops, site.between = [3000], change
    assert typed(site, tmp_path).exit_code == 0
    assert site.asked == [None, "bytes=3000-"]
    whole(site, tmp_path)


def test_a_shorter_file_in_its_place_begins_again(site: Site, tmp_path: Path) -> None:
    """The server keeps its ETag and answers 416: what is here reaches beyond its end."""
    site.drops = [len(site.data) - 1, 0, 0, 0, 0]
    assert typed(site, tmp_path).exit_code == 1
    site.data, site.drops = zipped(duts(COUNT)), []
    part = tmp_path / ".DUTS-TE.zip.part"
    part.write_bytes(bytes(len(site.data) + 10))
    assert typed(site, tmp_path).exit_code == 0
    whole(site, tmp_path)


def test_a_busy_server_is_waited_for(site: Site, tmp_path: Path) -> None:
    site.statuses = [503, 429]
    assert typed(site, tmp_path).exit_code == 0
    whole(site, tmp_path)


def test_what_is_not_there_is_said_at_once(site: Site, tmp_path: Path) -> None:
    site.statuses = [404]
    done = typed(site, tmp_path)
    assert done.exit_code == 2
    assert "the server answers 404" in done.stderr
    assert "--url" in done.stderr
    assert len(site.asked) == 1


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://127.0.0.1/x.zip", "DUTS-TE.zip"])
def test_only_the_web_is_fetched_from(tmp_path: Path, url: str) -> None:
    with pytest.raises(UsageError, match="begins with http:// or https://"):
        fetches.fetch_duts("duts-te", tmp_path, url)


def test_another_digest_is_refused_and_the_file_removed(site: Site, tmp_path: Path) -> None:
    done = typed(site, tmp_path, "--sha256", "ab" * 32)
    assert done.exit_code == 1
    assert f"SHA-256 {hashlib.sha256(site.data).hexdigest()}, not {'ab' * 32}" in done.stderr
    assert list(tmp_path.iterdir()) == []
    right = hashlib.sha256(site.data).hexdigest().upper()
    assert typed(site, tmp_path, "--sha256", right).exit_code == 0
    assert typed(site, tmp_path, "--sha256", right).exit_code == 0
    other = typed(site, tmp_path, "--sha256", "ab" * 32)
    assert (other.exit_code, "move it away to fetch it again" in other.stderr) == (2, True)
    assert typed(site, tmp_path, "--sha256", "12").exit_code == 2


EVIL: dict[str, tuple[Callable[[], bytes], str]] = {
    "an absolute path": (lambda: zipped(duts() | {"/tmp/evil.txt": b"x"}), "lies outside"),
    "a way up": (lambda: zipped(duts() | {"DUTS-TE/../../evil.txt": b"x"}), "lies outside"),
    "a way up at the end": (lambda: zipped(duts() | {"DUTS-TE/..": b"x"}), "lies outside"),
    "a drive": (lambda: zipped(duts() | {"C:evil.txt": b"x"}), "no plain path"),
    "backslashes": (lambda: zipped(duts() | {"..\\evil.txt": b"x"}), "no plain path"),
    "a control character": (lambda: zipped(duts() | {"DUTS-TE/a\x1bb": b"x"}), "no plain path"),
    "an empty name": (lambda: zipped(duts() | {"EVIL": b"x"}).replace(b"EVIL", b"\0VIL"), "no plain path"),
    "a link": (lambda: zipped(duts() | {"DUTS-TE/link": b"/etc/passwd"}, ("DUTS-TE/link",)), "is a link"),
    "one name twice": (lambda: zipped(duts() | {"DUTS-TE/DUTS-TE-Image/1.JPG": b"x"}), "two entries of one name"),
    "a file for a folder": (lambda: zipped(duts() | {"DUTS-TE/DUTS-TE-Image": b"x"}), "not a valid zip"),
    "too few images": (lambda: zipped(duts(COUNT - 1)), "holds 4 images in DUTS-TE/DUTS-TE-Image, not 5"),
    "another archive": (lambda: zipped({"hello.txt": b"x"}), "holds 0 images"),
    "a page": (lambda: b"<html>moved</html>", "not a valid zip archive"),
    "a flipped bit": (lambda: flipped(zipped(duts())), "not a valid zip archive"),
}


def flipped(data: bytes) -> bytes:
    """One bit of the first image's compressed bytes."""
    offset = data.index(b"0.jpg") + 300
    return data[:offset] + bytes([data[offset] ^ 1]) + data[offset + 1 :]


@pytest.mark.parametrize("kind", EVIL)
def test_an_evil_or_broken_archive_leaves_nothing_behind(site: Site, tmp_path: Path, kind: str) -> None:
    root = tmp_path / "outer" / "data"
    make, message = EVIL[kind]
    site.data = make()
    done = typed(site, root)
    assert done.exit_code == 1
    assert message in done.stderr
    assert "Traceback" not in done.output
    assert list(root.iterdir()) == []
    assert list(tmp_path.rglob("evil*")) == []


def test_any_flipped_bit_in_the_end_of_an_archive_is_a_sentence_or_does_no_harm(tmp_path: Path) -> None:
    """The end is the directory: names, sizes, offsets, the way of compressing."""
    data = zipped({"DUTS-TE/0.jpg": b"image" * 20})
    archive, broken = tmp_path / "archive.zip", 0
    for bit in range(8 * data.index(b"PK\x01\x02"), 8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        archive.write_bytes(flipped)
        try:
            unpacks.unzip(archive, tmp_path / str(bit), 1 << 20)
        except PosenetStoreError:
            broken += 1
        shutil.rmtree(tmp_path / str(bit))
    assert broken > 250


def test_an_archive_whose_directory_is_damaged_is_removed(site: Site, tmp_path: Path) -> None:
    """Its offset lies before the start of the file."""
    whole_archive = site.data
    damaged = bytearray(whole_archive)
    damaged[-3] ^= 64  # the size of the archive's comment
    damaged[-6] ^= 64  # the offset of the directory
    site.data = bytes(damaged)
    done = typed(site, tmp_path)
    assert (done.exit_code, "the archive was removed" in done.stderr) == (1, True)
    assert list(tmp_path.iterdir()) == []
    site.data = whole_archive
    assert typed(site, tmp_path).exit_code == 0
    whole(site, tmp_path)


def test_an_archive_that_would_fill_the_disk_is_not_begun(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site.data = zipped(duts() | {"DUTS-TE/zeros": bytes(30_000_000)})
    monkeypatch.setattr(fetches, "LIMIT", 29_000_000)
    bomb = typed(site, tmp_path)
    assert bomb.exit_code == 1
    assert "nothing was unpacked" in bomb.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_disk_without_room_keeps_the_archive(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the disk's fault: with room again, nothing is downloaded twice."""
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=len(site.data) + 1))
        site.data = zipped(duts() | {"DUTS-TE/zeros": bytes(1_000_000)})
        done = typed(site, tmp_path)
    assert done.exit_code == 1
    assert "No space left on device" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == [".DUTS-TE.zip"]
    before = len(site.asked)
    assert typed(site, tmp_path).exit_code == 0
    assert len(site.asked) == before


def test_an_archive_that_says_less_than_it_holds_is_broken(tmp_path: Path) -> None:
    """A bomb that lies: nothing beyond the size in its directory is written."""
    data = bytearray(zipped({"a": bytes(100_000)}))
    directory = data.index(b"PK\x01\x02")
    data[directory + 24 : directory + 28] = (10).to_bytes(4, "little")
    (tmp_path / "liar.zip").write_bytes(data)
    with pytest.raises(PosenetStoreError, match="not a valid zip archive"):
        unpacks.unzip(tmp_path / "liar.zip", tmp_path / "out", 1000)
    assert (tmp_path / "out/a").stat().st_size <= 10


def test_a_folder_in_the_way_is_left_lock(site: Site, tmp_path: Path) -> None:
    images = tmp_path / "DUTS-TE/DUTS-TE-Image"
    images.mkdir(parents=True)
    (images / "mine.jpg").write_bytes(b"x")
    done = typed(site, tmp_path)
    assert done.exit_code == 2
    assert "exists and holds 1 images instead of 5" in done.stderr
    assert (images / "mine.jpg").read_bytes() == b"x"
    assert site.asked == []


def test_what_a_killed_command_left_is_removed(site: Site, tmp_path: Path) -> None:
    name = name_temporary(tmp_path / "DUTS-TE").name.replace(f"-{os.getpid()}-", "-4194305-")  # more than any process's number
    (tmp_path / name / "DUTS-TE").mkdir(parents=True)
    assert typed(site, tmp_path).exit_code == 0
    whole(site, tmp_path)


def test_two_fetches_into_one_root_do_not_meet(site: Site, tmp_path: Path) -> None:
    with lock_folder(tmp_path, "busy", print):
        done = typed(site, tmp_path)
    assert (done.exit_code, "another fetch into" in done.stderr) == (2, True)
    assert typed(site, tmp_path).exit_code == 0


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EBADF, errno.ENOTSUP])
def test_a_disk_without_locks_is_fetched_to_and_says_so(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """NFS without its lock daemon; NFS, which locks no folders; CIFS."""

    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fcntl.flock", refuse)
    done = typed(site, tmp_path)
    assert (done.exit_code, f"{tmp_path} can't be locked ({os.strerror(code)})" in done.stderr) == (0, True)
    whole(site, tmp_path)


def test_an_unknown_set_is_refused(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["fetch", "duts", "--data-root", str(tmp_path)])
    assert done.exit_code == 2
    assert "accepted: duts-te, duts-tr" in done.stderr
