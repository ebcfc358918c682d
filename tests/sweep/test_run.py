"""A sweep end to end in one process: cells, heads, scores, tables; reruns and failures."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from posenet_store.errors import DamageWarning, StoreError, UsageError
from posenet_store.files import lock_folder
from posenet_store.heads.file import load_head
from posenet_store.heads.metrics import score_maps
from posenet_store.heads.protocols import GradientProtocol, RidgeProtocol
from posenet_store.heads.targets import make_target_map
from posenet_store.images.sources import load_image_set
from posenet_store.store.catalogue import list_stores
from posenet_store.store.reader import open_store
from posenet_store.sweep.evaluate import evaluate_head
from posenet_store.sweep.limits import Limits
from posenet_store.sweep.plan import SweepPlan, plan_sweep
from posenet_store.sweep.results import RunFiles, load_run, read_scores
from posenet_store.sweep.run import SweepResult, run_sweep
from posenet_store.sweep.run_pass import run_pass
from posenet_store.sweep.run_state import read_tests
from posenet_store.sweep.spec import SweepSpec
from tests.support.small import built_store, folder, store_with_probes, tiny_backbone, write_images

SPEC = SweepSpec(
    title="t", train=("photos",), targets=("H", "G"), protocols=("report-2020", "ridge"), seeds=(0, 1), kernels=(1, 3)
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweep")
    store_with_probes(folder / "stores", folder / "photos")
    return folder / "stores"


def planned(root: Path, spec: SweepSpec = SPEC, limits: Limits | None = None) -> SweepPlan:
    return plan_sweep(spec, list_stores(root)[0], root, limits=limits)


def swept(root: Path, run: Path, spec: SweepSpec = SPEC, limits: Limits | None = None) -> SweepResult:
    return run_sweep(spec, planned(root, spec, limits), run, scheduler="inline")


@pytest.fixture(scope="module")
def run(root: Path) -> Path:
    folder = root.parent / "run"
    outcome = swept(root, folder)
    assert (outcome.before, outcome.now, outcome.failures) == (0, 12, ())
    return folder


def test_every_cell_has_a_record_a_head_and_scores(root: Path, run: Path) -> None:
    files, ids = RunFiles(run), [cell.id for cell in planned(root).cells]
    tests = read_tests(files, planned(root).cells)
    assert list(tests) == ids
    assert {frozenset(columns) for columns in tests.values()} == {frozenset(("held-out", "black", "white", "noise"))}
    assert load_run(run)[0].cells == tuple(ids)
    names = sorted(path.name for folder in ("cells", "heads", "scores") for path in (run / folder).iterdir())
    assert len(names) == 36  # nothing temporary is left


def test_the_table_has_one_row_a_cell_and_no_nan(run: Path) -> None:
    rows = json.loads((run / "results.json").read_text())
    lines = list(csv.DictReader((run / "results.csv").open()))
    assert len(rows) == len(lines) == 12
    assert {row["held-out:images"] for row in rows} == {3}
    assert {(row["target"], row["kernel"], row["protocol"], row["seed"]) for row in rows} == {
        *((t, k, "report-2020", s) for t in ("H", "G") for k in (1, 3) for s in (0, 1)),
        *((t, k, "ridge", 0) for t in ("H", "G") for k in (1, 3)),
    }
    assert "nan" not in (run / "results.csv").read_text().lower().replace("nonfinite", "")


def test_scores_are_those_of_the_saved_head(root: Path, run: Path) -> None:
    """Recomputed from the files alone, the long way round."""
    cell = planned(root).cells[-1]
    heads, _ = load_head(RunFiles(run).head(cell.id))
    reader = open_store(planned(root).passes[0].train)
    features = torch.from_numpy(reader.read("aligned", cell.train_rows, reader.spec.rows)).float()
    maps = heads.predict(features).numpy()[:, 0]
    expected = score_maps(maps, make_target_map(cell.target, 26))
    stored = read_scores(RunFiles(run).scores(cell.id))
    np.testing.assert_allclose(stored["spc/held-out"], expected.spc, rtol=1e-12)
    np.testing.assert_allclose(stored["mae/held-out"], expected.mae, rtol=1e-12)
    np.testing.assert_allclose(stored["map/held-out"], maps[0], rtol=1e-6)
    np.testing.assert_allclose(stored["mean/held-out"], maps.mean(0), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(
        stored["error/held-out"], abs(maps - make_target_map(cell.target, 26)).mean(0), rtol=1e-5, atol=1e-7
    )
    assert {name.partition("/")[0] for name in stored} == {"spc", "mae", "explained", "map", "mean", "error", "ranks"}
    record = json.loads(RunFiles(run).record(cell.id).read_text())
    assert record["scores"]["held-out"]["spc"] == pytest.approx(expected.spc.mean(), rel=1e-12)
    assert set(record["scores"]) == {"held-out", "black", "white", "noise"}


def test_evaluate_gives_the_sweeps_numbers_on_the_probes(root: Path, run: Path) -> None:
    cell = planned(root).cells[-1]
    rows = evaluate_head(RunFiles(run).head(cell.id), open_store(planned(root).passes[0].tests[0].path)).rows()
    record = json.loads(RunFiles(run).record(cell.id).read_text())
    assert {row["test"]: row["spc"] for row in rows} == {t: record["scores"][t]["spc"] for t in ("black", "white", "noise")}


def test_evaluate_refuses_another_network(root: Path, run: Path, tmp_path: Path) -> None:
    other = store_with_probes(tmp_path / "stores", tmp_path / "other", count=2, seed=1)
    with pytest.raises(UsageError, match=r"tiny-random0.*tiny-random1"):
        evaluate_head(RunFiles(run).head(planned(root).cells[0].id), other)


def test_a_rerun_does_nothing(root: Path, run: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*.safetensors")}
    outcome = swept(root, run)
    assert (outcome.before, outcome.now) == (12, 0)
    assert before == {path: path.stat().st_mtime_ns for path in run.rglob("*.safetensors")}


@pytest.mark.parametrize("folder", ["cells", "heads", "scores"])
def test_a_rerun_restores_exactly_what_is_missing(root: Path, run: Path, tmp_path: Path, folder: str) -> None:
    fresh = tmp_path / "run"
    swept(root, fresh)
    lost = sorted((fresh / folder).iterdir())[2]
    lost.unlink()
    outcome = swept(root, fresh)
    assert (outcome.before, outcome.now) == (11, 1)
    head = RunFiles(fresh).head(lost.stem)
    again, _ = load_head(head)
    original, _ = load_head(RunFiles(run).head(lost.stem))
    # alone or among the others: the same head
    torch.testing.assert_close(again.weight, original.weight, rtol=1e-6, atol=1e-9)


def test_a_rerun_does_damaged_cells_again_and_names_them(root: Path, run: Path, tmp_path: Path) -> None:
    files = RunFiles(Path(shutil.copytree(run, tmp_path / "run")))
    ids = [cell.id for cell in planned(root).cells]
    damaged = [files.record(ids[0]), files.record(ids[1]), files.head(ids[2]), files.scores(ids[-1])]
    damaged[0].write_bytes(damaged[0].read_bytes()[:100])
    shutil.copy(files.record(ids[4]), damaged[1])
    for path in damaged[2:]:
        data = bytearray(path.read_bytes())
        data[-1] ^= 64
        path.write_bytes(data)
    with pytest.raises(StoreError, match=ids[2]):
        evaluate_head(damaged[2], open_store(planned(root).passes[0].tests[0].path))
    with pytest.warns(DamageWarning) as caught:
        outcome = swept(root, files.root)
    assert sorted({str(warning.message).split()[0] for warning in caught}) == sorted(map(str, damaged))
    assert (outcome.before, outcome.now, outcome.failures) == (8, 4, ())
    assert swept(root, files.root).now == 0
    for again, original in zip(load_run(files.root).results, load_run(run).results, strict=True):
        assert again.cell == original.cell
        assert again.scores["held-out"].spc == pytest.approx(original.scores["held-out"].spc, abs=1e-6)


@pytest.mark.parametrize("name", ["results.csv", "results.json", "run.json"])
def test_a_rerun_writes_damaged_tables_again(root: Path, run: Path, tmp_path: Path, name: str) -> None:
    fresh = Path(shutil.copytree(run, tmp_path / "run"))
    original = (run / name).read_bytes()
    (fresh / name).write_bytes(original.replace(b"0", b"1", 1))
    outcome = swept(root, fresh)
    assert (outcome.before, outcome.now) == (12, 0)
    if name != "run.json":  # which has the time
        assert (fresh / name).read_bytes() == original
    assert load_run(fresh).record.cells == load_run(run).record.cells


def test_an_image_set_added_as_a_test_scores_heads_and_trains_none(root: Path, tmp_path: Path) -> None:
    stores = Path(shutil.copytree(root, tmp_path / "stores"))
    spec = replace(
        SPEC,
        recipes=(GradientProtocol(name="standard", epochs=1, standardise=True, layers=2, hidden=2),),
        protocols=("ridge", "standard"),
    )
    swept(stores, tmp_path / "run", spec)
    files = RunFiles(tmp_path / "run")
    heads = {path: path.stat().st_mtime_ns for path in files.head("").parent.iterdir()}
    before = {result.id: result for result in load_run(files.root)[1]}
    bear = built_store(stores, load_image_set(str(write_images(tmp_path / "bear", 3, seed=5))), tiny_backbone())
    outcome = swept(stores, files.root, spec)
    assert (outcome.before, outcome.now, outcome.scored) == (0, 0, len(before))
    assert heads == {path: path.stat().st_mtime_ns for path in files.head("").parent.iterdir()}
    for result in load_run(files.root)[1]:
        assert result.tests == before[result.id].tests | {"bear": bear.spec.fingerprint}
        assert {test: score for test, score in result.scores.items() if test != "bear"} == before[result.id].scores
        expected = evaluate_head(files.head(result.id), bear).scored["bear"].scores
        arrays = read_scores(files.scores(result.id))
        np.testing.assert_allclose(arrays["spc/bear"], expected.spc, rtol=1e-9)
        np.testing.assert_allclose(arrays["mae/bear"], expected.mae, rtol=1e-9)
        assert "ranks/held-out" in arrays
    assert swept(stores, files.root, spec).scored == 0


def test_one_broken_store_does_not_stop_the_others(root: Path, tmp_path: Path) -> None:
    copy = tmp_path / "stores"
    store_with_probes(copy, tmp_path / "photos", seed=0)
    broken = store_with_probes(copy, tmp_path / "photos", seed=1)
    next(folder(broken).glob("data.zarr/aligned/c.0.0.0.0")).unlink()
    spec = replace(SPEC, protocols=("ridge",))
    outcome = run_sweep(spec, planned(copy, spec), tmp_path / "run", scheduler="inline")
    assert outcome.now == 4
    assert len(outcome.failures) == 1
    assert "is missing" in outcome.failures[0]
    assert folder(broken).name in outcome.failures[0]


def test_a_store_that_changed_since_planning_is_refused(root: Path, tmp_path: Path) -> None:
    task = planned(root).passes[0]
    other = store_with_probes(tmp_path / "stores", tmp_path / "photos", seed=1)
    with pytest.raises(StoreError, match="planned with"):
        run_pass(replace(task, train=folder(other)), tmp_path / "run", 1)


@pytest.mark.system
def test_local_workers_give_the_same_numbers(root: Path, run: Path, tmp_path: Path) -> None:
    run_sweep(SPEC, planned(root), tmp_path / "run", scheduler="local", workers=2)
    ours, theirs = (
        {row["id"]: row["held-out:mae"] for row in json.loads((folder / "results.json").read_text())}
        for folder in (run, tmp_path / "run")
    )
    assert ours == pytest.approx(theirs, rel=1e-9)


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a run"):
        load_run(tmp_path)


@pytest.mark.parametrize(("memory", "folds"), [(1 << 30, 3), (0, 0)], ids=["in memory, folds", "streamed"])
def test_heads_too_large_for_moments_are_iterated_to_the_same(root: Path, tmp_path: Path, memory: int, folds: int) -> None:
    ridge = RidgeProtocol(lambdas=(0.1, 1.0), folds=folds)
    spec = replace(SPEC, protocols=("ridge",), inputs=("full", "full:f1+f3"), kernels=(3,), recipes=(ridge,))
    swept(root, tmp_path / "exact", spec)
    swept(root, tmp_path / "iterated", spec, Limits(memory=memory, unknowns=0))
    results = zip(load_run(tmp_path / "exact")[1], load_run(tmp_path / "iterated")[1], strict=True)
    for exact, iterated in results:
        assert exact.id == iterated.id
        assert 0 < iterated.fit["iterations"] <= 400
        assert "unconverged" not in iterated.fit
        assert iterated.fit == pytest.approx(iterated.fit | exact.fit, rel=1e-4)
        ours, theirs = (vars(result.scores["held-out"]).copy() for result in (iterated, exact))
        assert ours.pop("images_sha256") == theirs.pop("images_sha256")
        assert ours == pytest.approx(theirs, rel=1e-4)


def test_a_ramp_in_the_features_is_read_out(tmp_path: Path, root: Path) -> None:
    """The whole chain can succeed: zero-padded random features let the exact head beat the constant predictor."""
    spec = replace(SPEC, protocols=("ridge",), kernels=(3,), inputs=("full",))
    swept(root, tmp_path / "run", spec)
    _, records = load_run(tmp_path / "run")
    assert all((record.scores["held-out"].spc or 0) > 0.3 for record in records)


def test_two_sweeps_do_not_write_into_one_run_at_once(root: Path, tmp_path: Path) -> None:
    with lock_folder(tmp_path, "busy", print), pytest.raises(UsageError, match=r"another sweep into .* is running"):
        swept(root, tmp_path)
    assert not (tmp_path / "run.json").exists()
    assert swept(root, tmp_path).now == 12


def test_a_finished_run_is_looked_at_without_a_lock(root: Path, run: Path) -> None:
    with lock_folder(run, "busy", print):
        assert (swept(root, run).before, swept(root, run).now) == (12, 0)
