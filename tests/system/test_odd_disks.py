"""Disks that refuse what others do, imitated by a library in front of the C library: no lock, no fsync of a folder."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import pytest

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
