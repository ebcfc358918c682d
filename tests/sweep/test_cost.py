"""What a plan says a pass will cost is what it costs: bytes read exactly, the way of training, no memory without a bound."""

import itertools
import weakref
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from posenet_store.heads.file import load_head
from posenet_store.heads.protocols import GradientProtocol, RidgeProtocol
from posenet_store.heads.sizes import count_moment_bytes
from posenet_store.store.catalogue import StoreInfo, list_stores
from posenet_store.store.reader import Reader
from posenet_store.sweep.cost import Cost, estimate_cost
from posenet_store.sweep.fit_gradient import GramSpace
from posenet_store.sweep.grouping import group_cells, split_by_memory
from posenet_store.sweep.inputs import parse_input
from posenet_store.sweep.limits import Limits
from posenet_store.sweep.plan import MAX_CELLS, Pass, plan_sweep
from posenet_store.sweep.results import RunFiles
from posenet_store.sweep.run_pass import run_pass
from posenet_store.sweep.spec import SweepSpec
from posenet_store.sweep.stopwatch import Stopwatch
from posenet_store.sweep.strategy import choose
from tests.support.small import store_with_probes

SPEC = SweepSpec(title="t", train=("photos",), targets=("H", "G"), seeds=(0,), recipes=(GradientProtocol(epochs=3),))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cost")
    store_with_probes(folder / "stores", folder / "photos")
    return folder / "stores"


@dataclass(frozen=True)
class Decided(Limits):
    """Whether moments fit, and whether inputs do, whatever the memory."""

    fits: bool = True
    held: bool = True

    def holds_moments(self, rows: int, channels: int, kernel: int) -> bool:
        return self.fits

    def solves(self, channels: int, kernel: int) -> bool:
        return self.fits

    def holds_inputs(self, rows: int, channels: int) -> bool:
        return self.held


class Millisecond(Stopwatch):
    """Every unit of every work takes a millisecond."""

    def extrapolate(self, kind: Hashable, work: Callable[[int], object], units: int) -> float:
        return 1e-3 * units


LIMITS = Limits(1 << 30)


def planned(root: Path, spec: SweepSpec, limits: Limits = LIMITS) -> tuple[Pass, Cost]:
    entries = list_stores(root)[0]
    (task,) = plan_sweep(spec, entries, root, keep_moments=False, limits=limits).passes
    return task, estimate_cost(task, {entry.spec.fingerprint: entry.spec for entry in entries}, Millisecond())


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The bytes of every read of a store."""
    sizes: list[int] = []
    original = Reader.read

    def counted(self: Reader, name: str, start: int, stop: int, out: NDArray[Any] | None = None) -> NDArray[Any]:
        values = original(self, name, start, stop, out)
        sizes.append(values.nbytes)
        return values

    monkeypatch.setattr(Reader, "read", counted)
    return sizes


@pytest.mark.parametrize("inputs", [("aligned", "aligned:f2"), ("full:f1", "full:f3")])
@pytest.mark.parametrize(
    ("protocol", "fits", "held", "way"),
    [
        ("report-2020", True, True, "gram"),
        ("report-2020", False, True, "convolution, in memory"),
        ("report-2020", False, False, "convolution, streamed"),
        ("ridge", True, True, "exact"),
        ("ridge", False, True, "conjugate gradients, in memory"),
    ],
)
def test_the_bytes_read_are_those_that_were_said(
    root: Path, tmp_path: Path, read: list[int],
    inputs: tuple[str, ...], protocol: str, fits: bool, held: bool, way: str,
) -> None:  # fmt: skip
    limits = Decided(1 << 30, fits=fits, held=held)
    task, estimate = planned(root, replace(SPEC, inputs=inputs, protocols=(protocol,), kernels=(1, 3)), limits)
    RunFiles(tmp_path).create()
    run_pass(task, tmp_path, 1)
    assert (estimate.reading, estimate.way) == (sum(read), way)
    assert estimate.memory > 0
    assert estimate.seconds > 0


def test_a_block_is_free_before_the_next_is_read(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan counts one of them; blocks of four rows are cut by twentieths of 14."""
    blocks: list[weakref.ref[NDArray[Any]]] = []
    alive: list[int] = []
    real = Reader._read_readable

    def note(reader: Reader, names: Sequence[str], start: int, stop: int) -> dict[str, NDArray[Any]]:
        alive.append(sum(block() is not None for block in blocks))
        values = real(reader, names, start, stop)
        blocks.append(weakref.ref(values["f1"]))
        return values

    monkeypatch.setattr(Reader, "_read_readable", note)
    task, _ = planned(root, replace(SPEC, inputs=("full",), protocols=("ridge",), kernels=(1,)))
    RunFiles(tmp_path).create()
    run_pass(replace(task, tests=()), tmp_path, 1)
    assert alive and not any(alive)


def test_streamed_iterations_read_at_most_what_was_said(root: Path, tmp_path: Path, read: list[int]) -> None:
    """How many steps it takes is not known before; nearly all that are allowed are taken for a penalty next to nothing."""
    ridge = RidgeProtocol(lambdas=(1e-12,), folds=3, iterations=5)
    task, estimate = planned(
        root, replace(SPEC, inputs=("full",), protocols=("ridge",), recipes=(ridge,)), Decided(1, fits=False, held=False)
    )
    RunFiles(tmp_path).create()
    run_pass(task, tmp_path, 1)
    assert estimate.way == "conjugate gradients, streamed"
    assert 0.9 * estimate.reading < sum(read) <= estimate.reading


