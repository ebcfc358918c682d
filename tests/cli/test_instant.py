"""Commands that compute nothing load nothing heavy, and a sweep with nothing to do writes nothing."""

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from posenet_store.images.sources import load_image_set
from tests.support.runs import cli
from tests.support.small import built_store, store_with_probes, tiny_backbone, write_images

HEAVY = ("torch", "scipy.stats", "matplotlib", "dask", "distributed", "zarr", "h5py", "jinja2", "asyncio")
LIST_HEAVY = f"""
import sys
from posenet_store.cli import main
main(sys.argv[1:], standalone_mode=False)
print("loaded:", *(name for name in {HEAVY} if name in sys.modules))
"""
SWEEP = 'train = ["photos"]\ntargets = ["H", "G"]\nprotocols = ["ridge"]\nkernels = [1, 3]\n'


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the stores of a tiny network and a finished run of four heads."""
    home = tmp_path_factory.mktemp("home")
    store_with_probes(home / "stores", home / "photos")
    (home / "mine.toml").write_text(SWEEP)
    result = cli("sweep", home / "mine.toml", "--stores", home / "stores", "--run", home / "run", "--scheduler", "inline")
    assert result.exit_code == 0, result.output
    return home


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["stores", "--stores", "stores"],
        ["inspect", "stores/tiny-photos"],
        ["verify", "stores/tiny-photos"],
        ["table", "run"],
        ["table", "run", "--by", "kernel"],
        ["compare", "run", "--between", "kernel=1,3"],
        ["sweep", "mine.toml", "--stores", "stores", "--run", "run"],
        ["sweep", "mine.toml", "--stores", "stores", "--run", "run", "--plan"],
    ],
    ids=" ".join,
)
def test_what_computes_nothing_loads_nothing_heavy(home: Path, words: Sequence[str]) -> None:
    named = [str(next(home.glob(word + "-*"))) if word.startswith("stores/") else word for word in words]
    done = subprocess.run(
        [sys.executable, "-c", LIST_HEAVY, *named], cwd=home, capture_output=True, text=True, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "loaded:"


def sweep_again(home: Path, run: Path, text: str = SWEEP) -> dict[str, int]:
    """Sweep once more in this process; return when each of the run's files was written last."""
    (home / "mine.toml").write_text(text)
    result = cli("sweep", home / "mine.toml", "--stores", home / "stores", "--run", run, "--scheduler", "inline")
    assert result.exit_code == 0, result.output
    return {str(path.relative_to(run)): path.stat().st_mtime_ns for path in run.rglob("*")}


def test_nothing_trained_is_nothing_written(home: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(home / "run", tmp_path / "run"))
    page = run / "report.html"
    page.write_text("a page of three runs")
    written = {str(path.relative_to(run)): path.stat().st_mtime_ns for path in run.rglob("*")}
    assert sweep_again(home, run) == written
    assert page.read_text() == "a page of three runs"


def test_what_a_killed_sweep_did_not_write_is_written(home: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(home / "run", tmp_path / "run"))
    (run / "report.html").unlink()
    assert "report.html" in sweep_again(home, run)
    (run / "results.csv").unlink()
    before = (run / "report.html").stat().st_mtime_ns
    assert sweep_again(home, run)["report.html"] > before


def test_a_sweep_of_fewer_cells_writes_its_tables_again(home: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(home / "run", tmp_path / "run"))
    sweep_again(home, run, SWEEP.replace("[1, 3]", "[3]"))
    assert len((run / "results.csv").read_text().splitlines()) == 1 + 2


def test_a_page_of_several_runs_has_a_path_of_its_own(home: Path, tmp_path: Path) -> None:
    runs = [Path(shutil.copytree(home / "run", tmp_path / name)) for name in ("one", "two")]
    page = cli("report", *runs).stdout.strip()
    assert Path(page) == tmp_path / "one+two.html"
    assert cli("report", runs[0]).stdout.strip() == str(runs[0] / "report.html")


def test_a_plan_says_that_heads_are_only_scored(home: Path, tmp_path: Path) -> None:
    stores = Path(shutil.copytree(home / "stores", tmp_path / "stores"))
    built_store(stores, load_image_set(str(write_images(tmp_path / "bear", 2, seed=5))), tiny_backbone())
    (tmp_path / "mine.toml").write_text(SWEEP)
    words = ("sweep", tmp_path / "mine.toml", "--stores", stores, "--run", home / "run", "--plan")
    facts = json.loads(cli(*words, "--json").stdout)
    assert [(task["cells"], task["way"]) for task in facts["passes"]] == [(4, "only scored")]
    assert "only scored" in cli(*words).stdout
