"""The image, built by buildah on a base made by debootstrap, and run as any user. It takes ten minutes and 30 GB of disk.

POSENET_TEST_IMAGE=1 pytest tests/system/test_image.py
POSENET_TEST_IMAGE=1 POSENET_TORCH_INDEX=file:///srv/wheels/simple pytest ...   # where torch is not on PyPI's index
"""

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.processes import program

ROOT = Path(__file__).parents[2]
BASE = re.findall(r"^FROM (python:\S+)", (ROOT / "docker/Dockerfile").read_text(), re.MULTILINE)[0]
TAG = "posenet-store:test"
QUIET = os.environ | {"BUILDAH_ISOLATION": "chroot"}  # no engine and no namespaces are needed
pytestmark = pytest.mark.skipif(
    "POSENET_TEST_IMAGE" not in os.environ, reason="builds an image of 7 GB for ten minutes: POSENET_TEST_IMAGE=1 asks for it"
)


def buildah(*words: object) -> str:
    """Run buildah; return its last line."""
    command = [program("buildah", ["buildah", "crun"]), *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, env=QUIET, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return (done.stdout.strip().splitlines() or [""])[-1]


def share_pip_settings(folder: Path) -> list[str]:
    """Return the options that give a build this machine's settings of pip, with the folders and certificates that they name."""
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True).stdout
    settings = dict(re.findall(r"^(?:global|:env:)\.([\w-]+)='(.*)'$", listed, re.MULTILINE))
    settings.pop("constraint", None)
    (folder / "pip.conf").write_text("[global]\n" + "".join(f"{name} = {value}\n" for name, value in settings.items()))
    index = os.environ.get("POSENET_TORCH_INDEX", "")
    paths = [Path(path.removeprefix("file://")) for path in " ".join([*settings.values(), index]).split() if "/" in path]
    present = {
        path.parent if path.name == "simple" else path for path in paths if path.exists()
    }  # an index is beside its files
    mounts = [word for path in sorted(present) for word in ("-v", f"{path}:{path}:ro")]
    torch = ["--build-arg", f"TORCH_INDEX={index}"] if index else []
    return ["-v", f"{folder / 'pip.conf'}:/etc/pip.conf:ro", *mounts, *torch]


def make_base(folder: Path) -> None:
    """Make an image of Debian with Python, under the name of the base, as no registry may be in reach."""
    packages = "--include=python3,python3-venv,ca-certificates"
    debootstrap = [program("debootstrap", ["debootstrap"]), "--variant=minbase", packages, "bookworm", str(folder)]
    subprocess.run(debootstrap, capture_output=True, check=True)
    (folder / "usr/local/bin/python").symlink_to("/usr/bin/python3")
    container = buildah("from", "scratch")
    buildah("add", container, folder, "/")
    buildah("commit", "--rm", container, f"docker.io/library/{BASE}")


@pytest.fixture(scope="module")
def container(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A container of the image."""
    folder = tmp_path_factory.mktemp("image")
    make_base(folder / "base")
    buildah("bud", "--pull-never", *share_pip_settings(folder), "-f", "docker/Dockerfile", "-t", TAG, ".")
    return buildah("from", "--pull-never", f"localhost/{TAG}")


def run(container: str, stores: Path, *words: str) -> Sequence[str]:
    """Run a command of the image as a user whom the image does not know."""
    return buildah("run", "--user", "12345:12345", "-v", f"{stores}:/app/stores", container, "posenet-store", *words).split()


@pytest.mark.timeout(2400)
def test_the_image_builds_and_any_user_can_build_a_store_with_it(container: str, tmp_path: Path) -> None:
    stores = tmp_path / "stores"
    stores.mkdir(mode=0o777)
    stores.chmod(0o777)
    network = ("--backbone", "resnet18", "--weights", "random:0", "--size", "64", "--no-probes")
    (path,) = run(container, stores, "build-store", *network, "--images", "synthetic:dead-leaves?n=8")
    assert (stores / Path(path).name / "manifest.json").stat().st_uid == 12345
