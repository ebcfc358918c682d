"""Images on a disk that fails: for a moment nobody notices, for longer the command stops, and no row is given up for it."""

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from posenet_store.cli import main
from posenet_store.errors import BuildError, ImageError
from posenet_store.extraction.build import build_store, plan_store
from posenet_store.files import sha256_file
from posenet_store.images import reading
from posenet_store.images.image_set import load_folder
from posenet_store.images.reading import WAITS, hash_image, read_image
from posenet_store.images.sources import load_image_set
from posenet_store.store.reader import open_store
from tests.support.small import built_store, contents, folder, tiny_backbone, write_images

MOMENTARY = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that were made, none of which takes time."""
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    return waits


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_images(tmp_path / "photos", 6)


def fail(patch: pytest.MonkeyPatch, name: str, code: int, times: int) -> None:
    """Let the first reads of a file fail, whether it is hashed or read."""
    left = [times]

    def failing(real: Callable[..., Any]) -> Callable[..., Any]:
        def read(path: Path, *words: Any) -> Any:
            if path.name == name and left[0]:
                left[0] -= 1
                raise OSError(code, os.strerror(code), str(path))
            return real(path, *words)

        return read

    patch.setattr(reading, "sha256_file", failing(sha256_file))
    patch.setattr(Path, "read_bytes", failing(Path.read_bytes))


@pytest.mark.parametrize("code", MOMENTARY)
def test_a_moments_trouble_leaves_no_trace(
    photos: Path, waits: list[float], monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    path = photos / "image003.png"
    digest = hash_image(path)
    fail(monkeypatch, path.name, code, len(WAITS))
    assert hash_image(path) == digest
    fail(monkeypatch, path.name, code, len(WAITS))
    assert read_image(path, digest) == path.read_bytes()
    assert waits == [*WAITS, *WAITS]


@pytest.mark.parametrize("code", [*MOMENTARY, errno.EACCES, errno.ENOENT])
def test_what_the_disk_refuses_for_longer_is_an_error_that_names_it(
    photos: Path, waits: list[float], monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    digest = hash_image(photos / "image003.png")
    fail(monkeypatch, "image003.png", code, 2 * (len(WAITS) + 1))
    for read in (lambda: hash_image(photos / "image003.png"), lambda: read_image(photos / "image003.png", digest)):
        with pytest.raises(BuildError, match=rf"image003\.png can't be read \({os.strerror(code)}\), 4 times in 7 s"):
            read()
    assert waits == [*WAITS, *WAITS]


def test_a_file_that_was_read_while_it_was_written_is_read_again(photos: Path, waits: list[float]) -> None:
    path = photos / "image003.png"
    digest, data = hash_image(path), path.read_bytes()
    path.write_bytes(data[:100])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "sleep", lambda seconds: path.write_bytes(data))
        assert read_image(path, digest) == data
    path.write_bytes(data[:100])
    with pytest.raises(BuildError, match="it changed while the store was being built"):
        read_image(path, digest)


def test_a_broken_link_is_a_reason_of_the_file(tmp_path: Path, waits: list[float]) -> None:
    (tmp_path / "a.png").symlink_to("nowhere")
    digest = hash_image(tmp_path / "a.png")
    with pytest.raises(ImageError, match="can't be read: No such file"):
        read_image(tmp_path / "a.png", digest)
    assert waits == []


def test_a_disk_that_fails_while_images_are_hashed_begins_no_second_store(
    photos: Path, tmp_path: Path, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [
        "build-store",
        "--backbone",
        "pixels",
        "--images",
        str(photos),
        "--stores",
        str(tmp_path / "stores"),
        "--no-probes",
    ]
    with monkeypatch.context() as patch:
        fail(patch, "image003.png", errno.EIO, 100)
        refused = CliRunner().invoke(main, words)
    assert (refused.exit_code, "image003.png can't be read (Input/output error)" in refused.stderr) == (1, True)
    assert not list((tmp_path / "stores").glob("*"))
    fail(monkeypatch, "image003.png", errno.EIO, 2)
    assert CliRunner().invoke(main, words).exit_code == 0
    (store,) = (tmp_path / "stores").iterdir()
    assert open_store(store).readable.all()


def test_a_disk_that_fails_while_the_store_is_built_costs_no_row(
    photos: Path, tmp_path: Path, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    images, backbone = load_folder(photos), tiny_backbone()
    expected = built_store(tmp_path / "whole", images, backbone)
    plan, last = plan_store(images, backbone, "native", "float32", 4), expected.ids[-1]
    with monkeypatch.context() as patch:
        fail(patch, last, errno.ESTALE, 100)
        with pytest.raises(BuildError, match=rf"{last} can't be read"):
            build_store(images, backbone, plan, tmp_path / "stores", batch_size=2)
    fail(monkeypatch, last, errno.ESTALE, 1)
    outcome = build_store(images, backbone, plan, tmp_path / "stores", batch_size=2)
    assert (outcome.extracted, outcome.quarantined) == (2, ())
    assert contents(outcome.path) == contents(folder(expected))


def test_only_what_is_asked_for_is_hashed_and_in_pieces(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[str] = []
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail("a file is read whole"))

    def listen(path: Path) -> str:
        hashed.append(path.name)
        return sha256_file(path)

    monkeypatch.setattr(reading, "sha256_file", listen)
    steps: list[tuple[int, int]] = []
    images = load_image_set(photos, limit=2, advance=lambda done, total: steps.append((done, total)))
    assert (images.ids, sorted(hashed), steps) == (("image000.png", "image001.png"), list(images.ids), [(1, 2), (2, 2)])
    assert images.sha256 == load_image_set(photos).take(2).sha256


def test_hashing_is_shown_where_there_is_no_terminal(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("posenet_store.cli.output.SECONDS_A_LINE", -1.0)
    words = ["build-store", "--backbone", "pixels", "--images", str(photos), "--stores", str(tmp_path / "stores"), "--plan"]
    assert "hashing photos: 6 of 6 images" in CliRunner().invoke(main, words).stderr


@pytest.mark.parametrize(
    ("name", "label"), [(b"x" * 220, "x" * 220), (b"caf\xe9", "caf\\xe9"), ("鳥".encode() * 80, "鳥" * 80)]
)
def test_a_folder_of_any_name_has_a_store(tmp_path: Path, name: bytes, label: str) -> None:
    photos = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
    try:
        photos.mkdir()
    except OSError as error:
        pytest.skip(f"this file system refuses such names: {error}")
    reader = built_store(tmp_path / "stores", load_folder(write_images(photos, 2)), tiny_backbone(), "aligned")
    assert (reader.spec.images, len(reader.spec.images.encode()) > 0) == (label, True)
    assert folder(reader).name.endswith(f"-{reader.spec.fingerprint[:8]}")
    listed = CliRunner().invoke(main, ["stores", "--stores", str(tmp_path / "stores")])
    assert (listed.exit_code, label[:20] in listed.stdout) == (0, True)
