"""Several writers of one store: whenever one is suspended or killed, what another has committed and sealed stays."""

import errno
import itertools
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from posenet_store.errors import StoreError
from posenet_store.extraction.build import build_store, plan_store
from posenet_store.files import write_atomic
from posenet_store.images.image_set import ImageSet, load_folder
from posenet_store.specs import FORMATS
from posenet_store.store.exclusive import identify, put, take_away
from posenet_store.store.formats import list_block_files
from posenet_store.store.plan import Plan
from posenet_store.store.verify import find_damage
from posenet_store.store.writer import StoreWriter
from tests.support.small import contents, tiny_backbone, write_images

STEPS = ((os, "link"), (os, "fsync"), (Path, "rename"), (Path, "unlink"))
"""What a writer does to the disk."""


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    return load_folder(write_images(tmp_path_factory.mktemp("writers") / "photos", 6))


def plan_of(images: ImageSet, file_format: str = "hdf5") -> Plan:
    return plan_store(images, tiny_backbone(), "aligned", "float32", 3, file_format)


def rebuild(images: ImageSet, root: Path, file_format: str = "hdf5") -> int:
    """Rerun the command; return how many rows were extracted."""
    return build_store(images, tiny_backbone(), plan_of(images, file_format), root, batch_size=3).extracted


def commit(writer: StoreWriter, block: int, value: float) -> None:
    start, stop = writer.plan.bounds[block]
    shapes = writer.plan.spec.arrays
    writer.commit(block, {name: np.full((stop - start, *shape), value, "float32") for name, shape in shapes.items()}, [])


def act_before(patch: pytest.MonkeyPatch, number: int, act: Callable[[], object]) -> Callable[[], int]:
    """Call `act` before the n-th step from here on; returns a function that counts the steps."""
    steps = itertools.count(1)
    last = [0]

    def listen(real: Callable[..., Any]) -> Callable[..., Any]:
        def step(*words: Any, **options: Any) -> Any:
            if last[0] <= number:
                last[0] = next(steps)
                if last[0] == number:
                    last[0] += 1
                    act()
            return real(*words, **options)

        return step

    for owner, name in STEPS:
        patch.setattr(owner, name, listen(getattr(owner, name)))
    return lambda: last[0]


class Killed(BaseException):
    """The end of a process."""


@pytest.mark.parametrize("damaged", [False, True], ids=["new", "damaged"])
@pytest.mark.parametrize("killed", [False, True], ids=["goes on", "killed"])
@pytest.mark.parametrize("file_format", FORMATS)
def test_a_writer_that_is_held_at_any_step_harms_no_store_that_another_seals(
    images: ImageSet, tmp_path: Path, file_format: str, killed: bool, damaged: bool
) -> None:
    """Both write the same block, with features that differ in their last bits; one of them stays."""
    plan = plan_of(images, file_format)
    first = StoreWriter.open(tmp_path / "first", plan)
    for block in range(1 + damaged):
        commit(first, block, 1.0)
    if damaged:
        flip(first.files.root / list_block_files(plan.spec, 1)[0])
    for number in itertools.count(1):
        store = Path(shutil.copytree(first.files.root, tmp_path / str(number) / first.files.root.name))
        writer = StoreWriter.open(store.parent, plan)

        def overtake() -> None:
            other = StoreWriter.open(store.parent, plan)  # noqa: B023 - called in this round only
            commit(other, 1, 1.0 + 2**-20)
            other.seal({})
            sealed.update(contents(store))  # noqa: B023
            if killed:
                raise Killed

        sealed: dict[str, str] = {}
        with pytest.MonkeyPatch.context() as patch:
            count_steps = act_before(patch, number, overtake)
            with suppress(Killed):
                commit(writer, 1, 1.0 - 2**-20)
        if count_steps() < number:  # there is no n-th step
            break
        assert contents(store) == sealed
        assert list(find_damage(store, deep=True)) == []
    assert number > 6


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def test_a_late_builder_takes_nothing_from_a_store_that_another_has_sealed(
    images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was suspended after it had listed what is missing."""
    listed, states = StoreWriter.list_missing, []

    def list_missing(writer: StoreWriter, deep: bool = False) -> list[int]:
        missing = listed(writer, deep)
        monkeypatch.setattr(StoreWriter, "list_missing", listed)
        rebuild(images, tmp_path)
        states.append({path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")})
        return missing

    monkeypatch.setattr(StoreWriter, "list_missing", list_missing)
    rebuild(images, tmp_path)
    assert [{path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}] == [
        {path: time for path, time in state.items() if path.is_file()} for state in states
    ]


def test_a_damaged_part_of_the_right_size_is_never_sealed(images: ImageSet, tmp_path: Path) -> None:
    """Whoever wrote it: another process, or an earlier command."""
    rebuild(images, tmp_path)
    (store,) = tmp_path.iterdir()
    before = contents(store)
    (store / "manifest.json").unlink()
    flip(store / "parts/part-00001.h5")
    assert rebuild(images, tmp_path) == 3
    assert contents(store) == before
    assert list(find_damage(store, deep=True)) == []


def test_a_valid_manifest_is_not_written_again(images: ImageSet, tmp_path: Path) -> None:
    plan = plan_of(images)
    late = StoreWriter.open(tmp_path, plan)
    rebuild(images, tmp_path)
    before = identify(late.files.manifest)
    late.seal({"by": "the late one"})
    assert identify(late.files.manifest) == before


def test_a_name_that_is_taken_stays_as_it_is(tmp_path: Path) -> None:
    path, other = tmp_path / "part", tmp_path / "other"
    for file in (path, other):
        file.write_text(file.name)
    assert not put(other, path)
    assert path.read_text() == "part"


@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOTSUP])
def test_a_disk_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def refuse(path: Path, target: Path) -> None:
        raise OSError(code, os.strerror(code), str(target))

    monkeypatch.setattr(os, "link", refuse)
    path, first, second = tmp_path / "part", tmp_path / "first", tmp_path / "second"
    for file in (first, second):
        file.write_text(file.name)
    assert (put(first, path), put(second, path)) == (True, False)
    assert (path.read_text(), first.exists(), second.exists()) == ("first", False, True)


def test_a_disk_without_hard_links_holds_a_store(images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, target: Path) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM), str(target))

    monkeypatch.setattr(os, "link", refuse)
    rebuild(images, tmp_path)
    (store,) = tmp_path.iterdir()
    assert list(find_damage(store, deep=True)) == []
    assert not list(store.rglob("*.tmp"))


def test_an_answer_that_was_lost_is_no_other_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NFS repeats the call, and the name is taken: by the first."""
    link, path, temporary = os.link, tmp_path / "part", tmp_path / "temporary"
    temporary.write_text("x")

    def repeat(source: Path, target: Path) -> None:
        link(source, target)
        link(source, target)

    monkeypatch.setattr(os, "link", repeat)
    assert put(temporary, path)


def test_only_the_file_that_was_judged_is_taken_away(tmp_path: Path) -> None:
    path = tmp_path / "part"
    path.write_text("bad")
    judged = identify(path)
    assert judged
    write_atomic(path, b"good")
    take_away(path, judged)
    assert path.read_bytes() == b"good"
    again = identify(path)
    assert again
    take_away(path, again)
    take_away(path, again)  # another has taken it away
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_the_place_of_a_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="is a folder"):
        identify(tmp_path)
