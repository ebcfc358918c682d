"""Erased heads in a sweep: a constant is the best that is left, the other maps stay, and kept sums are not read again."""

from dataclasses import replace
from pathlib import Path

from posenet_store.heads.protocols import RidgeProtocol
from posenet_store.images.sources import load_image_set
from posenet_store.store.catalogue import list_stores
from posenet_store.store.chunking import count_row_bytes
from posenet_store.sweep.limits import Limits
from posenet_store.sweep.plan import plan_sweep
from posenet_store.sweep.results import load_run
from posenet_store.sweep.run import run_sweep
from posenet_store.sweep.spec import SweepSpec
from tests.support.small import built_store, tiny_backbone, write_images

BEFORE, AFTER = RidgeProtocol(lambdas=(1e-4,)), RidgeProtocol(lambdas=(1e-4,), erase=("H", "V"))
SPEC = SweepSpec(
    title="t", train=("photos",), targets=("H", "G"), kernels=(1,), protocols=("ridge",), inputs=("full", "full:f2"), tests=(),
    recipes=(BEFORE,),
)  # fmt: skip


def test_erased_targets_are_constant_and_training_reads_nothing(tmp_path: Path) -> None:
    root = tmp_path / "stores"
    store = built_store(root, load_image_set(str(write_images(tmp_path / "photos", 40))), tiny_backbone(size=64))
    assert run_sweep(SPEC, plan_sweep(SPEC, root=root), tmp_path / "first", scheduler="inline").failures == ()
    both = replace(SPEC, recipes=(BEFORE, AFTER))
    outcome = run_sweep(both, plan_sweep(both, root=root), tmp_path / "run", scheduler="inline")
    of_tests = 8 * count_row_bytes(store.spec, ("f1", "f2", "f3"))  # the held-out rows, in each of the two passes
    assert [result.read.bytes for result in outcome.passes] == [of_tests, of_tests]
    scores = {
        (result.cell.input, result.cell.target, bool(result.fit.get("erased"))): result
        for result in load_run(tmp_path / "run").results
    }
    for text in ("full", "full:f2"):
        gone, stays, before = scores[text, "H", True], scores[text, "G", True], scores[text, "G", False]
        assert gone.fit["erased"] == 2
        assert gone.scores["held-out"].undefined == 8
        assert abs((gone.scores["held-out"].mae or 0) - 0.25) < 0.01  # that of a constant
        assert abs((stays.scores["held-out"].spc or 0) - (before.scores["held-out"].spc or 0)) < 0.2


def test_an_erasure_of_too_many_unknowns_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "stores"
    built_store(root, load_image_set(str(write_images(tmp_path / "photos", 40))), tiny_backbone())
    spec = replace(SPEC, recipes=(AFTER,))
    plan = plan_sweep(spec, list_stores(root)[0], root, limits=Limits(memory=1 << 30, unknowns=20))
    (failure,) = run_sweep(spec, plan, tmp_path / "run", scheduler="inline").failures
    assert "at most 20 unknowns" in failure


def test_a_penalty_a_stage_names_the_stages(tmp_path: Path) -> None:
    root = tmp_path / "stores"
    built_store(root, load_image_set(str(write_images(tmp_path / "photos", 40))), tiny_backbone())
    spec = replace(SPEC, inputs=("full", "full:f1+f3"), targets=("G",), kernels=(3,), recipes=(RidgeProtocol(bands=2),))
    assert run_sweep(spec, plan_sweep(spec, root=root), tmp_path / "run", scheduler="inline").failures == ()
    fits = {result.cell.input: result.fit for result in load_run(tmp_path / "run").results}
    assert {name for name in fits["full"] if name.startswith("penalty_")} == {"penalty_f1", "penalty_f2", "penalty_f3"}
    assert {name for name in fits["full:f1+f3"] if name.startswith("penalty_")} == {"penalty_f1", "penalty_f3"}
