"""Every kind of damage: never silent, listed by `verify --deep`, and repaired to the bytes of the undamaged store.

docs/faults.md is this table for users; faults while a store is built are in tests/system/test_faults_of_builds.py.
"""

import errno
import itertools
import json
import os
import re
from collections.abc import Callable, Sequence
from functools import partial, reduce
from operator import getitem
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
from tests.support.lab import ARRAYS, Lab, list_damage, read_errors, remove
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
    """Keep the size and set all bytes to 0, as some file systems do when the power goes."""
    path.write_bytes(bytes(path.stat().st_size))


def swap(path: Path) -> None:
    """Exchange block 1's file and block 0's."""
    other, aside = path.with_name(path.name.replace("1", "0")), path.with_name("aside")
    for source, target in ((path, aside), (other, path), (aside, other)):
        source.rename(target)


def turn(path: Path) -> None:
    """Replace the file by a folder."""
    path.unlink()
    path.mkdir()


def plant(path: Path) -> None:
    """Add an empty file that does not belong to the store."""
    path.parent.mkdir(exist_ok=True)
    path.touch()


def lengthen(path: Path) -> None:
    """Replace the file by a longer one."""
    path.write_bytes(bytes(2 * path.stat().st_size))


def empty(path: Path) -> None:
    """Replace a JSON object by a list."""
    path.write_text("[]")


def edit(path: Path, key: str, value: object) -> None:
    """Change a field of a JSON file, such as `spec/rows`: set it, or (as `value` says) reverse or remove it."""
    content = json.loads(path.read_text())
    *parents, last = key.split("/")
    fields = reduce(getitem, parents, content)
    old = fields.pop(last)
    if value != REMOVED:
        fields[last] = old[::-1] if value == REVERSED else value
    path.write_text(json.dumps(content))


def copy_partly(path: Path, files: slice) -> None:
    """Remove the files of a store that an incomplete copy lacks: all but a slice of them."""
    names = sorted(file for file in path.rglob("*") if file.is_file())
    for file in set(names) - set(names[files]):
        file.unlink()


def set_time(path: Path, seconds: int) -> None:
    """Set the time of every file, in seconds since 1970."""
    for file in path.rglob("*"):
        os.utime(file, (seconds, seconds))


class Fault(NamedTuple):
    """A row of the table; every harm is done to every file."""

    files: str
    harms: Sequence[Callable[[Path], object]]
    message: str
    extracted: int | None  # rows that are extracted again; None: those of missing blocks
    repair: str


RERUN, REPAIR, NOTHING = "rerun the build-store command", "verify --repair", "nothing to do"
AWAY = "move the folder away and rerun the build-store command"
HARMLESS = "nothing"
BROKEN = "is not valid JSON|was edited or damaged|does not match its own|foreign field|is of format"
SIZE, RECORD, PART = r"has \d+ bytes instead of", "commits/b00001.json", "parts/part-00001.h5"
SHARDS = " ".join(f"data.zarr/{name}/c.1.0.0.0" for name in ARRAYS)
NAMES, VIEW = "data.zarr/image_id/zarr.json data.zarr/image_id/c/0", "whole.h5"
GROUP = " ".join(["data.zarr/zarr.json", *(f"data.zarr/{name}/zarr.json" for name in ARRAYS)])
TEMPORARY = "commits/.b00001.json.0.tmp .manifest.json.0.tmp data.zarr/f1/.c.1.0.0.0.0.tmp parts/.part-00001.h5.0.tmp"
STRANGERS = "commits/b00099.json data.zarr/f1/c.99.0.0.0 parts/part-00099.h5 ../.half-a-store.0.tmp/plan.json"
COPIES = [partial(copy_partly, files=files) for files in (slice(6), slice(None, None, 2))]
REVERSED, REMOVED = "reversed", "removed"
EDITED_PLANS = [
    *(partial(edit, key=key, value=REVERSED) for key in ("order", "image_ids", "image_sha256")),
    *(partial(edit, key=key, value=None) for key in ("image_ids", "files")),
    partial(edit, key="files", value=[{"path": "no digest", "bytes": 1}]),
    partial(edit, key="spec/dtype", value="float64"),
    partial(edit, key="spec/rows", value=9),
]
EDITED_RECORDS: list[Callable[[Path], object]] = [
    empty,
    partial(edit, key="files", value=REMOVED),
    partial(edit, key="files", value=None),
]
CLOCKS = [partial(set_time, seconds=seconds) for seconds in (0, 4_102_444_800)]  # 1970 and 2100

