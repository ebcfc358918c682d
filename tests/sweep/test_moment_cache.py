"""Moments that are kept: the next sweep reads nothing to train, and never trains on another store's or on damaged ones."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from posenet_store.heads.file import load_head
from posenet_store.heads.protocols import GradientProtocol, RidgeProtocol
from posenet_store.images.sources import load_image_set
from posenet_store.store.catalogue import list_stores
from posenet_store.store.chunking import count_row_bytes
from posenet_store.sweep import score as scoring
from posenet_store.sweep import training_inputs
from posenet_store.sweep.cost import estimate_cost
from posenet_store.sweep.moment_cache import MomentCache
from posenet_store.sweep.plan import plan_sweep
from posenet_store.sweep.results import RunFiles, load_run
from posenet_store.sweep.run import run_sweep
from posenet_store.sweep.spec import SweepSpec
from posenet_store.sweep.stopwatch import Stopwatch
from tests.support.small import built_store, store_with_probes, tiny_backbone, write_images

WHAT = {"kind": "images", "rows": 4}
SPEC = SweepSpec(title="t", train=("photos",), targets=("H",), seeds=(0,), kernels=(3,), recipes=(GradientProtocol(epochs=2),))
BOTH = replace(SPEC, protocols=("report-2020", "ridge"))


def tensors() -> dict[str, torch.Tensor]:
    return {"second": torch.randn(4, 3, 3, dtype=torch.float64), "images": torch.tensor(4)}


def test_what_is_kept_is_found_and_nothing_else(tmp_path: Path) -> None:
    cache, saved = MomentCache(tmp_path / "moments", "abc"), tensors()
    assert cache.load(WHAT) is None
    cache.save(WHAT, saved)
    loaded = cache.load(WHAT)
    assert loaded is not None
    assert all(torch.equal(loaded[name], tensor) for name, tensor in saved.items())
    assert cache.load(WHAT | {"rows": 5}) is None
    assert MomentCache(tmp_path / "moments", "of another store").load(WHAT) is None
    assert MomentCache(None, "abc").load(WHAT) is None


def test_others_may_read_what_is_kept(tmp_path: Path) -> None:
    MomentCache(tmp_path, "abc").save(WHAT, tensors())
    (tmp_path / "other").touch()
    assert {path.stat().st_mode for path in tmp_path.iterdir()} == {(tmp_path / "other").stat().st_mode}


@pytest.mark.parametrize("harm", ["flip", "cut", "empty", "other key"])
def test_damaged_moments_are_not_found(tmp_path: Path, harm: str) -> None:
    cache = MomentCache(tmp_path, "abc")
    cache.save(WHAT, tensors())
    (path,) = tmp_path.iterdir()
    data = path.read_bytes()
    if harm == "other key":
        save_file(load_file(path), path, metadata={"key": "x", "checks": "y"})
    else:
        path.write_bytes({"flip": data[:-5] + bytes([data[-5] ^ 1]) + data[-4:], "cut": data[:-5], "empty": b""}[harm])
    assert cache.load(WHAT) is None
    cache.save(WHAT, tensors())
    assert cache.load(WHAT) is not None


def test_where_nothing_can_be_written_nothing_is_kept_and_nothing_breaks(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    cache = MomentCache(tmp_path / "file" / "moments", "abc")
    cache.save(WHAT, tensors())
    assert cache.load(WHAT) is None


@pytest.fixture
def root(tmp_path: Path) -> Path:
    store_with_probes(tmp_path / "stores", tmp_path / "photos")
    return tmp_path / "stores"


def swept(root: Path, run: str, spec: SweepSpec, keep: bool = True) -> dict[str, torch.Tensor]:
    plan = plan_sweep(spec, list_stores(root)[0], root, keep)
    assert run_sweep(spec, plan, root.parent / run, scheduler="inline").failures == ()
    return {cell.id: load_head(RunFiles(root.parent / run).head(cell.id))[0].weight for cell in plan.cells}


@pytest.fixture
def scans(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The spans of rows that were read to train."""
    seen: list[tuple[int, int]] = []
    real = scoring.read_blocks

    def heard(reader: object, source: object, start: int, stop: int) -> object:
        if start < stop:
            seen.append((start, stop))
        return real(reader, source, start, stop)  # type: ignore[arg-type]

    monkeypatch.setattr(training_inputs, "read_blocks", heard)
    return seen


def test_the_next_sweep_reads_only_what_it_tests_on(root: Path, scans: list[tuple[int, int]]) -> None:
    first = swept(root, "first", BOTH)
    trained = list(scans)  # 11 of 14 rows train
    assert trained == [(0, 11), (0, 11)]
    scans.clear()
    again = swept(root, "second", BOTH)
    assert scans == []
    assert all(torch.equal(first[cell], weight) for cell, weight in again.items())


