"""Extraction: every row is its image's features; what can go wrong stops, resumes or is quarantined, and says so."""

import itertools
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from posenet_store.backbones.backbone import Backbone
from posenet_store.errors import BuildError, StoreError
from posenet_store.extraction.build import build_store, plan_store
from posenet_store.extraction.prefetch import decode_batches
from posenet_store.images.image_set import ImageSet
from posenet_store.images.sources import load_image_set
from posenet_store.store.reader import open_store
from posenet_store.store.writer import StoreWriter
from tests.support.disks import mount_disk, raise_full
from tests.support.small import built_store, contents, folder, tiny_backbone, write_images

ROWS = 14  # three blocks of four and a tail of two


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    return load_image_set(str(write_images(tmp_path_factory.mktemp("extract") / "photos", ROWS)))


def features_of(backbone: Backbone, images: ImageSet, image_id: str) -> dict[str, torch.Tensor]:
    pixels = images.read(images.ids.index(image_id), backbone.preprocess.size)
    return backbone.features(torch.from_numpy(pixels[None].copy()))


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("float16", 2**-11)])
def test_every_row_holds_its_images_features(images: ImageSet, tmp_path: Path, dtype: str, tolerance: float) -> None:
    """float32 to summation order in a batch; float16 to half a unit in its last place (2^-11)."""
    backbone = tiny_backbone()
    reader = built_store(tmp_path, images, backbone, dtype=dtype)
    for row, image_id in enumerate(reader.ids):
        taps = features_of(backbone, images, image_id)
        for name, expected in taps.items():
            actual = reader.read(name, row, row + 1)
            np.testing.assert_allclose(actual, expected.numpy(), rtol=tolerance, atol=1e-6)
        parts = [F.interpolate(taps[n][None], size=(3, 28, 28), mode="trilinear")[0, 0] for n in ("f1", "f2", "f3")]
        np.testing.assert_allclose(reader.read("aligned", row, row + 1)[0], torch.cat(parts).numpy(), rtol=tolerance, atol=1e-6)


def test_rows_are_permuted_and_the_permutation_is_recorded(images: ImageSet, tmp_path: Path) -> None:
    plan = built_store(tmp_path, images, tiny_backbone(), "aligned").plan
    assert plan.order != tuple(range(ROWS))
    assert plan.order == tuple(np.random.default_rng(plan.spec.permutation_seed).permutation(ROWS))
    assert plan.ids == tuple(images.ids[index] for index in plan.order)
    assert plan.digests == tuple(images.digests[index] for index in plan.order)


def test_a_second_build_touches_nothing(images: ImageSet, tmp_path: Path) -> None:
    backbone = tiny_backbone()
    store = folder(built_store(tmp_path, images, backbone))
    before = {path: path.stat().st_mtime_ns for path in store.rglob("*")}
    outcome = build_store(images, backbone, plan_store(images, backbone, "native", "float32", 4), tmp_path)
    assert (outcome.path, outcome.extracted, outcome.missing) == (store, 0, 0)
    assert {path: path.stat().st_mtime_ns for path in store.rglob("*")} == before


def test_a_changed_input_gets_another_store(images: ImageSet, tmp_path: Path) -> None:
    backbone = tiny_backbone()
    other_bytes = replace(images, digests=("0" * 64, *images.digests[1:]))
    other_name = replace(images, ids=("renamed.png", *images.ids[1:]))
    plans = [
        plan_store(images, backbone, "native", "float32"),
        plan_store(other_bytes, backbone, "native", "float32"),
        plan_store(other_name, backbone, "native", "float32"),
        plan_store(images.take(13), backbone, "native", "float32"),
        plan_store(images, tiny_backbone(seed=1), "native", "float32"),
        plan_store(images, backbone, "aligned", "float32"),
        plan_store(images, backbone, "native", "float16"),
        plan_store(images, replace(backbone, preprocess=replace(backbone.preprocess, scale=1.0)), "native", "float32"),
    ]
    assert len({plan.spec.folder for plan in plans}) == len(plans)


