"""Many hands on one store: builders, parts, repairs and conversions in any interleaving, killed, damaged, renamed, read.

A dictionary says which blocks are committed and which files were damaged. Whatever happens, a reader gives the right features
or an error of the package; what is committed and undamaged can be read at once; and in the end the same commands make the
store that nothing ever happened to, byte for byte.

Seeds are parameters of the tests, so that a failing history, which Hypothesis prints as a program, is replayed by its name:

    pytest "tests/system/test_many_hands.py::test_many_hands[1-zarr]"
"""

import os
import pickle
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)
from numpy.typing import NDArray

from posenet_store.errors import PosenetStoreError, StoreError
from posenet_store.extraction.build import BuildResult, build_store, plan_store
from posenet_store.extraction.repair import repair_store
from posenet_store.images.sources import load_image_set
from posenet_store.specs import FORMATS
from posenet_store.store.access import MANIFEST, PLAN
from posenet_store.store.convert import convert_store
from posenet_store.store.reader import Reader, open_store
from posenet_store.store.verify import find_damage
from tests.store.test_faults import cut, flip
from tests.support.cut_commands import BLOCK_ROWS, ROWS, Build
from tests.support.hands import ALL, Hand, Stage
from tests.support.lab import remove
from tests.support.small import contents, tiny_backbone
from tests.support.store_model import StoreModel

SEEDS, EXAMPLES, STEPS = 2, 15, 40
BLOCKS = range(ROWS // BLOCK_ROWS)
Features = dict[str, NDArray[Any]]


class OpenReader(NamedTuple):
    """A reader and the features of the store that it opened."""

    reader: Reader
    features: Features


class ManyHands(RuleBasedStateMachine):
    """What people and machines do to a store."""

    readers = Bundle[OpenReader]("readers")

    def __init__(self, build: Build, other: Build) -> None:
        super().__init__()
        self.build, self.other = build, other
        self._folder = TemporaryDirectory()
        self.root = Path(self._folder.name)
        self.stores, self.photos = self.root / "stores", self.root / "photos"
        shutil.copytree(build.sound.parent / "photos", self.photos)
        self.model = StoreModel(self.stores / build.sound.name, build.plan)
        self.stage = Stage(self.stores, self.model.follow)
        self.hands: list[Hand] = []
        self.exchanged, self.renamed = False, 0

    @property
    def store(self) -> Path:
        return self.model.path

    # what hands do

    has_hands = precondition(lambda self: self.hands)
    is_quiet = precondition(lambda self: not self.hands and self.store.exists() and self.model.files.get(PLAN, True))

    @precondition(lambda self: len(self.hands) < 3 and not self.exchanged)
    @rule(name=st.sampled_from(["build", "build", "build 1/2", "build 2/2", "repair", "convert"]))
    def start(self, name: str) -> None:
        commands: dict[str, Callable[[], object]] = {
            "build": partial(self._build, (1, 1)),
            "build 1/2": partial(self._build, (1, 2)),
            "build 2/2": partial(self._build, (2, 2)),
            "repair": self._repair,
            "convert": lambda: convert_store(open_store(self.store), self._other_format(), self.stores / "copies"),
        }
        self.hands.append(Hand(name, commands[name]))

    @has_hands
    @rule(number=st.integers(0, 2), changes=st.integers(1, 4))
    def go_on(self, number: int, changes: int) -> None:
        self._let(number, lambda hand: hand.go_on(changes))

    @has_hands
    @rule(number=st.integers(0, 2), changes=st.integers(5, 40))
    def go_far(self, number: int, changes: int) -> None:
        self._let(number, lambda hand: hand.go_on(changes))

    @has_hands
    @rule(number=st.integers(0, 2), killed=st.sampled_from([False, False, True]))
    def end(self, number: int, killed: bool) -> None:
        self.model.calm &= not killed
        self._let(number, Hand.kill if killed else lambda hand: hand.go_on(ALL))

    def _let(self, number: int, act: Callable[[Hand], object]) -> None:
        hand = self.hands[number % len(self.hands)]
        with self.stage.let(hand):
            act(hand)
        if hand.ended:
            self.hands.remove(hand)
        if not self.hands:
            self.model.settle()

    def _other_format(self) -> str:
        return next(name for name in FORMATS if name != self.build.plan.spec.format)

    def _build(self, part: tuple[int, int]) -> BuildResult:
        images, network = load_image_set(str(self.photos)), tiny_backbone(stages=1)
        spec = self.build.plan.spec
        plan = plan_store(images, network, spec.layout, spec.dtype, BLOCK_ROWS, spec.format)
        return build_store(images, network, plan, self.stores, batch_size=BLOCK_ROWS, part=part)

    def _repair(self) -> object:
        images, network = load_image_set(str(self.photos)), tiny_backbone(stages=1)
        return repair_store(self.store, images, network, batch_size=BLOCK_ROWS)

    # what happens to files

    @precondition(lambda self: self.store.exists() and not self.exchanged)
    @rule(number=st.integers(0, 99), harm=st.sampled_from([flip, cut, remove]))
    def damage(self, number: int, harm: Callable[[Path], object]) -> None:
        files = sorted(path for path in self.store.rglob("*") if path.is_file() and not path.name.startswith("."))
        path = files[number % len(files)] if files else self.store
        if path.is_file() and path.stat().st_size > 1 and not (path.name == PLAN and (self.renamed or harm is flip)):
            harm(path)
            self.model.damage(path)

    @is_quiet
    @rule(what=st.sampled_from(["store", "images"]))
    def rename(self, what: str) -> None:
        self.renamed += 1
        if what == "images":
            self.photos = self.photos.rename(self.root / f"photos{self.renamed}")
        else:
            name = f"renamed{self.renamed}-{self.build.plan.spec.fingerprint[:8]}"
            self.model.path = self.store.rename(self.stores / name)

    @is_quiet
    @rule()
    def exchange(self) -> None:
        """Put another store in the place of this one, or this one back."""
        aside, other = self.root / "aside", self.root / "other"
        if not self.exchanged and not other.exists():
            shutil.copytree(self.other.sound, other)
        self.store.rename(other if self.exchanged else aside)
        (aside if self.exchanged else other).rename(self.store)
        self.exchanged = not self.exchanged

    # what readers see

    @precondition(lambda self: self.store.exists())
    @rule(target=readers, unsealed=st.booleans())
    def open(self, unsealed: bool) -> Any:
        with suppress(PosenetStoreError):
            features = (self.other if self.exchanged else self.build).features
            return OpenReader(open_store(self.store, unsealed), features)
        return multiple()

    @rule(target=readers, opened=readers)
    def send_to_another_process(self, opened: OpenReader) -> Any:
        with suppress(PosenetStoreError):
            received = pickle.loads(pickle.dumps(opened.reader))
            np.testing.assert_array_equal(received.readable, opened.reader.readable)
            return OpenReader(received, opened.features)
        return multiple()

    @rule(opened=readers, block=st.sampled_from(BLOCKS), data=st.data())
    def read(self, opened: OpenReader, block: int, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(opened.features)))
        start, stop = BLOCK_ROWS * block, BLOCK_ROWS * (block + 1)
        with suppress(PosenetStoreError):
            np.testing.assert_array_equal(opened.reader.read(name, start, stop), opened.features[name][start:stop])

    # what must hold

    @invariant()
    def what_is_committed_can_be_read(self) -> None:
        if self.model.can_be_opened and not self.exchanged:
            reader = open_store(self.store, unsealed=not (self.model.calm and self.model.sealed))
            for block in self.model.list_right_blocks():
                self._compare(reader, block)

    def _compare(self, reader: Reader, block: int) -> None:
        start, stop = BLOCK_ROWS * block, BLOCK_ROWS * (block + 1)
        for name, right in self.build.features.items():
            np.testing.assert_array_equal(reader.read(name, start, stop), right[start:stop])

    def teardown(self) -> None:
        """Let every hand end, run the command again, and compare with the undisturbed store."""
        failed = sys.exc_info()[0] is not None
        try:
            while self.hands:
                self._let(0, Hand.kill if failed else lambda hand: hand.go_on(ALL))
            if not failed:
                self._complete()
        finally:
            self._folder.cleanup()

    def _complete(self) -> None:
        if self.exchanged:
            self.exchange()
        self.model.path = self._build((1, 1)).path
        if not all(self.model.files.values()):  # a build trusts the sizes of data files
            self._repair()
        assert contents(self.store) == contents(self.build.sound)
        assert not any(find_damage(self.store, deep=True))
        copy = open_store(convert_store(open_store(self.store), self._other_format(), self.stores / "copies"))
        for block in BLOCKS:
            self._compare(open_store(self.store), block)
            self._compare(copy, block)


