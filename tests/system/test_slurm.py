"""Sweeps as Slurm jobs, on a real Slurm of one node."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from posenet_store.errors import UsageError
from posenet_store.parallel.executors import count_workers, run_tasks
from posenet_store.parallel.pools import DASHBOARD
from posenet_store.parallel.slurm import SlurmSettings, _make_cluster, find_slurm_file, load_slurm_settings
from tests.support.processes import waited
from tests.support.slurm_node import slurm
from tests.support.small import store_with_probes

ROOT = Path(__file__).parents[2]
SETTINGS = """
partition = "tiny"
cores = 1
memory = "1800MB"
walltime = "00:05:00"
workers = 2
interface = "lo"
"""
BASE = 'train = ["photos"]\ntargets = ["H"]\nseeds = [0]\n'
SHORT = BASE + 'networks = ["tiny-random0"]\nprotocols = ["report-2020", "ridge"]\n[report-2020]\nepochs = 2\n'
LONG = BASE + "[report-2020]\nepochs = {}\n"  # three networks: three passes of some seconds each


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the stores of three networks over 14 photographs, and the settings of jobs."""
    lab = tmp_path_factory.mktemp("lab")
    for seed in range(3):
        store_with_probes(lab / "stores", lab / "photos", seed=seed)
    (lab / "slurm.toml").write_text(f'{SETTINGS}log_directory = "{lab}/logs"\n')
    return lab


