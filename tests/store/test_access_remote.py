"""Stores behind URLs: real servers on loopback, the same rows and the same errors as from a folder."""

import multiprocessing
import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from posenet_store.errors import PosenetStoreError, StoreError, UsageError
from posenet_store.images.sources import load_image_set
from posenet_store.specs import FORMATS
from posenet_store.store import access_remote as remote
from posenet_store.store.reader import Reader, open_store
from tests.support.bad_server import Behaviour, serve_badly
from tests.support.servers import serve
from tests.support.small import built_store, tiny_backbone, write_images

ROWS = 14


@pytest.fixture(scope="module")
def readers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Reader]:
    root = tmp_path_factory.mktemp("remote")
    images = load_image_set(str(write_images(root / "photos", ROWS)))
    return {name: built_store(root / "stores", images, tiny_backbone(), file_format=name) for name in FORMATS}


@pytest.fixture(params=FORMATS)
def local(request: pytest.FixtureRequest, readers: dict[str, Reader], tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    store = Path(str(readers[request.param].files))
    return Path(shutil.copytree(store, tmp_path / "served" / store.name))


@pytest.fixture
def url(local: Path) -> Iterator[str]:
    with serve(local) as location:
        yield location


def test_a_static_web_server_gives_the_same_rows(local: Path, url: str) -> None:
    near, far = open_store(local), open_store(url)
    assert (far.ids, far.name) == (near.ids, near.name)
    for name in near.spec.arrays:
        np.testing.assert_array_equal(far.read(name, 3, 13), near.read(name, 3, 13))
    for batch, other in zip(far.torch(["f2"], 4), near.torch(["f2"], 4), strict=True):
        np.testing.assert_array_equal(batch["f2"].numpy(), other["f2"].numpy())
    with far.xarray() as data:
        np.testing.assert_array_equal(data["f3"].values, near.read("f3", 0, ROWS))


def test_a_file_url_is_a_path(local: Path) -> None:
    spaced = local.rename(local.with_name("with a space"))
    far = open_store(spaced.as_uri())
    np.testing.assert_array_equal(far.read("f1", 0, ROWS), open_store(spaced).read("f1", 0, ROWS))


@pytest.mark.parametrize("harm", ["delete", "truncate", "flip"])
@pytest.mark.parametrize("kind", ["data", "record", "manifest", "plan"])
def test_damage_on_the_server_is_an_error_that_names_the_file(local: Path, url: str, kind: str, harm: str) -> None:
    data = next(iter([*local.glob("data.zarr/f2/c.1.*"), *local.glob("parts/part-00001.h5")]))
    path = {"data": data, "record": local / "commits/b00001.json"}.get(kind, local / f"{kind}.json")
    content = path.read_bytes()
    middle = len(content) // 2
    flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    path.unlink() if harm == "delete" else path.write_bytes(content[:-9] if harm == "truncate" else flipped)
    with pytest.raises(StoreError, match="not sealed" if (kind, harm) == ("manifest", "delete") else path.name):
        open_store(url).read("f2", 0, ROWS)


@pytest.mark.system
def test_a_server_that_does_not_answer_is_an_error_that_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(StoreError, match=f"http://127.0.0.1:{port}/stores/x/plan.json can't be read"):
        open_store(f"http://127.0.0.1:{port}/stores/x")


def test_what_is_no_store_says_so(url: str) -> None:
    with pytest.raises(UsageError, match=r"is not a store: it has no plan\.json"):
        open_store(url + "/commits")


def test_memory_for_files_is_bounded(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "CACHE_BYTES", 100_000)
    far = open_store(url)
    for name in far.spec.arrays:
        far.read(name, 0, ROWS)
    assert isinstance(far.files, remote.RemoteFiles)
    sizes = [len(file.data) for file in far.files._cache.values()]
    assert sum(sizes) <= 100_000 or len(sizes) == 1


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pauses, and nothing that comes before an answer breaks off is lost."""
    monkeypatch.setattr(remote, "WAITS", (0.0,) * 4)
    monkeypatch.setattr(remote, "PIECE_BYTES", 1)


def _is_data(name: str) -> bool:
    return name.startswith(("c.1", "part-00001"))


def test_an_answer_that_was_damaged_on_its_way_is_fetched_again(local: Path) -> None:
    behaviour = Behaviour(damage=lambda name, number: _is_data(name) and number == 0)
    with serve_badly(local, behaviour) as url:
        np.testing.assert_array_equal(open_store(url).read("f2"), open_store(local).read("f2"))
    assert max(behaviour.count(asked) for _, asked, _ in behaviour.requests if "1" in asked.rsplit("/")[-1]) == 2


def test_what_is_damaged_on_the_server_is_said_and_read_once_it_is_restored(local: Path) -> None:
    damaged = [True]
    with serve_badly(local, Behaviour(damage=lambda name, number: _is_data(name) and damaged[0])) as url:
        reader = open_store(url)
        with pytest.raises(StoreError, match=r"holds other bytes than were written; .*copy it to the server again"):
            reader.read("f2")
        damaged[0] = False
        np.testing.assert_array_equal(reader.read("f2"), open_store(local).read("f2"))


@pytest.mark.parametrize("ranges", [True, False])
def test_a_body_that_is_cut_is_fetched_to_its_end(local: Path, impatient: None, ranges: bool) -> None:
    """The server gives no ETag, so that obstore does not try again by itself."""
    with serve_badly(local, Behaviour(ranges=ranges, cut=lambda name, number: number == 0)) as url:
        np.testing.assert_array_equal(open_store(url).read("f1"), open_store(local).read("f1"))


def test_a_line_that_is_reset_again_and_again_gets_on(local: Path, impatient: None) -> None:
    behaviour = Behaviour(limit=2000)
    with serve_badly(local, behaviour) as url:
        np.testing.assert_array_equal(open_store(url).read("f1", 0, 4), open_store(local).read("f1", 0, 4))
    assert max(behaviour.count(asked) for _, asked, _ in behaviour.requests) > len(remote.WAITS) + 1


def test_a_line_that_never_brings_a_byte_is_given_up(local: Path, impatient: None) -> None:
    behaviour = Behaviour(limit=0)
    with serve_badly(local, behaviour) as url, pytest.raises(StoreError, match=r"plan.json can't be read: .* reachable"):
        open_store(url)
    assert behaviour.count("plan.json") == len(remote.WAITS) + 1


def test_a_store_in_the_making_behind_a_url_is_to_be_copied_again(local: Path, url: str) -> None:
    (local / "manifest.json").unlink()
    with pytest.raises(StoreError, match=r"is not sealed: .*copy it to the server again"):
        open_store(url)


def _read_in_child(reader: Reader, answers: "multiprocessing.SimpleQueue[str]") -> None:
    try:
        reader.read("f1", 0, 2)
        answers.put("read")
    except PosenetStoreError as error:
        answers.put(str(error))


@pytest.mark.system
@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
def test_a_fork_is_an_error_that_says_what_to_do_not_a_hang(url: str) -> None:
    answers: multiprocessing.SimpleQueue[str] = multiprocessing.get_context("fork").SimpleQueue()
    process = multiprocessing.get_context("fork").Process(target=_read_in_child, args=(open_store(url), answers))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    assert "multiprocessing_context='spawn'" in answers.get()


@pytest.mark.parametrize("url", ["ftp://host/store", "memory://x"])
def test_an_unknown_scheme_names_the_known(url: str) -> None:
    with pytest.raises(UsageError, match=r"accepted: a path, file://, http://"):
        open_store(url)


@pytest.mark.parametrize("url", ["http://", "s3://"])
def test_a_url_without_a_host_is_a_usage_error(url: str) -> None:
    with pytest.raises(UsageError, match="can't be opened"):
        open_store(url)


def test_without_obstore_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'posenet-store\[remote\]'"):
        open_store("https://example.org/store")


def test_an_s3_bucket_gives_the_same_rows(local: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real S3 protocol, spoken by moto's server."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        settings = {"ENDPOINT": f"http://{host}:{port}", "ACCESS_KEY_ID": "x", "SECRET_ACCESS_KEY": "x", "REGION": "us-east-1"}
        for key, value in (settings | {"ALLOW_HTTP": "true"}).items():
            monkeypatch.setenv(f"AWS_{key}", value)
        _upload(local, settings["ENDPOINT"])
        far = open_store(f"s3://lab/stores/{local.name}")
        np.testing.assert_array_equal(far.read("f2", 0, ROWS), open_store(local).read("f2", 0, ROWS))
        with pytest.raises(UsageError, match="not a store"):
            open_store("s3://lab/stores/absent")
    finally:
        server.stop()


def _upload(store: Path, endpoint: str) -> None:
    import boto3

    client = boto3.client("s3", endpoint_url=endpoint)
    client.create_bucket(Bucket="lab")
    for path in (path for path in store.rglob("*") if path.is_file()):
        client.upload_file(str(path), "lab", f"stores/{store.name}/{path.relative_to(store).as_posix()}")
