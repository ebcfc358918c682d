"""Durable writes and stable encodings: what a power cut, a full disk or a damaged file may do."""

import errno
import fcntl
import hashlib
import math
import os
import stat
from pathlib import Path

import pytest

from posenet_store.errors import StoreError, UsageError
from posenet_store.files import (
    canonical_json,
    lock_folder,
    make_folder,
    read_json,
    replace_atomically,
    sha256,
    sha256_file,
    write_atomic,
    write_json,
)


def test_write_atomic_creates_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    write_atomic(path, b"old")
    write_atomic(path, b"new")
    assert path.read_bytes() == b"new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["record.json"]


def test_the_file_is_synced_before_it_gets_its_name_and_the_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "record.json"
    path.write_bytes(b"old")
    calls: list[tuple[int, bytes]] = []
    real = os.fsync

    def spy(descriptor: int) -> None:
        calls.append((os.fstat(descriptor).st_ino, path.read_bytes()))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", spy)
    write_atomic(path, b"new")
    # A rename keeps the inode, so the first call was on the temporary that is the file now.
    assert calls == [(path.stat().st_ino, b"old"), (tmp_path.stat().st_ino, b"new")]


def test_the_temporary_holds_all_bytes_when_it_is_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: sizes.append(os.fstat(descriptor).st_size))
    data = b"x" * 300_000  # more than any buffer of Python's
    write_atomic(tmp_path / "block", data)
    assert sizes[0] == len(data)


def test_the_temporary_lies_beside_the_file(tmp_path: Path) -> None:
    # A rename is one step only within one file system.
    folder = tmp_path / "deep"
    folder.mkdir()
    with replace_atomically(folder / "block") as first, replace_atomically(folder / "block") as second:
        assert first.parent == second.parent == folder
        assert len({first, second, folder / "block"}) == 3
        first.write_bytes(b"1")
        second.write_bytes(b"2")
    assert (folder / "block").read_bytes() == b"1"


@pytest.mark.parametrize("existed", [True, False])
def test_a_failed_sync_leaves_the_old_file_and_no_temporary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, existed: bool
) -> None:
    path = tmp_path / "record.json"
    if existed:
        path.write_bytes(b"old")

    def broken_disk(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken_disk)
    with pytest.raises(OSError, match="Input/output error"):
        write_atomic(path, b"new")
    assert {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()} == ({"record.json": b"old"} if existed else {})


def test_a_full_disk_leaves_the_old_file_and_no_temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "record.json"
    path.write_bytes(b"old")
    real = Path.write_bytes

    def half(self: Path, data: bytes) -> int:
        real(self, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(OSError, match="No space left"):
        write_atomic(path, b"new bytes")
    assert {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()} == {"record.json": b"old"}


def test_a_failed_rename_leaves_the_old_file_and_no_temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "record.json"
    path.write_bytes(b"old")

    def refused(self: Path, target: Path) -> Path:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "replace", refused)
    with pytest.raises(PermissionError):
        write_atomic(path, b"new")
    assert {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()} == {"record.json": b"old"}


def test_control_c_in_a_write_leaves_the_old_file_and_no_temporary(tmp_path: Path) -> None:
    path = tmp_path / "head"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), replace_atomically(path) as temporary:
        temporary.write_bytes(b"half")
        raise KeyboardInterrupt
    assert {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()} == {"head": b"old"}


def test_a_failure_of_the_folders_sync_is_not_swallowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def second_fails(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 2:
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", second_fails)
    with pytest.raises(OSError, match="Input/output error"):
        write_atomic(tmp_path / "record.json", b"new")
    assert [entry.name for entry in tmp_path.iterdir()] == ["record.json"]


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP])
def test_a_disk_that_cannot_sync_folders_is_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """CIFS and some FUSE file systems; a file that is not synced is still an error."""
    refused: list[bool] = []

    def sync(descriptor: int) -> None:
        folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        if folder is refuse_folders:
            refused.append(folder)
            raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", sync)
    refuse_folders = True
    write_atomic(tmp_path / "deep/er/record.json", b"new")
    assert (tmp_path / "deep/er/record.json").read_bytes() == b"new"
    assert refused == [True] * 3
    refuse_folders = False
    with pytest.raises(OSError, match=os.strerror(code)):
        write_atomic(tmp_path / "deep/er/record.json", b"newer")
    assert (tmp_path / "deep/er/record.json").read_bytes() == b"new"


