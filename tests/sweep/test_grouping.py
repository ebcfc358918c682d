"""Heads that share a pass: every stage subset, kernel, rate and seed from one stream, each as if it were alone."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from posenet_store.heads.file import load_head
from posenet_store.heads.model import draw_head
from posenet_store.heads.moments import compute_image_moments
from posenet_store.heads.protocols import GradientProtocol
from posenet_store.heads.targets import make_target_map
from posenet_store.store.catalogue import list_stores
from posenet_store.store.reader import Reader
from posenet_store.sweep.assemble import assemble_input
from posenet_store.sweep.fit_gradient import Convolution, GramSpace
from posenet_store.sweep.grouping import group_cells, make_training_group
from posenet_store.sweep.inputs import join_inputs, parse_input
from posenet_store.sweep.limits import Limits
from posenet_store.sweep.plan import SweepPlan, plan_sweep
from posenet_store.sweep.results import RunFiles, load_run
from posenet_store.sweep.run import run_sweep
from posenet_store.sweep.spec import SweepSpec, load_sweep
from posenet_store.sweep.strategy import choose
from tests.support.small import store_with_probes

SPEC = SweepSpec(title="t", train=("photos",), targets=("H", "VS"), seeds=(0, 1), recipes=(GradientProtocol(epochs=2),))
SUBSETS = ("aligned", "aligned:f1", "aligned:f3", "aligned:f3+f1")
FULL = ("full", "full:f2", "full:f3+f1")
RTOL = 1e-6  # float64; the order of sums differs


def recipes(rates: tuple[float, ...], decays: tuple[float, ...] = (1e-4,)) -> tuple[GradientProtocol, ...]:
    return tuple(GradientProtocol(epochs=2, learning_rate=rate, weight_decay=decay) for rate in rates for decay in decays)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("families")
    store_with_probes(folder / "stores", folder / "photos")
    return folder / "stores"


@pytest.fixture(scope="module")
def reader(root: Path) -> Reader:
    return Reader(next(root.glob("tiny-photos-*")))


LIMITS = Limits(1 << 30)


@dataclass(frozen=True)
class Narrow(Limits):
    """Moments of so many channels fit, whatever the memory."""

    channels: int = 0

    def holds_moments(self, rows: int, channels: int, kernel: int) -> bool:
        return channels <= self.channels


def planned(root: Path, spec: SweepSpec, limits: Limits = LIMITS) -> SweepPlan:
    return plan_sweep(spec, list_stores(root)[0], root, limits=limits)


def weights(root: Path, run: Path, spec: SweepSpec, limits: Limits = LIMITS) -> dict[str, torch.Tensor]:
    """Run a sweep in this process; return each cell's weight by its id."""
    outcome = run_sweep(spec, planned(root, spec, limits), run, scheduler="inline")
    assert outcome.failures == ()
    return {cell.id: load_head(RunFiles(run).head(cell.id))[0].weight for cell in planned(root, spec).cells}


def test_every_subset_and_rate_shares_one_pass(root: Path) -> None:
    spec = replace(SPEC, inputs=SUBSETS, recipes=recipes((1e-3, 1e-2), (0.0, 1e-4)), kernels=(1, 3))
    (task,) = planned(root, spec).passes
    assert len(task.cells) == len({cell.id for cell in task.cells}) == 4 * 2 * 2 * 2 * 2 * 2
    assert task.input == "aligned"
    both = planned(root, replace(spec, inputs=(*SUBSETS, *FULL), protocols=("report-2020", "ridge"))).passes
    assert [(p.input, p.protocol.name) for p in both] == [
        ("aligned", "report-2020"), ("aligned", "ridge"), ("full", "report-2020"), ("full", "ridge")
    ]  # fmt: skip


