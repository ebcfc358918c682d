"""Lazy views for dask and xarray, and stores that are still growing."""

import pickle
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
from numpy.typing import NDArray

from posenet_store.errors import StoreError
from posenet_store.extraction.build import build_store, plan_store
from posenet_store.images.image_set import ImageSet
from posenet_store.images.sources import load_image_set
from posenet_store.specs import FORMATS
from posenet_store.store.reader import Reader, open_store
from tests.support.small import tiny_backbone, write_images

ROWS = 14


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    photos = write_images(tmp_path_factory.mktemp("views") / "photos", ROWS)
    (photos / "image003.png").write_bytes(b"")
    return load_image_set(str(photos))


@pytest.fixture(scope="module", params=FORMATS)
def reader(request: pytest.FixtureRequest, images: ImageSet, tmp_path_factory: pytest.TempPathFactory) -> Reader:
    backbone = tiny_backbone()
    plan = plan_store(images, backbone, "native", "float16", 4, request.param)
    return open_store(build_store(images, backbone, plan, tmp_path_factory.mktemp("store"), max_unreadable=0.2).path)


@pytest.mark.parametrize("scheduler", ["synchronous", "threads", pytest.param("processes", marks=pytest.mark.system)])
def test_a_dask_array_holds_the_rows_a_chunk_a_block(reader: Reader, scheduler: str) -> None:
    array = reader.dask("f2")
    assert (array.shape, array.dtype, array.chunks[0]) == ((ROWS, 12, 8, 8), np.dtype("float32"), (4, 4, 4, 2))
    with dask.config.set({"scheduler": scheduler, "multiprocessing.context": "forkserver"}):
        np.testing.assert_array_equal(array.compute(), reader.read("f2", 0, ROWS))


@pytest.mark.parametrize("view", ["dask", "xarray"])
def test_means_of_large_features_do_not_overflow(tmp_path: Path, view: str) -> None:
    photos = load_image_set(str(write_images(tmp_path / "photos", 8)))
    backbone = tiny_backbone(scale=40.0)
    plan = plan_store(photos, backbone, "native", "float16", 4)
    reader = open_store(build_store(photos, backbone, plan, tmp_path / "stores").path)
    stored = reader.read("f3", 0, 8).astype(np.float64)
    assert stored.sum() > np.finfo(np.float16).max  # what float16 sums would end at
    array = reader.dask("f3") if view == "dask" else reader.xarray()["f3"]
    with dask.config.set(scheduler="synchronous"):
        assert float(array.mean().compute()) == pytest.approx(stored.mean(), rel=1e-5)


def test_only_the_blocks_that_are_asked_for_are_read(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[tuple[int, int]] = []
    original = Reader.read

    def heard(self: Reader, name: str, start: int, stop: int) -> NDArray[Any]:
        read.append((start, stop))
        return original(self, name, start, stop)

    monkeypatch.setattr(Reader, "read", heard)
    with dask.config.set(scheduler="synchronous"):
        reader.dask("f1")[5:7].compute()
    assert read == [(4, 8)]


def test_an_xarray_dataset_names_rows_and_dimensions(reader: Reader) -> None:
    with reader.xarray() as data, dask.config.set(scheduler="synchronous"):
        assert tuple(data["image_id"].values) == reader.ids
        assert data["f1"].dims == ("image", "channel_f1", "y_f1", "x_f1")
        np.testing.assert_array_equal(data["readable"].values, reader.readable)
        means = data["aligned"].where(data["readable"]).mean("image").compute()
        expected = reader.read("aligned", 0, ROWS)[reader.readable].astype(np.float64).mean(0)
        np.testing.assert_allclose(means, expected, rtol=1e-6)  # float32 sums of 13 values


@pytest.fixture(params=FORMATS)
def growing(request: pytest.FixtureRequest, images: ImageSet, tmp_path: Path) -> Path:
    """Blocks 0 and 2 of four are committed."""
    backbone = tiny_backbone()
    plan = plan_store(images, backbone, "native", "float16", 4, request.param)
    return build_store(images, backbone, plan, tmp_path, part=(1, 2), max_unreadable=0.2).path


def test_a_growing_store_opens_only_when_asked(growing: Path) -> None:
    with pytest.raises(StoreError, match="not sealed"):
        open_store(growing)
    reader = pickle.loads(pickle.dumps(open_store(growing, unsealed=True)))
    committed = np.array([0, 1, 2, 3, 8, 9, 10, 11])
    readable = ~np.isnan(np.concatenate([reader.read("f1", 0, 4), reader.read("f1", 8, 12)])).any(axis=(1, 2, 3))
    assert np.flatnonzero(reader.readable).tolist() == committed[readable].tolist()


def test_a_growing_store_shows_committed_rows_and_nothing_else(growing: Path) -> None:
    reader = open_store(growing, unsealed=True)
    seen = np.concatenate([batch["row"].numpy() for batch in reader.torch(["f1"], 3)])
    assert sorted(seen.tolist()) == np.flatnonzero(reader.readable).tolist()
    assert sum(len(values["f1"]) for values in reader.scan(["f1"])) == reader.readable.sum()
    with pytest.raises(StoreError, match=r"b00001\.json was not there when the store was opened"):
        reader.read("f1", 3, 5)


def test_a_growing_store_that_is_opened_again_shows_more(growing: Path, images: ImageSet) -> None:
    before = open_store(growing, unsealed=True)
    backbone = tiny_backbone()
    plan = plan_store(images, backbone, "native", "float16", 4, before.spec.format)
    build_store(images, backbone, plan, growing.parent, max_unreadable=0.2)
    after = open_store(growing, unsealed=True)
    assert after.readable.sum() == ROWS - 1 > before.readable.sum()
    np.testing.assert_array_equal(before.read("f1", 0, 4), after.read("f1", 0, 4))


def test_a_block_of_a_growing_store_whose_record_is_damaged_is_not_committed(growing: Path) -> None:
    record = growing / "commits/b00002.json"
    record.write_text(record.read_text().replace('"rows"', '"rowz"'))
    reader = open_store(growing, unsealed=True)
    assert set(np.flatnonzero(reader.readable)) <= {0, 1, 2, 3}
    with pytest.raises(StoreError, match=r"b00002\.json"):
        reader.read("f1", 8, 12)