def test_folds_hold_a_set_of_sums_each(root: Path, tmp_path: Path, read: list[int]) -> None:
    task, estimate = planned(root, replace(SPEC, protocols=("ridge",), recipes=(RidgeProtocol(folds=5),)))
    RunFiles(tmp_path).create()
    run_pass(task, tmp_path, 1)
    assert estimate.reading == sum(read)
    _, more = planned(root, replace(SPEC, protocols=("ridge",), recipes=(RidgeProtocol(folds=10),)))
    assert more.memory - estimate.memory == 5 * (81**2 + 81 * 26**2) * 8


def test_memory_is_bounded_whatever_is_asked(root: Path) -> None:
    """Sixteen kernels and paddings would hold sixteen sets of moments: they are taken in turns, each a scan."""
    spec = replace(SPEC, kernels=(1, 3, 5, 7), paddings=(0, 1, 2, 3))
    _, before = planned(root, spec)
    limits = Limits(count_moment_bytes(11, 9, 7))
    task, after = planned(root, spec, limits)
    reader = Reader(task.train)
    source = parse_input(task.input, reader.spec)
    (gram,) = choose(group_cells(task.cells, source, reader.spec), task.protocol, source.channels, 11, limits)
    assert isinstance(gram, GramSpace)
    runs = split_by_memory(gram.groups, 11, limits.memory)
    assert [[group.shape[0] for group in run] for run in runs] == [[1] * 4 + [3] * 4 + [5] * 3, [5], [7], [7], [7], [7]]
    assert after.memory < before.memory
    assert after.reading > before.reading


def test_turns_change_no_head(root: Path, tmp_path: Path) -> None:
    spec = replace(SPEC, kernels=(1, 3))
    together, _ = planned(root, spec)
    in_turns, _ = planned(root, spec, Decided(1))
    weights = []
    for name, task in (("together", together), ("in turns", in_turns)):
        RunFiles(tmp_path / name).create()
        run_pass(task, tmp_path / name, 1)
        weights.append([load_head(RunFiles(tmp_path / name).head(cell.id))[0].weight for cell in task.cells])
    assert all(torch.equal(first, second) for first, second in zip(*weights, strict=True))


def test_limits_decide_what_is_held() -> None:
    assert LIMITS.holds_inputs(5019, 15)
    assert not LIMITS.holds_inputs(5019, 1472)
    assert LIMITS.holds_moments(5019, 15, 3)
    assert not LIMITS.holds_moments(5019, 15, 7)


def test_heads_of_many_unknowns_are_not_trained_in_gram_space_however_much_memory_there_is() -> None:
    assert Limits(memory=1 << 50).holds_moments(200, 174, 3)
    assert not Limits(memory=1 << 50).holds_moments(200, 320, 3)
    assert LIMITS.solves(1472, 1)
    assert not LIMITS.solves(1472, 3)


@pytest.mark.parametrize(
    ("protocol", "limits"),
    [
        ("report-2020", Decided(1 << 30)),
        ("report-2020", Decided(1 << 30, fits=False)),
        ("ridge", Decided(1 << 30)),
        ("ridge", Decided(1 << 30, fits=False)),
    ],
)
def test_units_of_the_real_work_are_timed_once_a_kind(root: Path, protocol: str, limits: Limits) -> None:
    entries = list_stores(root)[0]
    (task,) = plan_sweep(replace(SPEC, protocols=(protocol,)), entries, root, keep_moments=False, limits=limits).passes
    specs, times = {entry.spec.fingerprint: entry.spec for entry in entries}, itertools.count()
    stopwatch = Stopwatch(lambda: 1e-3 * next(times))  # every timed call takes a millisecond
    cost = estimate_cost(task, specs, stopwatch)
    assert 0 < cost.seconds < 60
    calls = next(times)
    assert estimate_cost(task, specs, stopwatch) == cost
    assert next(times) == calls + 1


def test_a_grid_of_a_hundred_thousand_heads_is_planned_in_passes_that_can_be_lost(root: Path) -> None:
    """Five targets, four kernels, four paddings, three networks, every stage subset, three rates, five seeds."""
    base = next(entry for entry in list_stores(root)[0] if entry.spec.images == "photos")
    entries = [
        StoreInfo(Path(f"/s/{name}"), replace(base.spec, backbone=name, images="duts", rows=5019), True, 1, 1, 1, 0)
        for name in ("vgg16", "resnet152", "resnet50")
    ]
    names = [tap.name for tap in base.spec.taps]
    subsets = [subset for count in range(1, 4) for subset in itertools.combinations(names, count)]
    spec = SweepSpec(
        title="grid", tests=(), inputs=tuple(f"aligned:{'+'.join(subset)}" for subset in subsets), kernels=(1, 3, 5, 7),
        paddings=(0, 1, 2, 3), recipes=tuple(GradientProtocol(learning_rate=rate) for rate in (1e-4, 1e-3, 1e-2)),
        seeds=(0, 1, 2, 3, 4),
    )  # fmt: skip
    plan = plan_sweep(spec, entries, Path("/s"))
    assert len(plan.cells) == len({cell.id for cell in plan.cells}) == 5 * 4 * 4 * 3 * 7 * 3 * 5
    assert max(len(task.cells) for task in plan.passes) == MAX_CELLS
    specs = {entry.spec.fingerprint: entry.spec for entry in entries}
    assert np.isfinite([estimate_cost(task, specs, Millisecond()).seconds for task in plan.passes]).all()
