"""What a killed process was writing is removed by the next command; what a living or suspended one is writing stays."""

import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from subprocess import PIPE, Popen

import pytest

from posenet_store.extraction.build import build_store, plan_store
from posenet_store.images.sources import load_image_set
from posenet_store.store.catalogue import list_stores
from posenet_store.sweep.plan import plan_sweep
from posenet_store.sweep.run import run_sweep
from posenet_store.sweep.spec import SweepSpec
from tests.support.small import store_with_probes, tiny_backbone

SPEC = SweepSpec("t", train=("photos",), targets=("H",), protocols=("ridge",), seeds=(0,))
WRITE = """
import sys
from contextlib import ExitStack
from pathlib import Path
from posenet_store.files import make_folder, replace_atomically
from posenet_store.temporaries import name_temporary
with ExitStack() as stack:
    for path in map(Path, sys.argv[2:]):
        stack.enter_context(replace_atomically(path)).write_bytes(b"half of it")
    make_folder(name_temporary(Path(sys.argv[1])) / "commits")
    print("writing", flush=True)
    sys.stdin.read()
"""


def start_writer(skeleton: Path, *paths: Path) -> "Popen[str]":
    """Start a process that is writing files, and making a store."""
    words = [sys.executable, "-c", WRITE, *map(str, (skeleton, *paths))]
    process = Popen(words, stdin=PIPE, stdout=PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "writing\n"
    return process


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[Path]:
    store_with_probes(tmp_path / "stores", tmp_path / "photos")
    yield tmp_path / "stores"


def test_the_next_command_removes_what_killed_writers_left(stores: Path, tmp_path: Path) -> None:
    plan = plan_sweep(SPEC, list_stores(stores)[0], stores)
    train = plan.passes[0].train
    run, moments = tmp_path / "run", stores / "moments" / train.name
    paths = [train / "commits/b00000.json", train / "data.zarr/f1/c.0.0.0.0"]
    paths += [run / "cells/0.json", run / "heads/0.safetensors", run / "results.csv", moments / "x.safetensors"]
    with ExitStack() as stack:
        writers = [stack.enter_context(start_writer(train, *paths)) for _ in range(3)]
        writers[0].kill()
        writers[0].wait()
        writers[1].send_signal(signal.SIGSTOP)

        def list_temporaries() -> list[Path]:
            return [*stores.rglob(".*.tmp"), *run.rglob(".*.tmp")]

        assert len(list_temporaries()) == 3 * 7
        images = load_image_set(str(tmp_path / "photos"))
        store_plan = plan_store(images, tiny_backbone(), "native", "float32", 4)
        assert build_store(images, tiny_backbone(), store_plan, stores).path == train
        run_sweep(SPEC, plan, run, scheduler="inline")
        assert len(list_temporaries()) == 2 * 7
        for writer in writers[1:]:
            writer.kill()
            writer.wait()
        build_store(images, tiny_backbone(), store_plan, stores)
        run_sweep(SPEC, plan, run, scheduler="inline")
    assert list_temporaries() == []
