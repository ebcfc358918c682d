"""Sweeps as Slurm jobs, on a real Slurm of one node: the controller, the node and munge on loopback, from Debian's packages."""

import getpass
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from posenet_store.errors import UsageError
from posenet_store.executors import run_tasks, workers_at
from posenet_store.slurm import SlurmSettings, load_slurm
from processes import free_ports, waited
from support import store_with_probes

ROOT = Path(__file__).parents[1]
PACKAGES = ("slurm-wlm", "munge")
SEARCHED = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
CONFIGURATION = """
ClusterName=one
SlurmctldHost=localhost(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthInfo=socket={home}/munge.socket
StateSaveLocation={home}/state
SlurmdSpoolDir={home}/spool
SlurmctldPidFile={home}/slurmctld.pid
SlurmdPidFile={home}/slurmd.pid
MailProg=/bin/true
ProctrackType=proctrack/pgid
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=1,batch_sched_delay=0,bf_interval=1
KillWait=2
NodeName=node NodeHostname={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=4000
PartitionName=tiny Nodes=node Default=YES State=UP
"""
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


def program(name: str) -> str:
    """The path of one of Slurm's programs; installs them if that is possible, else skips."""
    if shutil.which(name, path=SEARCHED) is None:
        if shutil.which("apt-get") is None or os.geteuid() != 0:
            pytest.skip(f"{name} is missing, and only root on Debian can install it: apt-get install {' '.join(PACKAGES)}")
        install = ["apt-get", "install", "-y", "--no-install-recommends", *PACKAGES]
        for command in (["apt-get", "update"], install):
            quiet = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
            try:
                done = subprocess.run(command, capture_output=True, text=True, check=False, env=quiet, timeout=300)
            except subprocess.TimeoutExpired:
                pytest.skip(f"{' '.join(command)} did not end in five minutes")
            if done.returncode:
                pytest.skip(f"{' '.join(command)} failed: {(done.stderr.strip() or done.stdout.strip()).splitlines()[-1]}")
    return str(shutil.which(name, path=SEARCHED))


