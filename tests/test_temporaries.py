"""Temporaries of killed processes are told from those of living ones, on this machine and on others."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from posenet_store import temporaries
from posenet_store.temporaries import MAX_PAUSE, is_abandoned, name_temporary, remove_abandoned

NAMED = re.compile(r"^\.record\.json\.[0-9a-f]{8}-(\d+)-(\d+)-[0-9a-f]{8}\.tmp$")


def name_of(process: int, start: int | str, machine: str | None = None) -> str:
    """Return the name of a temporary of a process."""
    return f".record.json.{machine or temporaries._identify_machine()}-{process}-{start}-00000000.tmp"


def make(folder: Path, name: str) -> Path:
    (folder / name).write_bytes(b"half of it")
    return folder / name


def test_a_name_is_unique_hidden_and_has_its_owner(tmp_path: Path) -> None:
    first, second = name_temporary(tmp_path / "record.json"), name_temporary(tmp_path / "record.json")
    assert first != second
    assert first.parent == tmp_path
    owner = NAMED.match(first.name)
    assert owner
    assert int(owner[1]) == os.getpid()
    assert int(owner[2]) > 0


def test_what_a_living_process_owns_stays(tmp_path: Path) -> None:
    own = make(tmp_path, name_temporary(tmp_path / "record.json").name)
    os.utime(own, (0, 0))
    other = make(tmp_path, name_of(1, temporaries._read_stat(1)[19]))
    remove_abandoned([own, other])
    assert own.is_file()
    assert other.is_file()


@pytest.mark.parametrize("ended", ["reaped", "zombie", "number given again"])
def test_what_an_ended_process_owned_goes_at_once(tmp_path: Path, ended: str) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        start = temporaries._read_stat(process.pid)[19]
        name = name_of(process.pid, start if ended != "number given again" else int(start) - 1)
        file, folder = make(tmp_path, name), tmp_path / f"{name[:-12]}11111111.tmp"
        (folder / "commits").mkdir(parents=True)
        if ended != "number given again":
            assert not is_abandoned(file)
            process.kill()
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # ended, and not reaped
        if ended == "reaped":
            process.wait()
        remove_abandoned([file, folder])
        assert list(tmp_path.iterdir()) == []
        process.kill()


@pytest.mark.parametrize("name", [name_of(1, 1, "0badcafe"), ".record.json.abc.tmp", ".record.json.tmp"])
def test_what_another_machine_owns_goes_when_it_has_not_changed_for_an_hour(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    path, now = make(tmp_path, name), time.time()
    os.utime(path, (0, 0))  # the time of a file that was renamed is that of its last change
    remove_abandoned([path])
    assert path.is_file()
    for passed, abandoned in ((MAX_PAUSE - 60, False), (MAX_PAUSE + 60, True)):
        monkeypatch.setattr(time, "time", lambda passed=passed: now + passed)
        assert is_abandoned(path) is abandoned
    remove_abandoned([path])
    assert not path.exists()
    assert not is_abandoned(path)


def test_nothing_is_known_without_proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hidden(path: Path, *args: object, **options: object) -> bytes:
        raise PermissionError(path)

    own = name_temporary(tmp_path / "record.json")
    monkeypatch.setattr(Path, "read_bytes", hidden)
    monkeypatch.setattr(Path, "read_text", hidden)
    assert temporaries._is_alive(os.getpid(), "1")  # another user's process may be hidden
    assert temporaries._identify_machine.__wrapped__() != temporaries._identify_machine.__wrapped__()
    assert not is_abandoned(make(tmp_path, own.name))


def test_links_stay_and_are_not_followed(tmp_path: Path) -> None:
    target, link = make(tmp_path, "precious"), tmp_path / name_of(2**22 + 1, 1)
    link.symlink_to(target)
    remove_abandoned([link])
    assert link.is_symlink()
    assert target.is_file()


def test_what_cannot_be_removed_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(path)

    path = make(tmp_path, name_of(2**22 + 1, 1))
    monkeypatch.setattr(Path, "unlink", refuse)
    remove_abandoned([path])
    assert path.is_file()
