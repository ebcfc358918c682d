"""The wheel, installed outside the checkout: commands, templates and experiments are in it."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return the words that run the installed program, whose dependencies are those of this environment."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run(build, check=True)
    (wheel,) = folder.glob("posenet_store-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "installed")
    path = f"import sys; sys.path.insert(0, {str(folder / 'installed')!r})"
    code = f"{path}; from posenet_store.cli import main; main(prog_name='posenet-store')"
    return [sys.executable, "-c", code]


def run(program: list[str], folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*program, *words], cwd=folder, capture_output=True, text=True, check=False)


def test_an_experiment_runs_by_its_name_outside_the_checkout(program: list[str], tmp_path: Path) -> None:
    images = ("--images", "synthetic:dead-leaves?n=40")
    built = run(program, tmp_path, "build-store", "--backbone", "pixels", *images, "--layout", "aligned")
    assert built.returncode == 0, built.stderr
    swept = run(program, tmp_path, "sweep", "smoke", "--scheduler", "inline")
    assert swept.returncode == 0, swept.stderr
    assert (tmp_path / "runs/smoke/report.html").is_file()


def test_an_unknown_experiment_is_answered_with_the_nearest_name(program: list[str], tmp_path: Path) -> None:
    answer = run(program, tmp_path, "sweep", "tabel2")
    assert answer.returncode == 2
    assert "'table2'" in answer.stderr
    assert "cli.py" not in answer.stderr


def test_the_files_that_start_jobs_are_listed_and_written_out(program: list[str], tmp_path: Path) -> None:
    listed = run(program, tmp_path, "launch").stdout
    assert re.findall(r"^(\S+\.\w+) ", listed, re.MULTILINE) == ["extract.sbatch", "slurm.toml"]
    for name in ("extract.sbatch", "slurm.toml"):
        assert run(program, tmp_path, "launch", "show", name).stdout == (ROOT / "pipeline/launch" / name).read_text()
    refused = run(program, tmp_path, "launch", "show", "extract.sbach")
    assert (refused.returncode, "'extract.sbatch'" in refused.stderr) == (2, True)
