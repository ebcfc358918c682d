"""Names that are no UTF-8, from the images to the page."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.small import write_images


def test_folders_whose_names_are_not_utf_8(tmp_path: Path) -> None:
    """The command line is on record, and paths are printed as their bytes are."""
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    try:
        write_images(Path(os.fsdecode(folder)), 40)
    except OSError as error:
        pytest.skip(f"this file system refuses such names: {error}")
    sweep = tmp_path / "mine.toml"
    sweep.write_text('protocols = ["ridge"]\ntargets = ["H"]\nkernels = [1]')

    command = b" ".join(
        [b"run", folder, b"--backbone pixels --sweep mine.toml --stores", folder + b"/stores", b"--out", folder + b"/run"]
    )
    code = f"import sys; from posenet_store.cli import main; sys.argv[1:] = {os.fsdecode(command).split()!r}; main()"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, check=False)
    assert (done.returncode, b"Traceback" in done.stderr) == (0, False), done.stderr
    assert folder + b"/run/report.html" in done.stdout
