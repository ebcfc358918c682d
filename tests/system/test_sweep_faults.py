"""Sweeps whose machines fail: real processes are killed, disks fill, schedulers go; no cell is lost and none is done twice."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import AbstractContextManager, chdir
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner, Result

from posenet_store.cli import main
from posenet_store.store.catalogue import list_stores
from posenet_store.sweep.plan import SweepPlan, plan_sweep
from posenet_store.sweep.run import SweepResult, run_sweep
from posenet_store.sweep.spec import load_sweep
from tests.support.disks import mount_disk
from tests.support.processes import DaskProcesses, started, waited
from tests.support.small import store_with_probes

NETWORKS = 3
CELLS = 2 * NETWORKS
# One pass a network, of two cells; `some` take some seconds, so that there is a middle to fail in.
SPEC = 'train = ["photos"]\ntargets = ["H", "V"]\nseeds = [0]\n[report-2020]\nepochs = {}\n'
EPOCHS = {"quick": 2, "some": 4000}
# A shell starts background jobs with SIGINT ignored; whoever runs the tests, the sweep hears it as in a terminal.
MAIN = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from posenet_store.cli import main; main()"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the stores of three networks, and sweeps over them."""
    lab = tmp_path_factory.mktemp("lab")
    for seed in range(NETWORKS):
        store_with_probes(lab / "stores", lab / "photos", seed=seed)
    for name, epochs in EPOCHS.items():
        (lab / f"{name}.toml").write_text(SPEC.format(epochs))
    return lab


def words(spec: str, run: Path, *options: str) -> list[str]:
    """The command, to be typed in the lab, with paths relative to it."""
    return ["sweep", f"{spec}.toml", "--stores", "stores", "--run", run.name, *options]


def process(
    lab: Path, spec: str, run: Path, *options: str, group: bool = False
) -> AbstractContextManager["subprocess.Popen[str]"]:
    """Type the command in a process of its own."""
    return started([sys.executable, "-c", MAIN, *words(spec, run, *options)], lab, group)


def here(lab: Path, spec: str, run: Path, *options: str) -> Result:
    """Type the command in this process."""
    with chdir(lab):
        return CliRunner().invoke(main, words(spec, run, *options))


def records(run: Path) -> dict[Path, int]:
    """When each record was written."""
    return {path: path.stat().st_mtime_ns for path in (run / "cells").glob("*.json")}


def some(run: Path) -> bool:
    return bool(records(run))


def completed(lab: Path, spec: str, run: Path) -> None:
    """Type the command again: it does what is missing, leaves the rest alone, and the table has every cell once."""
    before = records(run)
    again = here(lab, spec, run, "--scheduler", "inline")
    assert again.exit_code == 0, again.stderr
    missing = CELLS - len(before)
    assert f"{missing} heads trained, {len(before)} were finished before" in again.stderr
    assert not missing or re.search(rf"^\d+ passes, {missing} heads, ", again.stderr, re.MULTILINE)
    assert {path: when for path, when in records(run).items() if path in before} == before
    whole(lab, spec, run)


def whole(lab: Path, spec: str, run: Path) -> None:
    """Every cell is in the table and on disk, once, and nothing else."""
    ids = sorted(cell.id for cell in planned(lab, spec).cells)
    assert len(ids) == CELLS
    assert sorted(row["id"] for row in json.loads((run / "results.json").read_text())) == ids
    for folder in ("cells", "heads", "scores"):
        assert sorted(path.stem for path in (run / folder).iterdir() if not path.name.endswith(".tmp")) == ids


def planned(lab: Path, spec: str) -> SweepPlan:
    return plan_sweep(load_sweep(lab / f"{spec}.toml"), list_stores(lab / "stores")[0], lab / "stores")


def swept(lab: Path, run: Path, scheduler: str) -> SweepResult:
    return run_sweep(load_sweep(lab / "quick.toml"), planned(lab, "quick"), run, scheduler=scheduler, workers=2)


def test_a_killed_worker_costs_nothing_but_its_pass_again(lab: Path) -> None:
    run = lab / "worker"
    with process(lab, "some", run, "--workers", "2") as sweep:
        assert waited(lambda: some(run), 240)
        workers = [process for process in psutil.Process(sweep.pid).children() if "spawn_main" in " ".join(process.cmdline())]
        assert len(workers) == 2
        for worker in workers:
            worker.kill()
        assert len(records(run)) < CELLS
        _, errors = sweep.communicate(timeout=240)
    assert sweep.returncode == 0, errors
    assert f"{CELLS} heads trained" in errors
    whole(lab, "some", run)