@pytest.mark.parametrize("inputs", [SUBSETS, FULL])
@pytest.mark.parametrize("protocol", ["report-2020", "ridge"])
def test_a_head_on_some_stages_is_the_same_alone_and_among_others(
    root: Path, tmp_path: Path, inputs: tuple[str, ...], protocol: str
) -> None:
    spec = replace(SPEC, inputs=inputs, protocols=(protocol,), kernels=(1, 3))
    fitted = weights(root, tmp_path / "all", spec)
    for text in inputs:
        for cell, weight in weights(root, tmp_path / text, replace(spec, inputs=(text,), kernels=(3,))).items():
            torch.testing.assert_close(fitted[cell], weight, rtol=1e-4 if protocol == "ridge" else RTOL, atol=1e-9)


def test_by_convolution_and_in_gram_space_subsets_are_the_same(root: Path, tmp_path: Path) -> None:
    spec = replace(SPEC, inputs=SUBSETS, recipes=recipes((1e-3, 3e-3)), kernels=(1, 3), paddings=(0, 1))
    in_gram_space = weights(root, tmp_path / "gram", spec)
    for cell, weight in weights(root, tmp_path / "conv", spec, Narrow(1 << 30)).items():
        torch.testing.assert_close(in_gram_space[cell], weight, rtol=RTOL, atol=1e-9)


def test_where_the_whole_does_not_fit_each_family_has_its_own_moments(root: Path, reader: Reader, tmp_path: Path) -> None:
    spec = replace(SPEC, inputs=SUBSETS)
    expected = weights(root, tmp_path / "whole", spec)
    cells, source = planned(root, spec).cells, parse_input("aligned", reader.spec)
    narrow, groups = Narrow(1 << 30, channels=3), group_cells(cells, source, reader.spec)
    gram, convolution = choose(groups, cells[0].protocol, source.channels, cells[0].train_rows, narrow)
    assert isinstance(gram, GramSpace)
    assert isinstance(convolution, Convolution)
    assert ([group.width for group in gram.groups], [group.width for group in convolution.groups]) == ([3, 3], [9, 6])
    for cell, weight in weights(root, tmp_path / "parts", spec, narrow).items():
        torch.testing.assert_close(weight, expected[cell], rtol=RTOL, atol=1e-9)


def test_every_head_has_its_own_rate_and_decay(root: Path, reader: Reader, tmp_path: Path) -> None:
    """Against torch's own Adam, one head at a time on the same batches."""
    spec = replace(SPEC, targets=("H",), seeds=(3,), recipes=recipes((1e-3, 1e-1), (0.0, 1e-2)))
    fitted = weights(root, tmp_path, spec)
    rows = planned(root, spec).cells[0].train_rows
    source, goal = parse_input("aligned", reader.spec), torch.from_numpy(make_target_map("H", 26).copy())
    for cell in planned(root, spec).cells:
        assert isinstance(cell.protocol, GradientProtocol)
        weight, bias = (nn.Parameter(value[None]) for value in draw_head(9, 3, 3))
        adam = torch.optim.Adam([weight, bias], lr=cell.protocol.learning_rate, weight_decay=cell.protocol.weight_decay)
        for epoch in range(2):
            for values in reader.batches(source.arrays, 0, rows, batch_size=4, seed=0, epoch=epoch):
                adam.zero_grad()
                maps = nn.functional.conv2d(assemble_input(source, values).double(), weight, bias)[:, 0]
                ((maps - goal) ** 2).mean().backward()
                adam.step()
        torch.testing.assert_close(fitted[cell.id], weight.detach(), rtol=RTOL, atol=1e-9)