def test_each_folder_that_is_made_is_synced_in_the_one_above(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[tuple[str, Path]] = []
    mkdir = os.mkdir

    def make(path: Path, *mode: int) -> None:
        events.append(("made", path))
        mkdir(path, *mode)

    monkeypatch.setattr(os, "mkdir", make)
    monkeypatch.setattr(os, "fsync", lambda number: events.append(("synced", Path(f"/proc/self/fd/{number}").readlink())))
    made = [tmp_path / "runs", tmp_path / "runs/table2", tmp_path / "runs/table2/cells"]
    make_folder(made[-1])
    assert events == [event for path in made for event in (("made", path), ("synced", path.parent))]
    make_folder(made[-1])
    assert len(events) == 6
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(FileExistsError, match="file"):
        make_folder(tmp_path / "file")


def test_json_round_trip_is_exact(tmp_path: Path) -> None:
    value = {"b": [1, 0.1 + 0.2, 5e-324, None, True], "a": {"name": "caf\u00e9\n\udce9"}}
    write_json(tmp_path / "plan.json", value)
    assert read_json(tmp_path / "plan.json") == value


def test_a_json_file_is_readable_and_ends_its_last_line(tmp_path: Path) -> None:
    write_json(tmp_path / "plan.json", {"b": 1, "a": 2})
    assert (tmp_path / "plan.json").read_text() == '{\n "a": 2,\n "b": 1\n}\n'


def test_json_is_written_atomically(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_json(tmp_path / "manifest.json", {"rows": 1})

    def broken_disk(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken_disk)
    with pytest.raises(OSError, match="Input/output error"):
        write_json(tmp_path / "manifest.json", {"rows": 2})
    assert read_json(tmp_path / "manifest.json") == {"rows": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["manifest.json"]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_json_refuses_what_is_not_a_number_and_keeps_the_old_file(tmp_path: Path, value: float) -> None:
    path = tmp_path / "scores.json"
    write_json(path, {"spc": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"spc": value})
    assert read_json(path) == {"spc": 1}
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json({"deep": [value]})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not valid JSON"),
        (b'{"rows": 5', "not valid JSON"),
        (b"\x00" * 40, "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b'{"rows": "\xff\xfe"}', "not valid JSON"),
        (b"[1, 2]", "holds a list, not an object"),
        (b'"text"', "holds a str, not an object"),
        (b"null", "holds a NoneType, not an object"),
    ],
)
def test_read_json_names_a_damaged_file(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "manifest.json"
    path.write_bytes(data)
    with pytest.raises(StoreError, match=message) as raised:
        read_json(path)
    assert str(path) in str(raised.value)
    assert "damaged" in str(raised.value)


def test_read_json_names_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(StoreError) as raised:
        read_json(tmp_path / "plan.json")
    assert str(raised.value) == f"{tmp_path / 'plan.json'} is missing"


def test_canonical_json_does_not_depend_on_the_order_of_keys() -> None:
    forward = {"a": 1, "b": {"c": [1, 2], "d": None}}
    backward = {"b": {"d": None, "c": (1, 2)}, "a": 1}
    assert canonical_json(forward) == canonical_json(backward) == b'{"a":1,"b":{"c":[1,2],"d":null}}'


def test_canonical_json_is_ascii_and_keeps_floats_exactly() -> None:
    assert canonical_json({"name": "caf\u00e9", "scale": 1 / 255}) == b'{"name":"caf\\u00e9","scale":0.00392156862745098}'


def test_digests_are_sha256(tmp_path: Path) -> None:
    data = bytes(range(256)) * 5000  # several of hashlib's read buffers
    (tmp_path / "shard").write_bytes(data)
    expected = hashlib.new("sha256", data).hexdigest()
    assert sha256(data) == sha256(memoryview(data)) == sha256_file(tmp_path / "shard") == expected
    assert sha256(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_folder_is_locked_once_and_free_again(tmp_path: Path) -> None:
    with lock_folder(tmp_path, "busy", pytest.fail), pytest.raises(UsageError, match=r"^busy$"):  # noqa: SIM117
        with lock_folder(tmp_path, "busy", pytest.fail):
            pass
    with lock_folder(tmp_path, "busy", pytest.fail):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_removed_while_it_is_locked_is_not_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another command ends between the opening and the locking: its file is gone, and a third may lock a new one."""
    lock, removed = fcntl.flock, list[int]()

    def remove_first(file: int, operation: int) -> None:
        if not removed:
            (tmp_path / ".lock").unlink()
            removed.append(1)
        lock(file, operation)

    monkeypatch.setattr("fcntl.flock", remove_first)
    with lock_folder(tmp_path, "busy", pytest.fail):
        assert (tmp_path / ".lock").exists()
        with pytest.raises(UsageError), lock_folder(tmp_path, "busy", pytest.fail):
            pass


def test_a_disk_that_fails_otherwise_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(file: int, operation: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("fcntl.flock", fail)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)), lock_folder(tmp_path, "busy", pytest.fail):
        pass