def test_a_killed_driver_leaves_no_process_and_the_same_command_does_the_rest(lab: Path) -> None:
    run = lab / "killed"
    with process(lab, "some", run, "--workers", "2") as sweep:
        assert waited(lambda: some(run), 240)
        children = psutil.Process(sweep.pid).children(recursive=True)
        sweep.kill()
        assert psutil.wait_procs(children, timeout=60)[1] == []
    assert len(records(run)) < CELLS
    completed(lab, "some", run)


@pytest.mark.parametrize(
    ("sent", "code", "sentence"),
    [
        (signal.SIGINT, 130, rf"error: interrupted; \d of {CELLS} heads are"),
        (signal.SIGTERM, 143, "terminated; finished work is"),
    ],
)
def test_a_driver_asked_to_stop_says_one_sentence(lab: Path, sent: signal.Signals, code: int, sentence: str) -> None:
    """To the whole group, as a terminal or a batch system does. Workers may end what they are at, so any cell may be there."""
    run = lab / sent.name
    with process(lab, "some", run, "--workers", "1", group=True) as sweep:
        assert waited(lambda: some(run), 240)
        os.killpg(sweep.pid, sent)
        _, errors = sweep.communicate(timeout=240)
    assert sweep.returncode == code
    assert re.search(rf"^{sentence} kept: rerun the command to continue$", errors, re.MULTILINE)
    assert "Traceback" not in errors
    completed(lab, "some", run)


def test_a_killed_scheduler_is_one_sentence_and_the_same_command_does_the_rest(lab: Path) -> None:
    """The workers are in another folder than the command: its relative paths mean the same to them."""
    run = lab / "scheduler"
    with DaskProcesses() as dask:
        dask.worker()
        with process(lab, "some", run, "--scheduler", dask.address) as sweep:
            assert waited(lambda: some(run), 240)
            dask.running[0].kill()
            _, errors = sweep.communicate(timeout=240)
    assert sweep.returncode == 1
    assert errors.splitlines()[-1].startswith(f"error: the Dask scheduler of {dask.address} was lost or restarted.")
    assert "Traceback" not in errors
    assert len(records(run)) < CELLS
    completed(lab, "some", run)


@pytest.mark.parametrize("scheduler", ["inline", "local"])
def test_a_full_disk_fails_the_passes_that_it_hits(lab: Path, tmp_path: Path, scheduler: str) -> None:
    """Room for three heads of six."""
    run = tmp_path / "run"
    with mount_disk(run / "heads", "12k") as remount:
        outcome = swept(lab, run, scheduler)
        assert 0 <= outcome.now < CELLS
        assert len(outcome.failures) == (CELLS - outcome.now) / 2
        assert all(failure.endswith("(2 cells): No space left on device") for failure in outcome.failures)
        before = records(run)
        assert len(before) in (2, 3)
        remount("size=1m")
        again = swept(lab, run, scheduler)
        assert (again.before, again.now, again.failures) == (len(before), CELLS - len(before), ())
        assert {path: when for path, when in records(run).items() if path in before} == before
        whole(lab, "quick", run)


def test_a_broken_store_fails_its_pass_on_a_worker_too(lab: Path, tmp_path: Path) -> None:
    copy = tmp_path / "lab"
    shutil.copytree(lab / "stores", copy / "stores", ignore=shutil.ignore_patterns("moments"))
    shutil.copy(lab / "quick.toml", copy)
    broken = planned(copy, "quick").passes[0].train
    next(broken.glob("data.zarr/aligned/c.0.0.0.0")).unlink()
    done = here(copy, "quick", copy / "run", "--workers", "2")
    assert done.exit_code == 1
    assert re.search(rf"^failed: {broken.name}, aligned.*, report-2020 \(2 cells\): .*is missing", done.stderr, re.MULTILINE)
    assert done.stderr.count("failed:") == 1
    assert "finished heads are kept; rerun the command to train those that failed" in done.stderr
    assert len(records(copy / "run")) == CELLS - 2
