"""The cache of digests: unchanged files are not read again, changed ones always, and no state of it does harm."""

import json
import os
import threading
from pathlib import Path

import pytest

from posenet_store.errors import BuildError
from posenet_store.images import hash_cache, reading
from posenet_store.images.hash_cache import HashCache, find_cache_folder
from posenet_store.images.image_set import ImageSet, load_folder
from tests.support.small import write_images


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the digests; files count as old at once."""
    monkeypatch.setenv("POSENET_HASH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hash_cache, "RECENT", -60.0)
    return tmp_path / "cache"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_images(tmp_path / "photos", 4)


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are read to be hashed."""
    names: list[str] = []
    real = reading._hash

    def note(path: reading.ImageFile) -> str:
        names.append(Path(str(path)).name)
        return real(path)

    monkeypatch.setattr(reading, "_hash", note)
    return names


def test_unchanged_files_are_not_read_again(cache: Path, photos: Path, hashed: list[str]) -> None:
    first = load_folder(photos)
    assert len(hashed) == 4
    hashed.clear()
    assert load_folder(photos).digests == first.digests
    assert hashed == []
    write_images(photos, 5)  # image004 is new, the others are written again
    assert load_folder(photos, limit=2).digests == first.digests[:2]
    assert sorted(hashed) == ["image000.png", "image001.png"]


@pytest.mark.parametrize("keep_time", [False, True], ids=["later", "same time"])
@pytest.mark.parametrize("way", ["in place", "replaced"])
def test_a_changed_file_is_hashed_again(cache: Path, photos: Path, hashed: list[str], way: str, keep_time: bool) -> None:
    """Also one of the same size whose time of change was set back, as `cp -p` and `rsync -t` do."""
    path, before = photos / "image002.png", load_folder(photos)
    status, data = path.stat(), path.read_bytes()
    changed = data[:-1] + bytes([data[-1] ^ 1])
    if way == "replaced":
        (photos / "other").write_bytes(changed)
        (photos / "other").replace(path)
    else:
        path.write_bytes(changed)
    if keep_time:
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    hashed.clear()
    digests = load_folder(photos).digests
    assert hashed == ["image002.png"]
    assert [a != b for a, b in zip(before.digests, digests, strict=True)] == [False, False, True, False]


def test_a_file_that_has_just_changed_is_hashed_again(
    cache: Path, photos: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hash_cache, "RECENT", 60.0)
    for _ in range(2):
        load_folder(photos)
    assert len(hashed) == 8
    assert not cache.exists()


@pytest.mark.parametrize(
    "harm", ["", "{", "[]", '{"image000.png": 5}', '{"image000.png": []}', '{"image000.png": [1, 2, 3, 4, "x"]}', "\0" * 99]
)
def test_a_damaged_cache_is_none(cache: Path, photos: Path, hashed: list[str], harm: str) -> None:
    first = load_folder(photos)
    (file,) = cache.iterdir()
    file.write_text(harm)
    hashed.clear()
    assert load_folder(photos).digests == first.digests
    assert "image000.png" in hashed
    hashed.clear()
    load_folder(photos)
    assert hashed == []


def test_a_digest_of_the_right_identity_that_is_none_is_not_believed(cache: Path, photos: Path) -> None:
    first = load_folder(photos)
    (file,) = cache.iterdir()
    entries = json.loads(file.read_text())
    for wrong in ("unreadable: ../../x", "0" * 63, 7, None, [1]):
        file.write_text(json.dumps({name: [*entry[:-1], wrong] for name, entry in entries.items()}))
        assert load_folder(photos).digests == first.digests


def test_a_wrong_digest_is_noticed_when_the_image_is_read_and_goes(
    cache: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "WAITS", ())
    first = load_folder(photos)
    (file,) = cache.iterdir()
    file.write_text(file.read_text().replace(first.digests[0], "0" * 64))
    wrong = load_folder(photos)
    with pytest.raises(BuildError):
        wrong.read(0, 28)
    assert load_folder(photos).digests == first.digests


def test_what_can_not_be_written_is_hashed(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(hash_cache, "RECENT", -60.0)
    for value in ("off", str(tmp_path / "file" / "below"), "/proc/none"):
        monkeypatch.setenv("POSENET_HASH_CACHE", value)
        assert len(load_folder(photos)) == 4


def test_commands_at_once_do_no_harm(cache: Path, photos: Path) -> None:
    expected, results = load_folder(photos).digests, list[ImageSet]()
    threads = [threading.Thread(target=lambda: results.append(load_folder(photos))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {images.digests for images in results} == {expected}
    assert [path.suffix for path in cache.iterdir()] == [".json"]


def test_the_folder_is_the_users_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("POSENET_HASH_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/cache/mine")
    assert find_cache_folder() == Path("/var/cache/mine/posenet-store/hashes")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/reader")
    assert find_cache_folder() == Path("/home/reader/.cache/posenet-store/hashes")
    monkeypatch.setenv("XDG_CACHE_HOME", "not/absolute")
    assert find_cache_folder() is None


def test_a_file_that_changes_while_it_is_hashed_is_not_kept(cache: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = photos / "image000.png"

    def change(file: Path) -> str:
        with path.open("ab") as end:
            end.write(b"x")
        return "0" * 64

    monkeypatch.setattr(hash_cache, "hash_image", change)
    first = HashCache(cache / "a.json")
    assert first.hash("image000.png", path) == "0" * 64
    assert first.entries == {}
