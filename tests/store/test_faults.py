"""Every damage once: never silent, listed by `verify --deep`, and repaired to the store that nothing ever happened to.

docs/faults.md says the same for people; faults while a store is built are in test_faults_of_builds.py.
"""

import errno
import itertools
import os
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from posenet_store.errors import StoreError
from posenet_store.extraction.build import plan_store
from posenet_store.specs import FORMATS
from posenet_store.store.formats import list_block_files
from posenet_store.store.reader import open_store
from posenet_store.store.verify import find_damage
from posenet_store.store.writer import StoreWriter
from tests.support.lab import ARRAYS, Lab, listed, lose, said
from tests.support.small import tiny_backbone


def flip(path: Path) -> None:
    """Flip one bit in the middle."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def cut(path: Path) -> None:
    """Keep the first half."""
    os.truncate(path, path.stat().st_size // 2)


def zero(path: Path) -> None:
    """Keep the size and lose the bytes, as some file systems do when the power goes."""
    path.write_bytes(bytes(path.stat().st_size))


def swap(path: Path) -> None:
    """Exchange block 1's file and block 0's."""
    other, aside = path.with_name(path.name.replace("1", "0")), path.with_name("aside")
    for source, target in ((path, aside), (other, path), (aside, other)):
        source.rename(target)


def turn(path: Path) -> None:
    """Put a folder in the file's place."""
    path.unlink()
    path.mkdir()


def plant(path: Path) -> None:
    """Put an empty file where none belongs."""
    path.parent.mkdir(exist_ok=True)
    path.touch()


def copy(path: Path, kept: slice) -> None:
    """Leave of a store what a copy has brought that was cut short or lost files."""
    files = sorted(file for file in path.rglob("*") if file.is_file())
    for file in set(files) - set(files[kept]):
        file.unlink()


def age(path: Path, seconds: int) -> None:
    for file in path.rglob("*"):
        os.utime(file, (seconds, seconds))


class Fault(NamedTuple):
    """A row of the table; each of `files` meets each of `harms`."""

    files: str
    harms: Sequence[Callable[[Path], object]]
    seen: str
    lost: int | None  # rows that are extracted again; None: those that are not there
    mended: str


AGAIN, REPAIR, NOTHING = "rerun the build-store command", "verify --repair", "nothing to do"
AWAY = "move the folder away and rerun the build-store command"
HARMLESS = "nothing"
BROKEN = "is not valid JSON|was edited or damaged|does not match its own|foreign field|is of format"
SIZE, RECORD, PART = r"has \d+ bytes instead of", "commits/b00001.json", "parts/part-00001.h5"
SHARDS = " ".join(f"data.zarr/{name}/c.1.0.0.0" for name in ARRAYS)
NAMES, VIEW = "data.zarr/image_id/zarr.json data.zarr/image_id/c/0", "whole.h5"
GROUP = " ".join(["data.zarr/zarr.json", *(f"data.zarr/{name}/zarr.json" for name in ARRAYS)])
TEMPORARY = "commits/.b00001.json.0.tmp .manifest.json.0.tmp data.zarr/f1/.c.1.0.0.0.0.tmp parts/.part-00001.h5.0.tmp"
STRANGERS = "commits/b00099.json data.zarr/f1/c.99.0.0.0 parts/part-00099.h5 ../.half-a-store.0.tmp/plan.json"
COPIES = [partial(copy, kept=kept) for kept in (slice(6), slice(None, None, 2))]
CLOCKS = [partial(age, seconds=seconds) for seconds in (0, 4_102_444_800)]  # 1970 and 2100

FAULTS = (
    #     where                 what happens         what the user sees                     lost   put right by
    Fault("plan.json",          [flip, cut, zero],   r"plan\.json.* (" + BROKEN + ")",         0,  AGAIN),
    Fault("plan.json",          [lose],              r"is not a store: it has no plan\.json",  0,  AGAIN),
    Fault("manifest.json",      [flip, cut, zero],   BROKEN,                                   0,  AGAIN),
    Fault("manifest.json",      [lose],              "is not sealed.* rerun the build-store",  0,  AGAIN),
    Fault(RECORD,               [flip, cut, zero],   "is not the record that the manifest",    4,  AGAIN),
    Fault(RECORD,               [lose],              "is missing",                             4,  AGAIN),
    Fault(RECORD,               [swap],              "is not the record that the manifest",    8,  AGAIN),
    Fault("commits",            [lose],              r"b00000\.json is missing",              14,  AGAIN),
    Fault(f"{GROUP} {NAMES}",   [flip, zero],        "holds other bytes than were written",    0,  AGAIN),
    Fault(f"{GROUP} {NAMES}",   [cut],               SIZE,                                     0,  AGAIN),
    Fault(f"{GROUP} {NAMES}",   [lose],              "is missing",                             0,  AGAIN),
    Fault("data.zarr/image_id", [lose],              "image_id/.* is missing",                 0,  AGAIN),
    Fault("data.zarr/f1",       [lose],              r"f1/zarr\.json is missing",             14,  AGAIN),
    Fault("data.zarr",          [lose],              r"zarr\.json is missing",                14,  AGAIN),
    Fault("parts",              [lose],              r"part-00000\.h5 is missing",            14,  AGAIN),
    Fault(f"{SHARDS} {PART}",   [flip, zero],        "holds other bytes than were written",    4,  REPAIR),
    Fault(f"{SHARDS} {PART}",   [cut],               SIZE,                                     4,  AGAIN),
    Fault(f"{SHARDS} {PART}",   [lose],              "is missing; block 1 is damaged",         4,  AGAIN),
    Fault(f"{SHARDS} {PART}",   [turn],              "is missing; block 1 is damaged",         4,  AWAY),
    Fault(SHARDS,               [swap],              SIZE,                                     8,  AGAIN),
    Fault(PART,                 [swap],              "holds other bytes than were written",    8,  REPAIR),
    Fault(".",                  COPIES,              r"has no plan\.json|is not sealed",    None,  AGAIN),
    Fault(TEMPORARY,            [plant],             HARMLESS,                                 0,  NOTHING),
    Fault(STRANGERS,            [plant],             HARMLESS,                                 0,  NOTHING),
    Fault(VIEW,                 [flip, cut, lose],   HARMLESS,                                 0,  NOTHING),
    Fault(".",                  CLOCKS,              HARMLESS,                                 0,  NOTHING),
)  # fmt: skip


