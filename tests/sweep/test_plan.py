"""Which stores train and test which heads, and what shares a pass."""

from dataclasses import replace
from pathlib import Path

import pytest

from posenet_store.errors import UsageError
from posenet_store.store.catalogue import StoreInfo, list_stores
from posenet_store.sweep.plan import SweepPlan, plan_sweep
from posenet_store.sweep.spec import SweepSpec
from tests.support.small import store_with_probes


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> list[StoreInfo]:
    root = tmp_path_factory.mktemp("planning")
    store_with_probes(root / "stores", root / "photos", count=6)
    return list_stores(root / "stores")[0]


def entry(stores: list[StoreInfo], images: str = "photos", path: str = "/s/x", **changes: object) -> StoreInfo:
    """A store like that of the photographs, with other facts."""
    base = next(e for e in stores if e.spec.images == "photos")
    spec = replace(base.spec, **({"images": images, "rows": 100, "images_sha256": images} | changes))  # type: ignore[arg-type]
    return replace(base, spec=spec, path=Path(path))


SPEC = SweepSpec(title="t")


def test_all_targets_seeds_kernels_and_paddings_share_a_pass(stores: list[StoreInfo]) -> None:
    spec = replace(SPEC, train=("photos",), kernels=(1, 3), paddings=(0, 1), protocols=("report-2020", "ridge"))
    plan = plan_sweep(spec, stores, Path())
    assert [(task.protocol.name, len(task.cells)) for task in plan.passes] == [("report-2020", 5 * 3 * 4), ("ridge", 5 * 4)]
    assert len({cell.id for cell in plan.cells}) == 80
    assert plan.notes == ()


def test_probes_test_and_never_train(stores: list[StoreInfo]) -> None:
    (task,) = plan_sweep(replace(SPEC, train=("photos",)), stores, Path()).passes
    assert [(test.path.name.split("-")[1], test.name) for test in task.tests] == [("probes", "probes")]
    assert task.cells[0].train_rows == 5  # of 6, a fifth is held out


def test_a_small_set_tests_heads_unless_it_is_named(stores: list[StoreInfo]) -> None:
    large, photo = entry(stores, "duts", "/s/duts"), entry(stores, "bear", "/s/bear", rows=1)
    (task,) = plan_sweep(SPEC, [large, photo, *stores], Path()).passes
    assert task.train == large.path
    assert photo.path in [test.path for test in task.tests]
    named = plan_sweep(replace(SPEC, train=("bear",)), [large, photo, *stores], Path()).passes
    assert [p.train for p in named] == [photo.path]


def test_of_the_same_features_one_store_is_used(stores: list[StoreInfo]) -> None:
    half = entry(stores, "duts", "/s/half", dtype="float16")
    aligned = entry(stores, "duts", "/s/whole", dtype="float32", layout="aligned")
    (task,) = plan_sweep(SPEC, [aligned, half, *stores], Path()).passes
    assert task.train == aligned.path
    (task,) = plan_sweep(replace(SPEC, inputs=("full",)), [aligned, half, *stores], Path()).passes
    assert task.train == half.path  # only it keeps all channels


def test_another_networks_store_is_no_test_set(stores: list[StoreInfo]) -> None:
    other = entry(stores, "duts", "/s/other", weights_sha256="f" * 64)
    plan = plan_sweep(SPEC, [other, *stores], Path())
    assert plan.passes[0].tests == ()
    assert any("no store of 'probes'" in note for note in plan.notes)


def test_unsealed_stores_and_impossible_inputs_are_said(stores: list[StoreInfo]) -> None:
    unsealed = replace(entry(stores, "big", "/s/unsealed"), sealed=False, committed=2)
    plan = plan_sweep(replace(SPEC, inputs=("aligned", "full:f9")), [unsealed, entry(stores, "duts"), *stores], Path())
    assert any("unsealed is not sealed (2 of" in note for note in plan.notes)
    assert any("left out: 1 inputs that stores of" in note and "'full:f9'" in note for note in plan.notes)
    assert len(plan.passes) == 1


