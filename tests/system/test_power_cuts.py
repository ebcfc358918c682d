"""The power may go at any moment of a command: nothing wrong is read afterwards, and the same command completes the work.

Every state in which a cut could leave the folder is looked at (see `tests.support.power_cuts`): open, verify deeply, read,
run again, compare with what an undisturbed command gives. The summary says how many states there were.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import h5py
import numpy as np
import pytest
import zarr
from safetensors.numpy import save_file

from posenet_store import files
from posenet_store.images import download
from posenet_store.images.sources import DUTS
from posenet_store.specs import FORMATS
from posenet_store.store import exclusive
from tests.images.test_duts import COUNT, Site, duts, handler, zipped
from tests.store.test_faults import cut, flip
from tests.support.cut_commands import Build, Convert, Fetch, Repair, Sweep
from tests.support.power_cuts import Command, cut_power, record
from tests.support.servers import run_server

Record = Callable[[str, object], None]


@pytest.fixture(autouse=True)
def one_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a command make its changes in the same order in every run."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0})


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    (folder := tmp_path / "disk").mkdir()
    return folder


def survive(command: Command, disk: Path, record_property: Record) -> None:
    """Cut the power at every moment of a command; nothing may be violated."""
    survey = cut_power(command, disk)
    record_property(
        "power cuts", f"{survey.states:,} states, {survey.distinct:,} distinct, {len(survey.violations)} violations"
    )
    assert not survey.violations, "\n".join(survey.violations[:10])


@pytest.mark.xdist_group("power cuts 1")
@pytest.mark.parametrize("file_format", FORMATS)
def test_a_build(file_format: str, tmp_path: Path, disk: Path, record_property: Record) -> None:
    survive(Build.of(tmp_path, file_format), disk, record_property)


@pytest.mark.xdist_group("power cuts 2")
@pytest.mark.parametrize("file_format", FORMATS)
def test_a_resumed_build(file_format: str, tmp_path: Path, disk: Path, record_property: Record) -> None:
    build = Build.of(tmp_path, file_format)
    store = shutil.copytree(build.sound, build.find_store(disk))
    (store / "commits/b00002.json").unlink()
    cut(max(store.rglob("*1.0.0.0" if file_format == "zarr" else "*1.h5")))
    survive(build, disk, record_property)


@pytest.mark.xdist_group("power cuts 2")
@pytest.mark.parametrize("file_format", FORMATS)
def test_a_repair(file_format: str, tmp_path: Path, disk: Path, record_property: Record) -> None:
    repair = Repair.of(tmp_path, file_format)
    store = shutil.copytree(repair.sound, repair.find_store(disk))
    flip(store / "commits/b00002.json")
    flip(max(store.rglob("*1.0.0.0" if file_format == "zarr" else "*1.h5")))
    survive(repair, disk, record_property)


@pytest.mark.xdist_group("power cuts 2")
@pytest.mark.parametrize("file_format", FORMATS)
def test_a_conversion(file_format: str, tmp_path: Path, disk: Path, record_property: Record) -> None:
    survive(Convert.of(tmp_path, file_format), disk, record_property)


@pytest.mark.xdist_group("power cuts 1")
def test_a_sweep(tmp_path: Path, disk: Path, record_property: Record) -> None:
    survive(Sweep.of(tmp_path), disk, record_property)


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A server whose first answer breaks off, so that the download is resumed."""
    monkeypatch.setattr(download, "WAITS", (0.01,) * 3)
    monkeypatch.setitem(DUTS, "duts-te", (DUTS["duts-te"][0], COUNT))
    site = Site(zipped(duts()), drops=[9000])
    with run_server(handler(site)) as url:
        site.url = f"{url}/DUTS-TE.zip"
        yield site


@pytest.mark.xdist_group("power cuts 1")
def test_a_fetch(site: Site, tmp_path: Path, disk: Path, record_property: Record) -> None:
    fetch = Fetch(site.url, sha256(site.data).hexdigest(), "")
    fetch.run(tmp_path)
    site.drops = [9000]
    survive(replace(fetch, right=fetch.digest(tmp_path)), disk, record_property)


def sync_folders(path: Path) -> None:
    return None if path.is_file() else SYNC(path)


def sync_files(path: Path) -> None:
    return SYNC(path) if path.is_file() else None


SYNC = files.fsync


@pytest.mark.xdist_group("power cuts 2")
@pytest.mark.parametrize("sync", [sync_folders, sync_files])
def test_a_writer_that_does_not_sync_is_caught(
    sync: Callable[[Path], None], tmp_path: Path, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same search finds what is wrong with a writer that syncs folders only, or files only."""
    build = Build.of(tmp_path, "hdf5")
    for owner in (files, exclusive):
        monkeypatch.setattr(owner, "fsync", sync)
    assert cut_power(build, disk).violations


@pytest.mark.xdist_group("power cuts 2")
def test_what_other_languages_write_is_seen(disk: Path) -> None:
    """safetensors writes in Rust, HDF5 in C."""
    with record(disk) as moments:
        save_file({"a": np.arange(5)}, disk / "rust.safetensors")
        with h5py.File(disk / "c.h5", "w") as file:
            file["a"] = np.arange(5)
        zarr.create_group(disk / "a.zarr")
    written = {path.relative_to(disk).as_posix(): path.read_bytes() for path in disk.rglob("*") if path.is_file()}
    seen = moments[-1].cut("whole", frozenset())
    assert {path: file.data for path, file in seen.items() if file.data is not None} == written
    assert not moments[-1].cut("whole", frozenset([moments[-1].root]))
    assert {file.data for file in moments[-1].cut("lost", frozenset()).values()} == {None, b""}
