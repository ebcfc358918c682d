"""Every fault of a disk or of a colleague while a store is built: an error that says so, and the same command goes on.

docs/faults.md says the same for people.
"""

import errno
import itertools
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from posenet_store.cli import main
from posenet_store.extraction import build
from posenet_store.files import sha256_file
from posenet_store.images.sources import load_image_set
from posenet_store.store.reader import open_store
from tests.support.disks import mount_disk
from tests.support.lab import ROWS, Lab, remove
from tests.support.processes import waited
from tests.support.small import tiny_backbone
from tests.system.torture import one_build

RECORD = "commits/b00001.json"


def breaking(real: Callable[..., Any], calls: Iterator[int], number: int, late: bool) -> Callable[..., Any]:
    """The n-th of `calls` fails; or, late, it succeeds and says that it failed, as NFS may."""

    def call(*words: Any) -> Any:
        fails = next(calls) == number
        result = real(*words) if late or not fails else None
        if fails:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(words[-1]))
        return result

    return call


NAMINGS = ((Path, "rename"), (Path, "replace"), (os, "link"))


@pytest.mark.parametrize(
    ("functions", "late", "least"), [(((os, "fsync"),), False, 14), (NAMINGS, False, 6), (NAMINGS, True, 6)]
)
def test_each_single_failure_of_the_disk_costs_the_block_in_hand(
    lab: Lab, functions: Sequence[tuple[Any, str]], late: bool, least: int
) -> None:
    few = lab.images.take(6)  # a block and a tail
    lab.build(lab.root / "whole", few)
    (sound,) = (lab.root / "whole").iterdir()
    for number in itertools.count(1):
        store, failed, calls = lab.root / str(number) / sound.name, False, itertools.count(1)
        with pytest.MonkeyPatch.context() as patch:
            for owner, name in functions:
                patch.setattr(owner, name, breaking(getattr(owner, name), calls, number, late))
            try:
                lab.build(store.parent, few)
            except OSError as error:
                failed = error.errno == errno.EIO
        if next(calls) <= number:  # there is no n-th call
            break
        assert lab.is_sound(store, sound) or (failed and not (store / "manifest.json").exists())
        assert not list(store.rglob("*.tmp"))
        safe = [(store / f"commits/b0000{block}.json").exists() for block in range(2)]
        assert lab.build(store.parent, few) == 6 - 4 * safe[0] - 2 * safe[1]
        assert lab.is_sound(store, sound)
    assert number > least


def build_at(barrier: Barrier, *words: Any) -> None:
    barrier.wait()
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(build, "check_space", lambda *_: None)  # it would refuse a small disk before anything is written
            one_build(*words)
    except OSError as error:
        os._exit(error.errno or 255)