def slurm(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Slurm for this module's processes (SLURM_CONF); all it started ends with it."""
    home = tmp_path_factory.mktemp("slurm")
    for folder in ("state", "spool"):
        (home / folder).mkdir()
    key = home / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    configuration = home / "slurm.conf"
    facts = {"user": getpass.getuser(), "host": socket.gethostname().split(".")[0], "ports": free_ports(2), "home": home}
    configuration.write_text(CONFIGURATION.format(**facts))
    munge = {"key-file": key, "socket": home / "munge.socket", "pid-file": home / "munge.pid", "log-file": home / "munge.log",
             "seed-file": home / "munge.seed"}  # fmt: skip
    # --force: pytest's folders are private, and munged wants a socket that everyone reaches
    daemons = (
        [program("munged"), "--foreground", "--force", *(f"--{name}={value}" for name, value in munge.items())],
        [program("slurmctld"), "-D"],
        [program("slurmd"), "-D", "-N", "node"],
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(configuration))
        running: list[subprocess.Popen[bytes]] = []
        with (home / "daemons.log").open("wb") as log:
            try:
                for command in daemons:
                    running.append(subprocess.Popen(command, stdout=log, stderr=log))
                    waited((home / "munge.socket").exists, 5)
                if not waited(lambda: "idle" in _nodes(), 20):
                    last = (home / "daemons.log").read_text(errors="replace").splitlines()[-5:]
                    pytest.skip(f"Slurm does not start here: {' | '.join(last)}")
                yield
                slurm("scancel", "--me")
                waited(lambda: not slurm("squeue", "--noheader"), 20)
            finally:
                for process in reversed(running):
                    process.terminate()
                for process in running:
                    process.wait(timeout=20)


def _nodes() -> str:
    return subprocess.run(["sinfo", "--noheader", "--format=%T"], capture_output=True, text=True, check=False).stdout


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
    _, errors = process.communicate(timeout=90)
    assert process.returncode == 0, errors
    return errors


def rows(run: Path) -> dict[str, float]:
    """MAE by cell; every cell once, in the table and on disk."""
    found = json.loads((run / "results.json").read_text())
    by_id = {row["id"]: row["held-out:mae"] for row in found}
    assert len(by_id) == len(found) == len(list((run / "cells").glob("*.json")))
    return by_id


@pytest.mark.usefixtures("cluster")
def test_slurm_jobs_give_the_results_of_inline_and_end_with_the_sweep(lab: Path) -> None:
    errors = finished(sweep(lab, SHORT, "jobs", "--scheduler", "slurm:slurm.toml"))
    assert f"2 Slurm jobs submitted (squeue --me); their output: {lab}/logs" in errors
    assert len(list((lab / "logs").glob("*.err"))) == 2
    assert waited(lambda: not slurm("squeue", "--noheader"), 20)
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
    assert waited(lambda: any((lab / "cancelled/cells").glob("*.json")), 60)
    (job,) = slurm("squeue", "--noheader", "--states=R", "--format=%A").split()
    slurm("scancel", job)
    assert len(list((lab / "cancelled/cells").glob("*.json"))) < 3
    assert waited(lambda: bool(set(slurm("squeue", "--noheader", "--format=%A").split()) - {job}), 30)
    finished(process)
    assert len(rows(lab / "cancelled")) == 3


@pytest.mark.usefixtures("cluster")
def test_a_killed_driver_leaves_no_job_and_the_same_command_does_the_rest(lab: Path) -> None:
    process = sweep(lab, LONG.format(4001), "killed", "--scheduler", "slurm:slurm.toml", "--workers", "1")
    assert waited(lambda: any((lab / "killed/cells").glob("*.json")), 60)
    process.kill()
    process.communicate()
    assert waited(lambda: not slurm("squeue", "--noheader"), 30)
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
    kept = [line for line in (lab / "slurm.toml").read_text().splitlines() if not line.startswith(key)]
    bad = tmp_path / "bad.toml"
    bad.write_text("\n".join([*kept, f"{key} = {value}"]))
    with pytest.raises(UsageError, match=message):
        list(run_tasks(max, [1], f"slurm:{bad}"))


@pytest.mark.parametrize(
    ("text", "message"),
    [('queue = "x"', r"unknown key in .*'queue'.*accepted: partition, account, cores, memory, walltime, workers"),
     ("workers = 0", "at least 1"), ("cores = '4'", "give a whole number"), ("job_extra_directives = 'x'", "give a list"),
     ("cores =", "not valid TOML")],
)  # fmt: skip
def test_a_mistake_in_the_settings_is_one_clear_sentence(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "my.toml").write_text(text)
    with pytest.raises(UsageError, match=message):
        load_slurm(tmp_path / "my.toml")


def test_missing_settings_say_how_to_name_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"pipeline/launch/slurm.toml does not exist.*slurm:FILE"):
        list(run_tasks(max, [1], "slurm"))


def test_the_ready_settings_are_the_defaults_and_explain_every_key() -> None:
    path = ROOT / "pipeline/launch/slurm.toml"
    assert load_slurm(path) == SlurmSettings()
    comments = [line.split() for line in path.read_text().splitlines() if line.startswith("#")]
    assert {words[1] for words in comments if len(words) > 1} >= set(vars(SlurmSettings()))


def test_the_workers_option_counts_more_than_the_settings(tmp_path: Path) -> None:
    (tmp_path / "my.toml").write_text("workers = 7")
    assert workers_at(f"slurm:{tmp_path}/my.toml") == 7
    assert workers_at(f"slurm:{tmp_path}/my.toml", 3) == 3


def test_without_dask_jobqueue_the_way_out_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my.toml").write_text("")
    monkeypatch.setitem(sys.modules, "dask_jobqueue.slurm", None)
    with pytest.raises(UsageError, match=r"pip install 'posenet-store\[slurm\]'"):
        list(run_tasks(max, [1], f"slurm:{tmp_path}/my.toml"))