def cases() -> pytest.MarkDecorator:
    """One test for each file and harm of each row, in the formats that have such a file."""
    found = []
    for fault in FAULTS:
        for file, harm in itertools.product(fault.files.split(), fault.harms):
            formats = {"data.zarr": ("zarr",), "parts": ("hdf5",), VIEW: ("hdf5",)}.get(file.split("/")[0], FORMATS)
            label = f"{harm.func.__name__}{harm.keywords}" if isinstance(harm, partial) else harm.__name__
            one = fault._replace(files=file, harms=[harm])
            found += [pytest.param(one, name, id=f"{label}-{file}-{name}") for name in formats]
    return pytest.mark.parametrize(("fault", "lab"), found, indirect=["lab"])


@cases()
def test_a_fault_is_never_silent(lab: Lab, fault: Fault) -> None:
    store, path = lab.copy(), Path(fault.files)
    fault.harms[0](store / path)
    errors, lines = said(store, lab.sound), listed(store)
    assert bool(errors) == bool(lines) == (fault.seen != HARMLESS)
    assert not errors or any(re.search(fault.seen, error) for error in errors.values()), errors
    if path.suffix and errors and "is not sealed" not in fault.seen:  # what is lost with a folder is named one by one
        names = {path.name, path.name.replace("1", "0")} if fault.harms == [swap] else {path.name}
        assert all(any(name in error for name in names) for error in errors.values()), errors
        assert any(name in line for name in names for line in lines), lines
    if ("", 0) not in errors:  # the blocks beside the damaged one stay readable
        bounds = dict(open_store(lab.sound).plan.bounds)
        assert sum(bounds[start] - start for start in {start for _, start in errors}) == fault.lost


@cases()
def test_a_fault_is_put_right(lab: Lab, fault: Fault) -> None:
    store = lab.copy()
    fault.harms[0](store / fault.files)
    if fault.mended == AWAY:  # it is somebody's, so no command removes it
        with pytest.raises(StoreError, match=r"is a folder where a file belongs; move it away"):
            lab.build(store.parent)
        (store / fault.files).rmdir()
    extracted = lab.build(store.parent)
    assert fault.lost is None or extracted == (fault.lost if fault.mended in (AGAIN, AWAY) else 0)
    if fault.mended == REPAIR:  # the command trusts sizes; what it passes over stays an error
        assert said(store, lab.sound)
        assert lab.verify_repair(store).exit_code == 0
    assert lab.whole(store)


@pytest.mark.parametrize("harm", [flip, cut, zero, swap])
def test_a_damaged_record_is_never_sealed(lab: Lab, harm: Callable[[Path], object]) -> None:
    """While a build has not ended there is no manifest that knows the records."""
    store = lab.copy()
    lose(store / "manifest.json")
    harm(store / RECORD)
    assert lab.build(store.parent) == (8 if harm is swap else 4)
    assert lab.whole(store)


def test_data_files_of_one_size_are_not_exchanged_unnoticed(lab: Lab) -> None:
    """Blocks of one number compress to one size, so that only the digests differ."""
    plan = plan_store(lab.images.take(8), tiny_backbone(), "native", "float16", 4, lab.name)
    writer = StoreWriter.open(lab.root, plan)
    for block in range(2):
        writer.commit(block, {key: np.full((4, *shape), block + 1, "float16") for key, shape in plan.spec.arrays.items()}, [])
    writer.seal({})
    for path in (writer.files.root / file for file in list_block_files(plan.spec, 1)):
        before = path.stat().st_size
        swap(path)
        assert path.stat().st_size == before
    assert len(said(writer.files.root, writer.files.root)) == 2 * len(ARRAYS)
    assert {one.block for one in find_damage(writer.files.root, deep=True)} == {0, 1}


@pytest.fixture
def bad_file(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> str:
    """A data file whose bytes the disk does not give back."""
    real, bad = Path.open, list_block_files(open_store(lab.sound).spec, 1)[0]

    def opened(path: Path, *words: Any, **options: Any) -> Any:
        if path == lab.sound / bad:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return real(path, *words, **options)

    monkeypatch.setattr(Path, "open", opened)
    return bad


def test_a_bad_sector_is_an_error_that_names_the_file(lab: Lab, bad_file: str) -> None:
    errors = said(lab.sound, lab.sound)
    assert {start for _, start in errors} == {4}
    assert all(bad_file in error for error in errors.values())


def test_a_bad_sector_is_what_verify_lists(lab: Lab, bad_file: str) -> None:
    assert [bad_file in line for line in listed(lab.sound)] == [True]
