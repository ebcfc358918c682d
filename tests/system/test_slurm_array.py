"""One build as a Slurm array (pipeline/launch/extract.sbatch), on a real Slurm: cancelled, requeued, out of time."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

from posenet_store.cli import main
from posenet_store.files import read_json
from tests.support.processes import waited
from tests.support.slurm_node import slurm
from tests.support.small import contents, write_images

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "pipeline/launch/extract.sbatch"
SMALL = ("--cpus-per-task=1", "--mem=1500M", "--time=00:05:00", "--array=1-2")
NETWORK = ("--backbone", "resnet18", "--weights", "random:0", "--device", "cpu", "--size", "160", "--no-probes")
IMAGES = 200  # four blocks, two a task


def stub(folder: Path, *words: str, **environment: str) -> list[str]:
    """The words that the script gives to its interpreter, here a shell script that writes them down."""
    python = folder / "python"
    python.write_text('#!/bin/sh\n[ "$1" = -c ] || for word in "$@"; do echo "$word"; done\n')
    python.chmod(0o755)
    ids = {"SLURM_ARRAY_TASK_ID": "2", "SLURM_ARRAY_TASK_COUNT": "8", "SLURM_ARRAY_TASK_MIN": "1", "PYTHON": str(python)}
    done = subprocess.run(
        ["bash", str(SCRIPT), *words], env=os.environ | ids | environment, capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()


@pytest.mark.parametrize("words", [(), ("--backbone", "pixels", "--images", "/data/my photos", "--layout", "readout")])
def test_the_command_of_a_task_is_one_that_the_command_line_takes(tmp_path: Path, words: tuple[str, ...]) -> None:
    *program, name, options = [*(command := stub(tmp_path, *words))[:3], command[3:]]
    assert (program, name) == (["-m", "posenet_store"], "build-store")
    context = main.commands[name].make_context(name, options)
    assert context.params["part"] == (2, 8)
    assert context.params["source"] == (words[3] if words else "duts-te")


def test_single_tasks_of_an_array_can_be_repeated(tmp_path: Path) -> None:
    assert "2/16" in stub(tmp_path, PARTS="16")
    assert "2/8" in stub(tmp_path)


@pytest.mark.parametrize(
    ("array", "part"),
    [
        ({"ID": "0", "MIN": "0", "STEP": "1", "COUNT": "8"}, "1/8"),
        ({"ID": "7", "MIN": "0", "STEP": "1", "COUNT": "8"}, "8/8"),
        ({"ID": "15", "MIN": "1", "STEP": "2", "COUNT": "8"}, "8/8"),
    ],
)
def test_arrays_from_zero_and_with_steps_are_builds(tmp_path: Path, array: dict[str, str], part: str) -> None:
    assert part in stub(tmp_path, **{f"SLURM_ARRAY_TASK_{name}": value for name, value in array.items()})


def test_an_interpreter_without_the_package_is_not_replaced_by_another(tmp_path: Path) -> None:
    answer = subprocess.run(
        ["bash", str(SCRIPT)], env=os.environ | {"PYTHON": str(tmp_path / "typo")}, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 2
    assert "set PYTHON to one that has" in answer.stdout


@pytest.mark.parametrize(("new", "restarts", "requeued"), [(0, "1", False), (2, "1", True), (0, "0", True)])
def test_a_task_goes_back_into_the_queue_only_with_progress(tmp_path: Path, new: int, restarts: str, requeued: bool) -> None:
    """The build and Slurm are scripts: the one says what it has kept and ends on SIGTERM, the other is named on the log."""
    python, scontrol = tmp_path / "python", tmp_path / "scontrol"
    kept = f"echo '5 of 9 blocks are kept, {new} of them new' >&2; kill %1; exit 143"
    python.write_text(f'#!/bin/bash\n[ "$1" = -c ] && exit\ntrap "{kept}" TERM\ntouch {tmp_path}/begun\nsleep 30 &\nwait\n')
    scontrol.write_text('#!/bin/sh\necho "scontrol $@"\n')
    for path in (python, scontrol):
        path.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHON": str(python), "SLURM_RESTART_COUNT": restarts,
                   "SLURM_JOB_ID": "7", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "1"}  # fmt: skip
    with started_task(environment) as task:
        assert waited((tmp_path / "begun").exists, 10)
        task.send_signal(signal.SIGUSR1)
        output, errors = task.communicate(timeout=20)
    assert task.returncode == 143, errors
    assert ("scontrol requeue 7_1" in output) == requeued
    assert ("without a new block" in output) != requeued


def test_the_exit_code_is_the_builds(tmp_path: Path) -> None:
    (tmp_path / "python").write_text('#!/bin/sh\n[ "$1" = -c ] || exit 3\n')
    (tmp_path / "python").chmod(0o755)
    ids = {"SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_TASK_COUNT": "1", "PYTHON": str(tmp_path / "python")}
    assert subprocess.run(["bash", str(SCRIPT)], env=os.environ | ids, check=False).returncode == 3


@contextmanager
def started_task(environment: dict[str, str]) -> Iterator["subprocess.Popen[str]"]:
    """Run the script as Slurm does."""
    task = subprocess.Popen(
        ["bash", str(SCRIPT)], env=os.environ | environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield task
    finally:
        task.kill()


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, and `plain`: their store as one process makes it."""
    lab = tmp_path_factory.mktemp("array")
    write_images(lab / "pictures", IMAGES)
    command = [sys.executable, str(ROOT / "cli.py"), "build-store", *NETWORK, "--images", "pictures", "--stores", "plain"]
    subprocess.run(command, cwd=lab, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True, capture_output=True)
    return lab


