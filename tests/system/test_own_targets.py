"""A map of the user's own as a target of heads that worker processes train: they find it in the run."""

from pathlib import Path

import pytest
from PIL import Image

from posenet_store.heads.targets import make_native_map
from posenet_store.report.run import open_run
from posenet_store.store.catalogue import list_stores
from posenet_store.sweep.plan import plan_sweep
from posenet_store.sweep.run import run_sweep
from posenet_store.sweep.spec import SweepSpec
from tests.support.small import store_with_probes

pytestmark = pytest.mark.system


def test_worker_processes_train_heads_on_a_map_of_the_users_own(tmp_path: Path) -> None:
    store_with_probes(tmp_path / "stores", tmp_path / "photos", 20)
    Image.fromarray(make_native_map("V")).save(tmp_path / "own.png")
    targets, protocols = (f"map:{tmp_path}/own.png", "V"), ("ridge", "standard")
    spec = SweepSpec("own", train=("photos",), targets=targets, protocols=protocols, seeds=(0,))
    plan = plan_sweep(spec, list_stores(tmp_path / "stores").stores, tmp_path / "stores")
    result = run_sweep(spec, plan, tmp_path / "run", scheduler="local", workers=2)
    assert not result.failures
    scores = {(result.cell.target, result.cell.protocol.name): result.scores for result in open_run(tmp_path / "run").results}
    (name,) = {target for target, _ in scores} - {"V"}
    assert len(scores) == 4
    for protocol in protocols:
        assert scores[name, protocol] == scores["V", protocol]