def test_a_missing_test_is_noted_once_whatever_the_inputs(stores: list[StoreInfo]) -> None:
    spec = replace(SPEC, inputs=("aligned", "aligned:f1", "aligned:f2"), tests=("bear",))
    (note,) = plan_sweep(spec, [entry(stores, "duts")], Path()).notes
    assert "'bear'" in note
    assert "'aligned'" in note


def test_nothing_that_fits_is_an_error_that_lists_what_is_there(stores: list[StoreInfo]) -> None:
    with pytest.raises(UsageError, match=r"tiny-random0 on photos.*build-store"):
        plan_sweep(replace(SPEC, networks=("vgg*",)), stores, Path("stores"))


def test_nothing_to_test_on_is_an_error(stores: list[StoreInfo]) -> None:
    with pytest.raises(UsageError, match="nothing to test"):
        plan_sweep(replace(SPEC, holdout=0.0, tests=("none",)), [entry(stores, "duts")], Path())


def test_finished_cells_leave_the_plan(stores: list[StoreInfo]) -> None:
    plan = plan_sweep(replace(SPEC, train=("photos",)), stores, Path())
    (probes,) = plan.passes[0].tests
    tested = {cell.id: {"held-out": cell.store, "black": probes.fingerprint} for cell in plan.cells}
    left = plan.without({cell.id: tested[cell.id] for cell in plan.cells[:14]})
    assert [cell.id for cell in left.cells] == [plan.cells[14].id]
    assert plan.without(tested).passes == ()


def test_a_finished_cell_that_lacks_a_test_is_only_scored_on_it(stores: list[StoreInfo]) -> None:
    large, photo = entry(stores, "duts", "/s/duts"), entry(stores, "bear", "/s/bear", rows=1)
    (task,) = plan_sweep(SPEC, [large, photo, *stores], Path()).passes
    bear = next(test for test in task.tests if test.name == "bear")
    others = {{"probes": "black"}.get(test.name, test.name): test.fingerprint for test in task.tests if test != bear}
    tested = {cell.id: {"held-out": task.store} | others for cell in task.cells[1:]}
    tested[task.cells[1].id]["bear"] = bear.fingerprint
    tested[task.cells[2].id]["bear"] = "another image set of that name"
    trained, scored = SweepPlan((task,), ()).without(tested).passes
    assert (trained.trains, trained.cells, trained.tests) == (True, task.cells[:1], task.tests)
    assert (scored.trains, scored.cells, scored.tests) == (False, task.cells[2:], (bear,))


def test_image_sets_of_one_name_have_columns_of_their_own(stores: list[StoreInfo]) -> None:
    large, small = entry(stores, "duts", "/s/duts"), entry(stores, "bear", "/s/one", rows=1)
    two = entry(stores, "bear", "/s/two", rows=1, images_sha256="f" * 64)
    (task,) = plan_sweep(replace(SPEC, tests=("bear",)), [large, small, two], Path()).passes
    assert {test.name for test in task.tests} == {f"bear-{e.spec.images_sha256[:8]}" for e in (small, two)}


@pytest.mark.parametrize("change", [{"kernel": 5}, {"seed": 9}, {"train_rows": 4}, {"store": "x"}, {"normalise": True}])
def test_everything_that_decides_a_cell_is_in_its_id(stores: list[StoreInfo], change: dict[str, object]) -> None:
    cell = plan_sweep(replace(SPEC, train=("photos",)), stores, Path()).cells[0]
    assert replace(cell, **change).id != cell.id  # type: ignore[arg-type]


def test_fewer_training_images_are_tested_on_the_same_rows(stores: list[StoreInfo]) -> None:
    spec = replace(SPEC, train=("photos",), train_images=(0, 3, 99), targets=("H",), seeds=(0,))
    plan = plan_sweep(spec, stores, Path())
    assert [(task.cells[0].train_rows, task.cells[0].held_out) for task in plan.passes] == [(5, 5), (3, 5)]
    assert any("99 training images" in note for note in plan.notes)


def test_a_pass_has_cells_of_one_store_and_the_same_rows(stores: list[StoreInfo]) -> None:
    task = plan_sweep(replace(SPEC, train=("photos",)), stores, Path()).passes[0]
    for change in ({"store": "x"}, {"train_rows": 4}, {"held_out": 4}):
        with pytest.raises(ValueError, match=task.cells[0].id):
            replace(task, **change)