def submit(lab: Path, stores: str) -> str:
    words = [*NETWORK, "--images", str(lab / "pictures"), "--stores", str(lab / stores)]
    environment = os.environ | {"PYTHON": sys.executable}
    where = [f"--output={lab}/{stores}-%A_%a.log", f"--chdir={lab}"]  # any folder will do
    command = ["sbatch", "--parsable", *SMALL, *where, str(SCRIPT), *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def states(job: str) -> list[str]:
    return slurm("squeue", "--noheader", "--array", f"--jobs={job}", "--format=%a %T %r").splitlines() if queued(job) else []


def queued(job: str) -> bool:
    return job in slurm("squeue", "--noheader", "--format=%F").split()


def commits(lab: Path, stores: str) -> int:
    return len(list((lab / stores).glob("*/commits/b*.json")))


def same_as_plain(lab: Path, stores: str) -> None:
    (first,), (other,) = (lab / "plain").iterdir(), (lab / stores).iterdir()
    assert contents(other) == contents(first)
    assert read_json(other / "manifest.json")["store_id"] == read_json(first / "manifest.json")["store_id"]
    checked = CliRunner().invoke(main, ["verify", str(other), "--deep"])
    assert checked.exit_code == 0, checked.output


def logs(lab: Path, stores: str) -> str:
    return "".join(path.read_text() for path in sorted(lab.glob(f"{stores}-*.log")))


@pytest.mark.usefixtures("cluster")
def test_an_array_cancelled_half_way_and_submitted_again_makes_the_store_of_one_process(lab: Path) -> None:
    job = submit(lab, "cancelled")
    assert waited(lambda: commits(lab, "cancelled") > 0, 120), logs(lab, "cancelled")
    slurm("scancel", job)
    assert waited(lambda: not queued(job), 60)
    (store,) = (lab / "cancelled").iterdir()
    assert 0 < commits(lab, "cancelled") < 4
    assert not (store / "manifest.json").exists()
    before = {path: path.stat().st_mtime_ns for path in store.glob("commits/*.json")}
    again = submit(lab, "cancelled")
    assert waited(lambda: not queued(again), 180)
    assert {path: path.stat().st_mtime_ns for path in before} == before  # nothing was done twice
    same_as_plain(lab, "cancelled")


@pytest.mark.usefixtures("cluster")
def test_a_requeued_task_and_one_out_of_time_go_on_by_themselves(lab: Path) -> None:
    """Task 1 is requeued by hand, as preemption does it; task 2 gets the signal that comes before its time limit."""
    job = submit(lab, "requeued")
    assert waited(lambda: [state.split()[1] for state in states(job)] == ["RUNNING"] * 2, 60), states(job)
    assert waited(lambda: commits(lab, "requeued") > 0, 120), logs(lab, "requeued")
    slurm("scancel", "--batch", "--signal=USR1", f"{job}_2")
    slurm("scontrol", "requeue", f"{job}_1")
    assert waited(lambda: "out of time; back into the queue" in logs(lab, "requeued"), 60), logs(lab, "requeued")
    assert commits(lab, "requeued") < 4
    assert waited(lambda: all("PENDING" in state for state in states(job)), 60), states(job)
    # Slurm lets a requeued task wait for two minutes. One that starts within the second of its requeue has no valid
    # credential ("Job credential revoked"), and Slurm drops it.
    time.sleep(3)
    for task in (1, 2):
        slurm("scontrol", "update", f"JobId={job}_{task}", "StartTime=now")
    waited(lambda: not queued(job), 120)
    assert not queued(job), states(job)
    same_as_plain(lab, "requeued")