def sweep(lab: Path, spec: str, name: str, *words: str) -> "subprocess.Popen[str]":
    (lab / f"{name}.toml").write_text(spec)
    command = [sys.executable, str(ROOT / "cli.py"), "sweep", f"{name}.toml", "--stores", "stores", "--run", name, *words]
    return subprocess.Popen(command, cwd=lab, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finished(process: "subprocess.Popen[str]") -> str:
    """Standard error of a sweep that ends well."""
    _, errors = process.communicate(timeout=180)
    assert process.returncode == 0, errors
    return errors


def rows(run: Path) -> dict[str, float]:
    """MAE by cell; every cell once, in the table and on disk."""
    records = json.loads((run / "results.json").read_text())
    by_id = {row["id"]: row["held-out:mae"] for row in records}
    assert len(by_id) == len(records) == len(list((run / "cells").glob("*.json")))
    return by_id


@pytest.mark.usefixtures("cluster")
def test_slurm_jobs_give_the_results_of_inline_and_end_with_the_sweep(lab: Path) -> None:
    errors = finished(sweep(lab, SHORT, "jobs", "--scheduler", "slurm:slurm.toml"))
    assert f"2 Slurm jobs submitted (squeue --me); their output: {lab}/logs" in errors
    assert len(list((lab / "logs").glob("*.err"))) == 2
    assert waited(lambda: not slurm("squeue", "--noheader"), 60)
    finished(sweep(lab, SHORT, "here", "--scheduler", "inline"))
    assert len(rows(lab / "here")) == 2
    assert rows(lab / "jobs") == pytest.approx(rows(lab / "here"), rel=1e-9)


@pytest.mark.usefixtures("cluster")
def test_a_store_is_built_in_jobs(lab: Path) -> None:
    build = ["build-store", "--backbone", "pixels", "--images", "./photos", "--stores", "built", "--no-probes", "--json"]
    command = [sys.executable, str(ROOT / "cli.py"), *build, "--scheduler", "slurm:slurm.toml", "--workers", "1"]
    done = subprocess.run(command, cwd=lab, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "1 Slurm jobs submitted" in done.stderr
    assert "complete; nothing to do" in done.stderr  # for this process, after the job


@pytest.mark.usefixtures("cluster")
def test_a_cancelled_job_is_replaced(lab: Path) -> None:
    """One job at a time; it is cancelled when one of three passes is done."""
    process = sweep(lab, LONG.format(4000), "cancelled", "--scheduler", "slurm:slurm.toml", "--workers", "1")
    assert waited(lambda: any((lab / "cancelled/cells").glob("*.json")), 120)
    (job,) = slurm("squeue", "--noheader", "--states=R", "--format=%A").split()
    slurm("scancel", job)
    assert len(list((lab / "cancelled/cells").glob("*.json"))) < 3
    assert waited(lambda: bool(set(slurm("squeue", "--noheader", "--format=%A").split()) - {job}), 60)
    finished(process)
    assert len(rows(lab / "cancelled")) == 3


@pytest.mark.usefixtures("cluster")
def test_a_killed_driver_leaves_no_job_and_the_same_command_does_the_rest(lab: Path) -> None:
    process = sweep(lab, LONG.format(4001), "killed", "--scheduler", "slurm:slurm.toml", "--workers", "1")
    assert waited(lambda: any((lab / "killed/cells").glob("*.json")), 120)
    process.kill()
    process.communicate()
    assert waited(lambda: not slurm("squeue", "--noheader"), 60)
    before = {path: path.stat().st_mtime_ns for path in (lab / "killed/cells").glob("*.json")}
    errors = finished(sweep(lab, LONG.format(4001), "killed", "--scheduler", "local", "--workers", "1"))
    assert f"{3 - len(before)} heads trained, {len(before)} were finished before" in errors
    assert len(rows(lab / "killed")) == 3
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize(
    ("key", "value", "message"),
    [("partition", '"nowhere"', "Invalid partition name"), ("walltime", '"soon"', "Invalid --time"),
     ("interface", '"ib77"', "not a valid network interface"), ("memory", '"much"', "byte unit")],
)  # fmt: skip
def test_what_slurm_refuses_is_one_sentence(lab: Path, tmp_path: Path, key: str, value: str, message: str) -> None:
    lines = [line for line in (lab / "slurm.toml").read_text().splitlines() if not line.startswith(key)]
    bad = tmp_path / "bad.toml"
    bad.write_text("\n".join([*lines, f"{key} = {value}"]))
    with pytest.raises(UsageError, match=message):
        list(run_tasks(max, [1], f"slurm:{bad}"))


@pytest.mark.parametrize(("memory", "lines"), [("", 0), ("1800MB", 1)])
def test_without_a_memory_jobs_ask_for_none(memory: str, lines: int) -> None:
    """Some clusters refuse --mem."""
    settings = SlurmSettings(memory=memory, interface="lo")
    with _make_cluster(Path("my.toml"), settings, DASHBOARD) as cluster:
        script = cluster.job_script()
    assert script.count("--mem=") == lines
    assert ("--memory-limit 0" in script) == (not memory)


@pytest.mark.parametrize(
    ("text", "message"),
    [('queue = "x"', r"unknown key in .*'queue'.*accepted: partition, account, cores, memory, walltime, workers"),
     ("workers = 0", "give 1 to 10,000"), ("cores = '4'", "give a whole number"), ("job_extra_directives = 'x'", "give a list"),
     ("cores =", "not valid TOML")],
)  # fmt: skip
def test_a_mistake_in_the_settings_is_one_clear_sentence(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "my.toml").write_text(text)
    with pytest.raises(UsageError, match=message):
        load_slurm_settings(tmp_path / "my.toml")


def test_missing_settings_say_how_to_name_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"my.toml does not exist.*launch show slurm.toml"):
        list(run_tasks(max, [1], "slurm:my.toml"))


def test_settings_come_with_the_package_and_those_of_a_checkout_come_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_slurm_settings(find_slurm_file("slurm") or Path()) == SlurmSettings()
    (tmp_path / "pipeline/launch").mkdir(parents=True)
    (tmp_path / "pipeline/launch/slurm.toml").write_text("workers = 9\n")
    assert load_slurm_settings(find_slurm_file("slurm") or Path()).workers == 9


def test_the_ready_settings_are_the_defaults_and_explain_every_key() -> None:
    path = ROOT / "pipeline/launch/slurm.toml"
    assert load_slurm_settings(path) == SlurmSettings()
    comments = [line.split() for line in path.read_text().splitlines() if line.startswith("#")]
    assert {words[1] for words in comments if len(words) > 1} >= set(vars(SlurmSettings()))


def test_the_workers_option_counts_more_than_the_settings(tmp_path: Path) -> None:
    (tmp_path / "my.toml").write_text("workers = 7")
    assert count_workers(f"slurm:{tmp_path}/my.toml") == 7
    assert count_workers(f"slurm:{tmp_path}/my.toml", 3) == 3


def test_without_dask_jobqueue_the_way_out_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my.toml").write_text("")
    monkeypatch.setitem(sys.modules, "dask_jobqueue.slurm", None)
    with pytest.raises(UsageError, match=r"pip install 'posenet-store\[slurm\]'"):
        list(run_tasks(max, [1], f"slurm:{tmp_path}/my.toml"))