FAULTS = (
    #     files                   harms                 message                           extracted, repair
    Fault("plan.json",            [flip, cut, zero],    r"plan\.json.* (" + BROKEN + ")",           0, RERUN),
    Fault("plan.json",            [remove],             r"plan\.json is missing; rerun the build",   0, RERUN),
    Fault("plan.json",            EDITED_PLANS,         r"plan\.json.* (" + BROKEN + ")",           0, RERUN),
    Fault("manifest.json",        [flip, cut, zero],    BROKEN,                                     0, RERUN),
    Fault("manifest.json",        [remove],             "is not sealed.* rerun the build-store",    0, RERUN),
    Fault(RECORD,                 [flip, cut, zero],    "is not the record that the manifest",      4, RERUN),
    Fault(RECORD,                 EDITED_RECORDS,       "is not the record that the manifest",      4, RERUN),
    Fault(RECORD,                 [remove],             "is missing",                               4, RERUN),
    Fault(RECORD,                 [swap],               "is not the record that the manifest",      8, RERUN),
    Fault("commits",              [remove],             r"b00000\.json is missing",                14, RERUN),
    Fault(f"{GROUP} {NAMES}",     [flip, zero],         "holds other bytes than were written",      0, RERUN),
    Fault(f"{GROUP} {NAMES}",     [cut],                SIZE,                                       0, RERUN),
    Fault(f"{GROUP} {NAMES}",     [remove],             "is missing",                               0, RERUN),
    Fault("data.zarr/image_id",   [remove],             "image_id/.* is missing",                   0, RERUN),
    Fault("data.zarr/f1",         [remove],             r"f1/zarr\.json is missing",               14, RERUN),
    Fault("data.zarr",            [remove],             r"zarr\.json is missing",                  14, RERUN),
    Fault("parts",                [remove],             r"part-00000\.h5 is missing",              14, RERUN),
    Fault(f"{SHARDS} {PART}",     [flip, zero],         "holds other bytes than were written",      4, REPAIR),
    Fault(f"{SHARDS} {PART}",     [cut, lengthen],      SIZE,                                       4, RERUN),
    Fault(f"{SHARDS} {PART}",     [remove],             "is missing; block 1 is damaged",           4, RERUN),
    Fault(f"{SHARDS} {PART}",     [turn],               "is missing; block 1 is damaged",           4, AWAY),
    Fault(f"{SHARDS} {PART}",     [swap],               SIZE,                                       8, RERUN),
    Fault(".",                    COPIES,               r"plan\.json is missing|is not sealed",  None, RERUN),
    Fault(TEMPORARY,              [plant],              HARMLESS,                                   0, NOTHING),
    Fault(STRANGERS,              [plant],              HARMLESS,                                   0, NOTHING),
    Fault(VIEW,                   [flip, cut, remove],  HARMLESS,                                   0, NOTHING),
    Fault(".",                    CLOCKS,               HARMLESS,                                   0, NOTHING),
)  # fmt: skip


def cases() -> pytest.MarkDecorator:
    """Return a case for each file and harm of each row, in the formats that have such a file."""
    params = []
    for fault in FAULTS:
        for file, harm in itertools.product(fault.files.split(), fault.harms):
            formats = {"data.zarr": ("zarr",), "parts": ("hdf5",), VIEW: ("hdf5",)}.get(file.split("/")[0], FORMATS)
            label = f"{harm.func.__name__}{harm.keywords}" if isinstance(harm, partial) else harm.__name__
            case = fault._replace(files=file, harms=[harm])
            params += [pytest.param(case, name, id=f"{label}-{file}-{name}") for name in formats]
    return pytest.mark.parametrize(("fault", "lab"), params, indirect=["lab"])


@cases()
def test_a_fault_is_never_silent(lab: Lab, fault: Fault) -> None:
    store, path = lab.copy(), Path(fault.files)
    fault.harms[0](store / path)
    errors, lines = read_errors(store, lab.sound), list_damage(store)
    assert bool(errors) == bool(lines) == (fault.message != HARMLESS)
    assert not errors or any(re.search(fault.message, error) for error in errors.values()), errors
    if path.suffix and errors and "is not sealed" not in fault.message:  # what is lost with a folder is named one by one
        names = {path.name, path.name.replace("1", "0")} if fault.harms == [swap] else {path.name}
        assert all(any(name in error for name in names) for error in errors.values()), errors
        assert any(name in line for name in names for line in lines), lines
    if ("", 0) not in errors:  # the blocks beside the damaged one stay readable
        bounds = dict(open_store(lab.sound).plan.bounds)
        assert sum(bounds[start] - start for start in {start for _, start in errors}) == fault.extracted


@cases()
def test_a_fault_is_repaired(lab: Lab, fault: Fault) -> None:
    store = lab.copy()
    fault.harms[0](store / fault.files)
    if fault.repair == AWAY:  # it is somebody's, so no command removes it
        with pytest.raises(StoreError, match=r"is a folder where a file belongs; move it away"):
            lab.build(store.parent)
        (store / fault.files).rmdir()
    extracted = lab.build(store.parent)
    assert fault.extracted is None or extracted == (fault.extracted if fault.repair in (RERUN, AWAY) else 0)
    if fault.repair == REPAIR:  # the command trusts sizes; what it passes over stays an error
        assert read_errors(store, lab.sound)
        assert lab.verify_repair(store).exit_code == 0
    assert lab.is_sound(store)
    assert fault.repair == NOTHING or list(store.parent.iterdir()) == [store]


@pytest.mark.parametrize(
    ("file", "harm"),
    [*((RECORD, harm) for harm in (flip, cut, zero, remove, swap, *EDITED_RECORDS)), ("", cut), ("", lengthen), ("", remove)],
)
def test_damage_is_never_sealed(lab: Lab, file: str, harm: Callable[[Path], object]) -> None:
    """While a build has not ended no manifest names the records; an empty `file` is a data file."""
    store = lab.copy()
    remove(store / "manifest.json")
    harm(store / (file or list_block_files(open_store(lab.sound).spec, 1)[-1]))
    assert lab.build(store.parent) == (8 if harm is swap else 4)
    assert lab.is_sound(store)


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
    assert len(read_errors(writer.files.root, writer.files.root)) == 2 * len(ARRAYS)
    assert {damage.block for damage in find_damage(writer.files.root, deep=True)} == {0, 1}


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
    errors = read_errors(lab.sound, lab.sound)
    assert {start for _, start in errors} == {4}
    assert all(bad_file in error for error in errors.values())


def test_a_bad_sector_is_what_verify_lists(lab: Lab, bad_file: str) -> None:
    assert [bad_file in line for line in list_damage(lab.sound)] == [True]