def run_histories(kind: type[ManyHands], number: int, file_format: str, folder: Path) -> list[ManyHands]:
    """Run random histories of the seed `number`, one after another; raises the error of the first that fails."""
    builds = Build.of(folder / "ours", file_format), Build.of(folder / "others", file_format, seed=1)
    machines: list[ManyHands] = []

    @seed(number)
    class Hands(kind):  # type: ignore[misc, valid-type]
        def __init__(self) -> None:
            super().__init__(*builds)
            machines.append(self)

    limits = settings(
        max_examples=EXAMPLES,
        stateful_step_count=STEPS,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
        phases=[Phase.generate],  # to shorten a history takes minutes
    )
    run_state_machine_as_test(Hands, settings=limits)
    return machines


@pytest.fixture(autouse=True)
def one_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each hand make its changes in one order, and sync nothing, which is slow."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0})
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("number", range(SEEDS))
def test_many_hands(number: int, file_format: str, tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    machines = run_histories(ManyHands, number, file_format, tmp_path)
    changes = sum(machine.model.changes for machine in machines)
    record_property("many hands", f"{len(machines)} histories of up to {STEPS} steps, {changes:,} changes of files")


class Careless(ManyHands):
    """Builders that take a sealed store apart before they look at it."""

    def _build(self, part: tuple[int, int]) -> BuildResult:
        (self.store / MANIFEST).unlink(missing_ok=True)
        return super()._build(part)


def test_a_careless_builder_is_caught(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="is not sealed"):
        run_histories(Careless, 0, "hdf5", tmp_path)
