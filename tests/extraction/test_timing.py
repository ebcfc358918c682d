"""A build says what its time goes to, and stages run at once without running away from one another."""

import json
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray

from posenet_store.cli import main
from posenet_store.extraction import plan
from posenet_store.extraction.build import BuildResult, build_store, plan_store
from posenet_store.extraction.plan import estimate_build, find_slow_precision
from posenet_store.extraction.timing import STAGES, StageTimer, get_peak_memory
from posenet_store.images.image_set import ImageSet
from posenet_store.images.sources import load_image_set
from posenet_store.store.reader import open_store
from posenet_store.store.writer import EncodedBlock, StoreWriter
from tests.support.small import tiny_backbone, write_images

ROWS = 14


@pytest.fixture
def images(tmp_path: Path) -> ImageSet:
    return load_image_set(str(write_images(tmp_path / "photos", ROWS)))


def outcome_of(images: ImageSet, root: Path) -> BuildResult:
    backbone = tiny_backbone()
    return build_store(images, backbone, plan_store(images, backbone, "native", "float32", 4), root, batch_size=2)


def slowed(function: Any, seconds: float = 0.02) -> Any:
    def slow(*words: Any) -> Any:
        time.sleep(seconds)
        return function(*words)

    return slow


@pytest.mark.parametrize(
    ("function", "stage"),
    [
        ("posenet_store.extraction.prefetch.decode", "decode"),
        ("posenet_store.images.image_set.FileReader.fetch", "read"),
        ("posenet_store.extraction.forward.resample_taps", "forward"),
        ("posenet_store.store.writer.StoreWriter.encode", "encode"),
        ("posenet_store.store.writer.StoreWriter.write", "write"),
    ],
)
def test_the_slow_stage_is_named(
    images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, stage: str
) -> None:
    owner, _, name = function.rpartition(".")
    target: Any = __import__(owner, fromlist=["_"]) if owner.islower() else None
    if target is None:
        module, _, kind = owner.rpartition(".")
        target = getattr(__import__(module, fromlist=["_"]), kind)
    # each sleeps longer than anything that this small build does
    monkeypatch.setattr(target, name, slowed(getattr(target, name), 0.3))
    speed = outcome_of(images, tmp_path / "stores").speed
    assert speed["bound_by"] == stage
    assert speed["stages"][stage] > 0.5 * speed["seconds"]


def test_a_block_is_written_while_the_next_ones_are_computed(
    images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk stands still with the first block until the network has begun the third."""
    third, write = threading.Event(), StoreWriter.write
    reading: list[int] = []

    def waiting(writer: StoreWriter, encoded: EncodedBlock) -> None:
        assert encoded.block or third.wait(30)
        write(writer, encoded)

    def heard(index: int, size: int) -> NDArray[np.uint8]:
        reading.append(index)
        if len(reading) > 8:
            third.set()
        return images.read(index, size)

    monkeypatch.setattr(StoreWriter, "write", waiting)
    assert outcome_of(replace(images, read=heard), tmp_path / "stores").missing == 0
    assert third.is_set()


def test_a_slow_disk_holds_the_network_up_and_memory_stays_bounded(
    images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At most four blocks lie between the pixels and the disk: two in buffers, one encoded, one being written."""
    computed, written, most = [0], [0], [0]
    write = StoreWriter.write

    def slow(writer: StoreWriter, encoded: EncodedBlock) -> None:
        time.sleep(0.05)
        write(writer, encoded)
        written[0] += 1

    def advance(count: int) -> None:
        computed[0] += count
        most[0] = max(most[0], computed[0] - written[0])

    monkeypatch.setattr(StoreWriter, "write", slow)
    backbone = tiny_backbone()
    planned = plan_store(images, backbone, "native", "float32", 1)
    build_store(images, backbone, planned, tmp_path / "stores", batch_size=1, advance=advance)
    assert 2 <= most[0] <= 4


def test_an_error_of_the_writer_ends_the_build(images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(StoreWriter, "write", broken)
    before = set(threading.enumerate())
    with pytest.raises(OSError, match="Input/output error"):
        outcome_of(images, tmp_path / "stores")
    started = {thread.name for thread in set(threading.enumerate()) - before}
    # Zarr keeps its own threads, which the first build of a process starts
    assert not {name for name in started if not name.startswith(("zarr", "asyncio"))}
    assert not list(tmp_path.glob("stores/*/commits/*"))


def test_the_summary_is_kept_in_the_store_and_shown(images: ImageSet, tmp_path: Path) -> None:
    outcome = outcome_of(images, tmp_path / "stores")
    recorded: Mapping[str, Any] = open_store(outcome.path).manifest["summary"]
    assert {key: recorded[key] for key in outcome.speed} == outcome.speed
    assert set(recorded["stages"]) == set(STAGES)
    assert recorded["extracted"] == ROWS
    assert 0 < recorded["stages"]["forward"] < recorded["seconds"]
    assert 0 < recorded["processors"] < 1.5  # ticks of the processor's clock
    # Linux sums its counters of pages inexactly: VmHWM may fall by some hundred KiB though nothing resets it
    assert 0 < recorded["peak_memory"] <= 1.05 * get_peak_memory()
    shown = CliRunner().invoke(main, ["inspect", str(outcome.path)]).stdout
    assert re.search(rf"^build +{ROWS} images, ", shown, re.MULTILINE)
    assert "bound by " in shown
    facts = json.loads(CliRunner().invoke(main, ["inspect", str(outcome.path), "--json"]).stdout)
    assert facts["summary"]["stages"] == recorded["stages"]


def test_workers_of_a_stage_count_their_mean() -> None:
    clock = StageTimer()
    with clock.measure("decode", workers=4):
        time.sleep(0.04)
    assert 0.01 <= clock.get_seconds()["decode"] < 0.04
    assert clock.find_bottleneck() == "decode"


def test_reading_and_decoding_are_the_same_workers() -> None:
    clock = StageTimer()
    for stage, seconds in (("read", 2.0), ("decode", 3.0), ("forward", 4.0)):
        clock.add(stage, seconds)
    assert clock.find_bottleneck() == "decode"


def test_bfloat16_that_a_cpu_emulates_is_said_before_a_build(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = replace(tiny_backbone(), compute="bfloat16+compile")
    monkeypatch.setattr(plan, "has_bfloat16_instructions", lambda: False)
    assert "8 times as long" in str(find_slow_precision(backbone))
    assert find_slow_precision(replace(backbone, compute="float32")) is None
    monkeypatch.setattr(plan, "has_bfloat16_instructions", lambda: True)
    assert find_slow_precision(backbone) is None


def test_a_plan_says_memory_and_bytes_of_a_build(images: ImageSet, tmp_path: Path) -> None:
    backbone = tiny_backbone()
    planned = plan_store(images, backbone, "native", "float16", 4)
    expected = estimate_build(images, backbone, planned, 4)
    sealed = open_store(build_store(images, backbone, planned, tmp_path / "stores").path)
    assert expected.bytes == pytest.approx(sealed.manifest["bytes"], rel=0.2)
    assert expected.memory > 0
    assert expected.seconds > 0