def test_other_seeds_rates_stages_and_penalties_need_no_reading(root: Path, scans: list[tuple[int, int]]) -> None:
    swept(root, "first", BOTH)
    scans.clear()
    changed = (GradientProtocol(epochs=2, learning_rate=1e-2), RidgeProtocol(lambdas=(1e-3, 10.0)))
    other = replace(BOTH, seeds=(1, 2), recipes=changed, inputs=("aligned", "aligned:f2"))
    swept(root, "second", other)
    assert scans == []
    swept(root, "third", replace(other, targets=("V",)))  # ridge has all maps; the recipe's moments know their target
    assert scans == [(0, 11)]


def test_folds_are_read_once_and_serve_other_targets_penalties_and_stages(root: Path, scans: list[tuple[int, int]]) -> None:
    folds = replace(SPEC, protocols=("ridge",), recipes=(RidgeProtocol(folds=3),))
    swept(root, "first", folds)
    assert scans == [(0, 11)]
    scans.clear()
    other = replace(
        folds, targets=("V", "G"), inputs=("aligned:f2", "aligned"), recipes=(RidgeProtocol(folds=3, lambdas=(0.1, 1e-5)),)
    )
    swept(root, "second", other)
    assert scans == []
    _, records = load_run(root.parent / "second")
    for record in records:
        fit = record.fit
        assert fit["penalty"] in (0.1, 1e-5)
        assert 0 <= fit["cv_low"] < fit["cv_error"] < fit["cv_high"]
        assert fit["cv_explained"] < 1


def test_other_holdouts_folds_shares_and_amounts_are_read_off_the_same_sums(
    tmp_path: Path, scans: list[tuple[int, int]]
) -> None:
    """Of 40 rows a twentieth is two: whatever cuts there needs no reading, and what cuts a twentieth reads that one only."""
    root = tmp_path / "stores"
    built_store(root, load_image_set(str(write_images(tmp_path / "photos", 40))), tiny_backbone(), "aligned", "float16", 7)
    ridge = RidgeProtocol(lambdas=(0.01, 1.0))
    spec = replace(BOTH, holdout=0.1, tests=(), recipes=(*SPEC.recipes, ridge))
    swept(root, "first", spec)
    assert scans == [(0, 36), (0, 36)]  # validation on rows 31 to 36 cuts the twentieth 30 to 32, which is kept as a whole too
    scans.clear()
    for name, other in {
        "folds": replace(spec, holdout=0.25, recipes=(*SPEC.recipes, replace(ridge, folds=3))),
        "share": replace(spec, holdout=0.5, recipes=(*SPEC.recipes, replace(ridge, validation=0.3))),
        "amounts": replace(spec, holdout=0.2, train_images=(20, 32), recipes=(*SPEC.recipes, replace(ridge, validation=0.5))),
    }.items():
        plan = plan_sweep(other, list_stores(root)[0], root)
        specs = {entry.spec.fingerprint: entry.spec for entry in list_stores(root)[0]}
        tested = count_row_bytes(next(iter(specs.values()))) * (40 - plan.cells[0].held_out)
        assert [estimate_cost(task, specs, Stopwatch()).reading for task in plan.passes] == [tested] * len(plan.passes)
        ours = swept(root, name, other)
        assert scans == []
        shutil.copytree(root, tmp_path / name / "stores", ignore=shutil.ignore_patterns("moments"))
        for cell, weight in swept(tmp_path / name / "stores", f"alone-{name}", other).items():
            torch.testing.assert_close(ours[cell], weight, rtol=1e-9, atol=1e-12)
        scans.clear()
    swept(root, "cut", replace(spec, recipes=(*SPEC.recipes, replace(ridge, folds=5))))
    assert scans == [(6, 8), (28, 30)]  # the folds begin at 7, 14, 22 and 29


def test_a_damaged_span_is_summed_again_and_no_other(root: Path, scans: list[tuple[int, int]]) -> None:
    first = swept(root, "first", BOTH)
    for path in (root / "moments").rglob("*.safetensors"):
        with safe_open(path, "pt") as file:
            damaged = '"rows":[3,4]' in file.metadata()["key"]
        if damaged:
            data = path.read_bytes()
            path.write_bytes(data[:-5] + bytes([data[-5] ^ 1]) + data[-4:])
    scans.clear()
    again = swept(root, "second", BOTH)
    assert scans == [(3, 4), (3, 4)]
    assert all(torch.equal(first[cell], weight) for cell, weight in again.items())


def test_moments_of_another_store_are_never_used(root: Path) -> None:
    first = swept(root, "first", BOTH)
    paths = sorted((root / "moments").rglob("*.safetensors"))
    assert {path.name.partition("-")[0] for path in paths} == {"images", "sums"}
    for path in paths:  # as if the store had been built anew with other content
        with pytest.MonkeyPatch.context():
            tensors = load_file(path)
        key = json.dumps({"store_id": "another"})
        save_file(
            {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}, path, metadata={"key": key, "checks": ""}
        )
    again = swept(root, "second", BOTH)
    assert all(torch.equal(first[cell], weight) for cell, weight in again.items())


def test_nothing_is_kept_unless_wanted(root: Path) -> None:
    swept(root, "first", BOTH, keep=False)
    assert not (root / "moments").exists()
