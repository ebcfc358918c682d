"""Workers die inside each kind of step of a shared pass: what they did not finish is done again, and no bit differs."""

from pathlib import Path

import pytest

from posenet_store.images.sources import load_image_set
from posenet_store.sweep import share
from posenet_store.sweep.results import RunFiles
from tests.support.processes import DaskProcesses
from tests.support.small import built_store, tiny_backbone, write_images
from tests.sweep.test_share import list_numbers, swept

STEPS = {"SumSpan", "FitHeads", "ScoreRange", "WriteCells"}
PRELOAD = """
import os, signal
from pathlib import Path
from posenet_store.sweep import steps

marks, running = Path({marks!r}), []
if not hasattr(steps, "real"):  # Dask loads this file twice
    steps.real = steps._do_step, os.replace
do_step, replace = steps.real

def note_step(work, step):
    running[:] = [type(step).__name__]
    return do_step(work, step)

def replace_or_die(source, target, **options):
    if running and str(target).endswith(".safetensors"):
        try:
            (marks / running[0]).touch(exist_ok=False)
        except FileExistsError:
            pass
        else:
            os.kill(os.getpid(), signal.SIGKILL)
    return replace(source, target, **options)

steps._do_step, os.replace = note_step, replace_or_die
"""
"""The first worker that is about to give a file of a kind of step its name is killed."""


@pytest.mark.parametrize("keep", [False, True])
def test_workers_that_die_inside_steps_change_no_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: bool) -> None:
    monkeypatch.setattr(share, "SHARED_BYTES", 0)
    root, marks, preload = tmp_path / "stores", tmp_path / "marks", tmp_path / "preload.py"
    for images in (str(write_images(tmp_path / "photos", 43)), "probes"):
        built_store(root, load_image_set(images), tiny_backbone(), dtype="float16")
    marks.mkdir()
    preload.write_text(PRELOAD.format(marks=str(marks)))
    swept(root, tmp_path / "alone")
    with DaskProcesses() as dask:
        for _ in range(2):
            dask.worker("--preload", str(preload))
        outcome = swept(root, tmp_path / "run", keep=keep, scheduler=dask.address)
    assert (outcome.now, outcome.failures) == (20, ())
    assert {path.name for path in marks.iterdir()} == STEPS
    assert list_numbers(tmp_path / "run") == list_numbers(tmp_path / "alone")
    assert not RunFiles(tmp_path / "run").parts.exists()