def build_in_processes(count: int, *words: object) -> list[int | None]:
    """Let `count` builds begin at once; return their exit codes: 0, or the number of an OSError."""
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["support"])
    barrier = processes.Barrier(count)
    children = [processes.Process(target=build_at, args=(barrier, *words)) for _ in range(count)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    return [child.exitcode for child in children]


def test_a_full_disk_is_an_error_that_says_so(lab: Lab) -> None:
    """test_extract.py fills a disk too; here in a process of its own, which HDF5 would take with it if it wrote the file."""
    with mount_disk(disk := lab.root / "disk", "200k") as remount:
        codes = build_in_processes(1, lab.photos, disk, lab.name)
        assert not list(disk.rglob("*.tmp"))
        remount("size=8m")
        assert 0 < lab.build(disk) < ROWS
        assert lab.is_sound(disk / lab.sound.name)
    assert codes == [errno.ENOSPC]


def test_a_read_only_disk_is_read_and_never_half_written(lab: Lab) -> None:
    with mount_disk(lab.root / "disk", "8m") as remount:
        sealed, half, damaged = lab.copy("disk/whole"), lab.unfinished("disk/half"), lab.copy("disk/damaged")
        remove(damaged / RECORD)
        remount("ro")
        assert lab.is_sound(sealed)
        assert lab.build(sealed.parent) == 0
        with pytest.raises(OSError, match="Read-only file system"):
            lab.build(half.parent)
        refused = lab.verify_repair(damaged)
        assert (refused.exit_code, "error: Read-only file system (" in refused.stderr) == (1, True)
        remount("rw")
        assert lab.build(half.parent) == 10
        assert lab.is_sound(half)


def test_a_folder_without_permission_is_an_error_that_names_it(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    half, user = lab.unfinished(), os.geteuid()
    shutil.copytree(lab.photos, lab.root / "photos")
    folders = [path for path in (lab.root, *lab.root.rglob("*")) if path.is_dir()]
    for folder in folders:
        folder.chmod(0o555)
    monkeypatch.chdir(lab.root)  # root may write everywhere; another may not even look into the folders above
    images, before = load_image_set("./photos"), snapshot(lab.root)
    os.seteuid(user or 65534)
    try:
        for root in ("half", "new"):
            with pytest.raises(PermissionError, match=f"Permission denied.*{root}|{root}.*Permission denied"):
                lab.build(Path(root), images)
    finally:
        os.seteuid(user)
    assert snapshot(lab.root) == before
    for folder in folders:
        folder.chmod(0o755)
    assert lab.build(half.parent) == 10
    assert lab.is_sound(half)


def snapshot(folder: Path) -> dict[Path, tuple[int, str]]:
    return {p: (p.stat().st_mtime_ns, "" if p.is_dir() else sha256_file(p)) for p in [folder, *folder.rglob("*")]}


def test_reading_never_writes(lab: Lab) -> None:
    store = lab.copy()
    before = snapshot(lab.root)
    assert lab.is_sound(store)
    assert sum(len(b["f1"]) for b in open_store(store).batches(["f1"], 0, ROWS, batch_size=3, seed=0, epoch=0)) == ROWS
    for words in (["verify", store, "--deep"], ["inspect", store], ["stores", "--stores", store.parent]):
        assert CliRunner().invoke(main, list(map(str, words))).exit_code == 0
    assert snapshot(lab.root) == before


@pytest.mark.parametrize("changed", ["weights", "preprocessing", "image"])
def test_another_input_on_resume_is_another_store(lab: Lab, changed: str) -> None:
    store, network = lab.unfinished(), tiny_backbone(seed=int(changed == "weights"))
    before = snapshot(store)
    if changed == "preprocessing":
        network = replace(network, preprocess=replace(network.preprocess, mean=(0.4, 0.5, 0.5)))
    folder = Path(shutil.copytree(lab.photos, lab.root / "photos"))
    if changed == "image":
        shutil.copy(folder / "image001.png", folder / "image000.png")
    assert lab.build(store.parent, load_image_set(str(folder)), network) == ROWS
    assert len(list(store.parent.iterdir())) == 2
    assert snapshot(store) == before
    assert lab.build(store.parent) == 10
    assert lab.is_sound(store)


def test_a_wrong_clock_changes_no_data(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("posenet_store.extraction.build.collect_provenance", lambda: {"time": "1970-01-01T00:00:00+00:00"})
    lab.build(lab.root)
    assert lab.is_sound(lab.root / lab.sound.name)


def test_two_builders_at_once_make_one_store(lab: Lab) -> None:
    assert build_in_processes(2, lab.photos, lab.root, lab.name) == [0, 0]
    assert [path.name for path in lab.root.iterdir()] == [lab.sound.name]
    assert lab.is_sound(lab.root / lab.sound.name)


def test_a_builder_that_is_overtaken_does_no_harm(lab: Lab) -> None:
    """After the first block of one build another runs from beginning to end; from then on the store is whole."""
    seen: list[bool] = []

    def overtake(count: int) -> None:
        if count and not seen:
            assert waited((lab.root / lab.sound.name / "commits/b00000.json").exists, 60)
            assert lab.build(lab.root) == 10
        if count:
            seen.append(lab.is_sound(lab.root / lab.sound.name))

    assert lab.build(lab.root, advance=overtake) == ROWS
    assert seen == [True] * 4


SUSPENDED_BUILD = """
import os, signal, sys
from pathlib import Path
support, photos, stores, file_format = sys.argv[1:]
sys.path.insert(0, support)
from posenet_store.store.writer import StoreWriter
from tests.system.torture import one_build
listed = StoreWriter.list_missing
def list_missing(writer, deep=False):
    missing = listed(writer, deep)
    StoreWriter.list_missing = listed
    os.kill(os.getpid(), signal.SIGSTOP)
    return missing
StoreWriter.list_missing = list_missing
one_build(Path(photos), Path(stores), file_format)
"""


def test_a_builder_that_was_suspended_leaves_a_store_that_another_has_sealed_as_it_is(lab: Lab) -> None:
    words = [str(Path(__file__).parents[2]), str(lab.photos), str(lab.root), lab.name]
    child = subprocess.Popen([sys.executable, "-c", SUSPENDED_BUILD, *words])
    _, status = os.waitpid(child.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    assert lab.build(lab.root) == ROWS
    before = snapshot(store := lab.root / lab.sound.name)
    child.send_signal(signal.SIGCONT)
    assert child.wait() == 0
    assert {path: facts for path, facts in snapshot(store).items() if facts[1]} == {p: f for p, f in before.items() if f[1]}
    assert lab.is_sound(store)
