"""Odd disks: without locks and fsync of folders (imitated before the C library), and with a memory for missing names."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import h5py
import pytest

from posenet_store.store.catalogue import describe_store
from posenet_store.store.reader import open_store
from tests.support.processes import program
from tests.support.small import write_images

ROOT = Path(__file__).parents[2]
REFUSE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
static void record(const char *call) {
  FILE *file = fopen(getenv("REFUSED"), "a");
  if (file) { fprintf(file, "%s\\n", call); fclose(file); }
}
int flock(int fd, int operation) { (void)fd; (void)operation; record("flock"); errno = ENOLCK; return -1; }
int fsync(int fd) {
  static int (*real)(int);
  struct stat status;
  if (!real) real = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
  if (fstat(fd, &status) == 0 && S_ISDIR(status.st_mode)) { record("fsync"); errno = EINVAL; return -1; }
  return real(fd);
}
"""
SWEEP = 'train = ["photos"]\ntargets = ["H"]\nseeds = [0]\nprotocols = ["ridge"]\n'
READ = (
    "import sys; from pathlib import Path; from posenet_store.backbones.hed import read_arrays; read_arrays(Path(sys.argv[1]))"
)


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """The environment of a process whose disks refuse locks, and to sync folders."""
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler")
    (tmp_path / "refuse.c").write_text(REFUSE)
    library = tmp_path / "refuse.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, tmp_path / "refuse.c", "-ldl"], check=True)
    return os.environ | {"LD_PRELOAD": str(library), "REFUSED": str(tmp_path / "refused")}


def test_stores_runs_and_weights_need_neither(tmp_path: Path, environment: dict[str, str]) -> None:
    write_images(tmp_path / "photos", 6)
    (tmp_path / "sweep.toml").write_text(SWEEP)
    with h5py.File(tmp_path / "weights.h5", "w") as file:
        file["kernel"] = [1.0, 2.0]
    commands = [
        [str(ROOT / "cli.py"), "build-store", "--backbone", "pixels", "--images", "photos", "--stores", "new/stores"],
        [str(ROOT / "cli.py"), "sweep", "sweep.toml", "--stores", "new/stores", "--run", "new/run", "--scheduler", "inline"],
        ["-c", READ, "weights.h5"],
    ]
    for command in commands:
        done = subprocess.run(
            [sys.executable, *command], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    assert "fsync" in (tmp_path / "refused").read_text()


@contextmanager
def mount_again(folder: Path, mounted: Path) -> Iterator[Path]:
    """Mount a folder once more, as a client of a network disk: for twenty seconds it remembers that a name was missing."""
    mounted.mkdir()
    remembering = "negative_timeout=20,entry_timeout=20,attr_timeout=20"
    done = subprocess.run(
        [program("bindfs", ["bindfs"]), "-o", remembering, str(folder), str(mounted)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        pytest.skip(f"bindfs can't mount here: {done.stderr.strip()}")
    try:
        yield mounted
    finally:
        subprocess.run(["umount", "--lazy", str(mounted)], check=True)


def test_parts_on_a_disk_that_remembers_missing_names_end_in_a_sealed_store(tmp_path: Path) -> None:
    write_images(tmp_path / "photos", 150)  # three blocks
    (tmp_path / "disk").mkdir()
    build = ["build-store", "--backbone", "pixels", "--images", str(tmp_path / "photos"), "--no-probes"]
    with ExitStack() as mounts:
        first, second = (mounts.enter_context(mount_again(tmp_path / "disk", tmp_path / name)) for name in ("first", "second"))
        commands = [
            [*build, "--stores", str(first), "--part", "1/3"],
            ["stores", "--stores", str(first)],  # looks for the records of the other blocks
            [*build, "--stores", str(second), "--part", "2/3"],
            [*build, "--stores", str(first), "--part", "3/3"],
        ]
        for command in commands:
            done = subprocess.run([sys.executable, str(ROOT / "cli.py"), *command], capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
    (store,) = (tmp_path / "disk").glob("pixels*")
    assert describe_store(store).sealed
    assert len(open_store(store).ids) == 150