def test_the_batch_size_is_not_part_of_the_store(images: ImageSet, tmp_path: Path) -> None:
    backbone = tiny_backbone()
    plan = plan_store(images, backbone, "native", "float32", 4)
    single = open_store(build_store(images, backbone, plan, tmp_path / "one", batch_size=1).path)
    big = open_store(build_store(images, backbone, plan, tmp_path / "big", batch_size=64).path)
    for name in plan.spec.arrays:
        np.testing.assert_allclose(single.read(name, 0, ROWS), big.read(name, 0, ROWS), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("file_format", ["zarr", "hdf5"])
@pytest.mark.parametrize("harm", ["record", "data", "torn data", "manifest", "temporaries"])
def test_a_resumed_build_is_the_uninterrupted_one(images: ImageSet, tmp_path: Path, harm: str, file_format: str) -> None:
    backbone = tiny_backbone()
    plan = plan_store(images, backbone, "native", "float32", 4, file_format)
    store = build_store(images, backbone, plan, tmp_path, batch_size=2).path
    before, sealed = contents(store), json.loads((store / "manifest.json").read_text())["store_id"]
    (store / "manifest.json").unlink()
    block_file = next(path for path in sorted(store.rglob("*")) if path.name in ("c.1.0.0.0", "part-00001.h5"))
    match harm:
        case "record":
            (store / "commits/b00001.json").unlink()
        case "data":
            block_file.unlink()
        case "torn data":
            block_file.write_bytes(block_file.read_bytes()[:100])
        case "temporaries":
            (store / "commits/.b00001.json.abc.tmp").write_text("{")
            (store.parent / f".{store.name}.abc.tmp").mkdir()
    extracted = build_store(images, backbone, plan, tmp_path, batch_size=2).extracted
    assert extracted == (4 if harm in ("record", "data", "torn data") else 0)
    actual = {name: digest for name, digest in contents(store).items() if not name.endswith(".tmp")}
    assert actual == before
    assert json.loads((store / "manifest.json").read_text())["store_id"] == sealed


SLOW_BUILD = """
import sys, time
from dataclasses import replace
from pathlib import Path
support, photos, stores, file_format = sys.argv[1:]
sys.path.insert(0, support)
from tests.support.small import built_store, contents, tiny_backbone
from posenet_store.images.sources import load_image_set
images = load_image_set(photos)
slow = replace(images, read=lambda index, size: (time.sleep(0.03), images.read(index, size))[1])
built_store(Path(stores), slow, tiny_backbone(), file_format=file_format)
"""


@pytest.mark.system
@pytest.mark.parametrize("file_format", ["zarr", "hdf5"])
def test_a_killed_build_resumes_to_the_same_bytes(tmp_path: Path, file_format: str) -> None:
    folder = write_images(tmp_path / "photos", 38)
    words = [str(Path(__file__).parents[2]), str(folder), str(tmp_path / "killed"), file_format]
    process = subprocess.Popen([sys.executable, "-c", SLOW_BUILD, *words])
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("killed/*/commits/b*.json")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    images, backbone = load_image_set(str(folder)), tiny_backbone()
    store = tmp_path / "killed" / plan_store(images, backbone, "native", "float32", 4, file_format).spec.folder
    committed = len(list(store.glob("commits/b*.json")))
    assert 0 < committed < 10
    assert not (store / "manifest.json").exists()
    plan = plan_store(images, backbone, "native", "float32", 4, file_format)
    assert build_store(images, backbone, plan, tmp_path / "killed", batch_size=2).extracted == 38 - 4 * committed
    expected = built_store(tmp_path / "whole", images, backbone, file_format=file_format)
    assert contents(store) == contents(Path(str(expected.files)))


def test_progress_counts_every_row_once_and_what_is_safe_at_once(images: ImageSet, tmp_path: Path) -> None:
    backbone = tiny_backbone()
    plan = plan_store(images, backbone, "native", "float32", 4)
    first: list[int] = []
    store = build_store(images, backbone, plan, tmp_path, batch_size=3, advance=first.append).path
    assert first == [0, 3, 1, 3, 1, 3, 1, 2]
    (store / "commits/b00001.json").unlink()
    second: list[int] = []
    build_store(images, backbone, plan, tmp_path, batch_size=3, advance=second.append)
    assert second == [10, 3, 1]


def test_images_are_decoded_two_batches_ahead_and_no_more(images: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []
    submit = ThreadPoolExecutor.submit

    def heard(pool: ThreadPoolExecutor, function: Callable[..., Any], *args: Any) -> Any:
        rows.append(args[-1])
        return submit(pool, function, *args)

    monkeypatch.setattr(ThreadPoolExecutor, "submit", heard)
    plan = plan_store(images, tiny_backbone(), "native", "float32", 4)
    counts = [(batch.start, len(rows)) for batch in decode_batches(images, plan, range(4), batch_size=2)]
    assert counts == [(0, 6), (2, 8), (4, 10), (6, 12), (8, 14), (10, 14), (12, 14)]
    assert rows == list(range(ROWS))


def test_an_error_that_is_not_the_images_own_ends_the_build(images: ImageSet, tmp_path: Path) -> None:
    def broken(index: int, size: int) -> NDArray[np.uint8]:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        built_store(tmp_path, replace(images, read=broken), tiny_backbone())
    assert not list(tmp_path.glob("*/commits/*"))


def test_ctrl_c_leaves_what_is_committed(images: ImageSet, tmp_path: Path) -> None:
    backbone = tiny_backbone()
    plan = plan_store(images, backbone, "native", "float32", 4)
    seen = []

    def interrupt(count: int) -> None:
        seen.append(count)
        if sum(seen) == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_store(images, backbone, plan, tmp_path, batch_size=2, advance=interrupt)
    assert StoreWriter.open(tmp_path, plan).list_missing() == [1, 2, 3]
    outcome = build_store(images, backbone, plan, tmp_path, batch_size=2)
    assert outcome.extracted == 10
    assert contents(outcome.path) == contents(folder(built_store(tmp_path / "other", images, backbone)))


@pytest.mark.parametrize("call", [1, 2, 5, 9])
def test_a_full_disk_commits_nothing_half(images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int) -> None:
    """The disk fills up at the n-th sync after the skeleton; then there is room again."""
    backbone = tiny_backbone()
    plan = plan_store(images, backbone, "native", "float32", 4)
    StoreWriter.open(tmp_path, plan)
    calls = itertools.count(1)
    monkeypatch.setattr("posenet_store.store.exclusive.fsync", lambda path: raise_full(path) if next(calls) >= call else None)
    with pytest.raises(OSError, match="No space left"):
        build_store(images, backbone, plan, tmp_path, batch_size=2)
    monkeypatch.undo()
    store = tmp_path / plan.spec.folder
    assert not list(store.rglob("*.tmp"))
    assert not list((store / "commits").iterdir())
    assert StoreWriter.open(tmp_path, plan).list_missing() == [0, 1, 2, 3]
    build_store(images, backbone, plan, tmp_path, batch_size=2)
    assert contents(store) == contents(folder(built_store(tmp_path / "other", images, backbone)))


@pytest.mark.system
def test_a_disk_that_really_is_full(images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("posenet_store.extraction.build.check_space", lambda *_: None)  # others fill it during the build
    backbone = tiny_backbone()
    plan = plan_store(images, backbone, "native", "float32", 4)
    with mount_disk(disk := tmp_path / "disk", "160k") as remount:
        with pytest.raises(OSError, match="No space left on device"):
            build_store(images, backbone, plan, disk, batch_size=2)
        committed = [block for block in range(4) if block not in StoreWriter.open(disk, plan).list_missing()]
        # a disk that is full from the start, or only at the end, would show nothing
        assert 0 < len(committed) < 4
        assert [f"b{block:05d}.json" for block in committed] == sorted(p.name for p in disk.glob("*/commits/*"))
        assert not list((disk / plan.spec.folder).rglob("*.tmp"))
        remount("size=8m")
        outcome = build_store(images, backbone, plan, disk, batch_size=2)
        assert outcome.extracted == ROWS - sum((2 if block == 3 else 4) for block in committed)
        assert contents(outcome.path) == contents(folder(built_store(tmp_path / "other", images, backbone)))


def test_float16_overflow_names_the_tap_the_maximum_and_the_way_out(images: ImageSet, tmp_path: Path) -> None:
    loud = tiny_backbone(scale=60.0)
    with pytest.raises(BuildError, match=r"tap f3 reaches [\d.]+e\+\d+.*--dtype float32") as caught:
        built_store(tmp_path, images, loud, dtype="float16")
    reader = built_store(tmp_path, images, loud, dtype="float32")
    assert max(float(reader.read(name, 0, ROWS).max()) for name in ("f1", "f2")) < 65504
    assert f"{reader.read('f3', 0, 2).max():.4g}" in str(caught.value)  # the first batch's


def test_features_that_are_not_finite_stop_the_build(images: ImageSet, tmp_path: Path) -> None:
    broken = tiny_backbone()
    with torch.no_grad():
        next(broken.module.parameters())[0] = float("nan")
    with pytest.raises(BuildError, match="tap f1 holds NaN"):
        built_store(tmp_path, images, broken)


def test_unreadable_images_are_quarantined_and_rows_stay_aligned(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "photos", 10)
    (folder / "image003.png").write_bytes(b"not an image")
    (folder / "image007.png").write_bytes(b"")
    images, backbone = load_image_set(str(folder)), tiny_backbone()
    plan = plan_store(images, backbone, "native", "float32", 4)
    outcome = build_store(images, backbone, plan, tmp_path / "stores", batch_size=3, max_unreadable=0.2)
    reader = open_store(outcome.path)
    assert {entry.image_id: entry.reason for entry in outcome.quarantined} == {
        "image003.png": "not an image of an accepted format: JPEG, PNG, BMP, GIF, WEBP, TIFF, PPM",
        "image007.png": "the file is empty (0 bytes)",
    }
    assert {e["image_id"] for e in reader.manifest["quarantined"]} == {"image003.png", "image007.png"}
    for row, image_id in enumerate(reader.ids):
        actual = reader.read("f1", row, row + 1)
        if image_id in ("image003.png", "image007.png"):
            assert np.isnan(actual).all()
            assert not reader.readable[row]
        else:
            np.testing.assert_allclose(actual, features_of(backbone, images, image_id)["f1"].numpy(), rtol=1e-6, atol=1e-6)
    again = build_store(images, backbone, plan, tmp_path / "stores", max_unreadable=0.2)
    assert again.quarantined == outcome.quarantined


def test_a_block_without_a_readable_image_is_stored_and_passed_over(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "photos", 10)
    ids = plan_store(load_image_set(str(folder)), tiny_backbone(), "native", "float32", 4).ids
    for image_id in ids[4:8]:
        (folder / image_id).write_bytes(b"")
    images, backbone = load_image_set(str(folder)), tiny_backbone()
    plan = plan_store(images, backbone, "native", "float16", 4)
    reader = open_store(build_store(images, backbone, plan, tmp_path / "stores", max_unreadable=0.4).path)
    assert reader.readable.tolist() == [True] * 4 + [False] * 4 + [True] * 2
    assert [len(values["f2"]) for values in reader.scan(["f2"])] == [4, 2]
    assert reader.manifest["statistics"]["f2"]["count"] == 6 * 12 * 8 * 8
    batches = list(reader.batches(["f2"], 0, 10, batch_size=4, seed=0, epoch=0))
    assert [len(batch["f2"]) for batch in batches] == [4, 2]
    assert all(np.isfinite(batch["f2"]).all() for batch in batches)


def test_images_of_earlier_runs_count_towards_what_may_be_unreadable(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "photos", 10)
    ids = plan_store(load_image_set(str(folder)), tiny_backbone(), "native", "float32", 4).ids
    for image_id in (ids[0], ids[9]):
        (folder / image_id).write_bytes(b"")
    images, backbone = load_image_set(str(folder)), tiny_backbone()
    plan = plan_store(images, backbone, "native", "float32", 4)
    for _ in range(2):  # the first run commits the first two blocks, the second has but the last image left to read
        with pytest.raises(BuildError, match=rf"2 of 10 images are unreadable.*\({ids[0]}: .*; {ids[9]}: "):
            build_store(images, backbone, plan, tmp_path / "stores", batch_size=2, max_unreadable=0.1)
    assert StoreWriter.open(tmp_path / "stores", plan).list_missing() == [2]


def test_too_many_unreadable_images_stop_the_build(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "photos", 10)
    (folder / "image003.png").write_bytes(b"not an image")
    with pytest.raises(BuildError, match=r"1 of 10 images are unreadable, more than the 1.0%.*image003.png: not an image"):
        built_store(tmp_path / "stores", load_image_set(str(folder)), tiny_backbone())


def test_statistics_are_those_of_all_readable_rows(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "photos", 9)
    (folder / "image003.png").write_bytes(b"not an image")
    images, backbone = load_image_set(str(folder)), tiny_backbone()
    plan = plan_store(images, backbone, "native", "float32", 4)
    reader = open_store(build_store(images, backbone, plan, tmp_path / "stores", max_unreadable=0.2).path)
    for name in plan.spec.arrays:
        values = reader.read(name, 0, 9)[reader.readable].astype(np.float64)
        actual = reader.manifest["statistics"][name]
        assert actual["count"] == values.size
        assert (actual["min"], actual["max"]) == (values.min(), values.max())
        assert actual["mean"] == pytest.approx(values.mean(), rel=1e-6)
        assert actual["mean_square"] == pytest.approx((values**2).mean(), rel=1e-6)
        assert actual["zeros"] == pytest.approx((values == 0).mean(), abs=1e-12)


def test_a_folder_of_another_store_is_never_written_to(images: ImageSet, tmp_path: Path) -> None:
    backbone = tiny_backbone()
    store = folder(built_store(tmp_path, images, backbone))
    other = plan_store(images, tiny_backbone(seed=1), "native", "float32", 4)
    store.rename(tmp_path / other.spec.folder)
    with pytest.raises(StoreError, match="belongs to fingerprint"):
        StoreWriter.open(tmp_path, other)


def test_sealing_waits_for_every_block(images: ImageSet, tmp_path: Path) -> None:
    writer = StoreWriter.open(tmp_path, plan_store(images, tiny_backbone(), "native", "float32", 4))
    with pytest.raises(BuildError, match="4 blocks are missing, the first is 0"):
        writer.seal({})