@pytest.mark.parametrize("convolution", [True, False])
def test_a_head_that_runs_away_harms_no_neighbour_and_is_reported(root: Path, tmp_path: Path, convolution: bool) -> None:
    limits = Narrow(1 << 30) if convolution else LIMITS
    rates = (1e-3, 1e300)
    alone = weights(root, tmp_path / "alone", replace(SPEC, recipes=recipes(rates[:1])), limits)
    both = weights(root, tmp_path / "both", replace(SPEC, recipes=recipes(rates)), limits)
    assert all(torch.equal(both[cell], weight) or not convolution for cell, weight in alone.items())
    for cell, weight in alone.items():
        torch.testing.assert_close(both[cell], weight, rtol=RTOL, atol=1e-12)
    records = load_run(tmp_path / "both")[1]
    lost = [record for record in records if record.fit.get("diverged")]
    assert [vars(record.cell.protocol)["learning_rate"] for record in lost] == [1e300] * 4
    for record in lost:
        assert record.scores["held-out"].nonfinite == record.scores["held-out"].images
        assert record.scores["held-out"].spc is None
        head, _ = load_head(RunFiles(tmp_path / "both").head(record.cell.id))  # a later sweep may score it on other images
        assert not head.weight.isfinite().all()


def test_targets_that_differ_in_range_only_are_told_apart(reader: Reader, root: Path) -> None:
    cells = planned(root, SPEC).cells
    other = tuple(replace(cell, value_range=(-1.0, 1.0)) for cell in cells)
    source = parse_input("aligned", reader.spec)
    (heads,) = group_cells((*cells, *other), source, reader.spec)
    targets = heads.alone().targets()
    assert len(targets) == 4
    group = make_training_group(heads, targets)
    for cell, index in zip(heads.cells, group.target_indices, strict=True):
        low, high = cell.value_range
        np.testing.assert_array_equal(group.targets[index], make_target_map(cell.target, 26, (low, high)))


@pytest.mark.parametrize(
    ("texts", "expected"),
    [(["aligned:f1"], "aligned"), (["full:f3", "full:f1"], "full:f1+f3"), (["corners:f1+f2", "corners:f3"], "corners")],
)
def test_a_stream_serves_all_its_inputs(reader: Reader, texts: list[str], expected: str) -> None:
    joined = parse_input(join_inputs(texts, reader.spec), reader.spec)
    assert join_inputs(texts, reader.spec) == expected
    values = {name: reader.read(name, 0, 3) for name in joined.arrays}
    for text in texts:
        part = parse_input(text, reader.spec)
        own = assemble_input(part, {name: reader.read(name, 0, 3) for name in part.arrays})
        assert torch.equal(assemble_input(joined, values)[:, list(joined.places(part))], own)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("learning_rate = [0.001, 0.1]\n", [{"learning_rate": 0.001}, {"learning_rate": 0.1}]),
        ("weight_decay = [0, 1e-3]\nepochs = 2", [{"weight_decay": 0.0, "epochs": 2}, {"weight_decay": 1e-3, "epochs": 2}]),
        ('optimizer = ["adam", "sgd"]\n', [{"optimizer": "adam"}, {"optimizer": "sgd"}]),
        ("layers = [1, 2]\nhidden = [4, 8]\n", [{"layers": n, "hidden": width} for n in (1, 2) for width in (4, 8)]),
    ],
)
def test_lists_in_the_protocols_table_make_heads_each(tmp_path: Path, text: str, expected: list[dict[str, Any]]) -> None:
    (tmp_path / "s.toml").write_text("[report-2020]\n" + text)
    assert load_sweep(tmp_path / "s.toml").list_protocols() == [GradientProtocol(**changes) for changes in expected]


def test_moments_of_some_features_are_those_of_a_stream_of_them() -> None:
    block = torch.randn(5, 4, 28, 28, generator=torch.Generator().manual_seed(0))
    goals = torch.randn(2, 26, 26, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = compute_image_moments([block], 5, 3, 0, goals)
    places = torch.tensor([9, 10, 11, 12, 13, 14, 15, 16, 17, 27, 28, 29, 30, 31, 32, 33, 34, 35])
    part, own = expected.select(places), compute_image_moments([block[:, [1, 3]]], 5, 3, 0, goals)
    torch.testing.assert_close(part.second, own.second, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(part.cross, own.cross, rtol=1e-12, atol=1e-12)
