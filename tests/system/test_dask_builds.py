"""Builds on Dask workers of several threads: a lost worker, and two users of one worker, change no byte of a store."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import DaskProcesses, end, waited
from tests.support.small import contents, write_images

ROOT = Path(__file__).parents[2]
NETWORK = ("--backbone", "resnet18", "--weights", "random:0", "--device", "cpu", "--size", "96", "--no-probes")
REPEATS = int(os.environ.get("POSENET_REPEATS", "1"))
"""How often a worker is killed; `make test-system` does so once."""


def start_build(images: Path, stores: Path, *options: str) -> subprocess.Popen[str]:
    words = ("build-store", *NETWORK, "--images", str(images), "--stores", str(stores), *options)
    return subprocess.Popen(
        [sys.executable, str(ROOT / "cli.py"), *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(build: subprocess.Popen[str]) -> Path:
    """Wait for a build; return its store."""
    path, errors = build.communicate(timeout=300)
    assert build.returncode == 0, errors
    return Path(path.strip())


def count_blocks(stores: Path) -> int:
    return len(list(stores.glob("*/commits/*.json")))


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two folders of other images."""
    root = tmp_path_factory.mktemp("images")
    return [write_images(root / "mine", 320, seed=0), write_images(root / "theirs", 320, seed=1)]


@pytest.fixture(scope="module")
def expected(sets: list[Path], tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    """The stores of one process each."""
    root = tmp_path_factory.mktemp("alone")
    return [contents(finish(start_build(images, root / images.name))) for images in sets]


@pytest.mark.parametrize("number", range(REPEATS))
def test_a_lost_worker_changes_no_byte(number: int, sets: list[Path], expected: list[dict[str, str]], tmp_path: Path) -> None:
    with DaskProcesses() as dask:
        workers = [dask.worker("--nthreads", "4") for _ in range(2)]
        build = start_build(sets[0], tmp_path, "--scheduler", dask.address)
        assert waited(lambda: count_blocks(tmp_path) >= 1 + number % 3, 120), build.communicate(timeout=5)
        end(workers[number % 2])
        assert contents(finish(build)) == expected[0]


def test_two_users_of_one_worker_get_their_own_features(
    sets: list[Path], expected: list[dict[str, str]], tmp_path: Path
) -> None:
    with DaskProcesses() as dask:
        dask.worker("--nthreads", "4")
        builds = [start_build(images, tmp_path / images.name, "--scheduler", dask.address) for images in sets]
        assert [contents(finish(build)) for build in builds] == expected
