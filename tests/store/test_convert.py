"""A copy in another format holds the same rows, and is what a build in that format would have been."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from posenet_store.errors import BuildError, StoreError
from posenet_store.extraction.build import build_store, plan_store
from posenet_store.images.image_set import ImageSet
from posenet_store.images.sources import load_image_set
from posenet_store.specs import FORMATS
from posenet_store.store.convert import convert_store
from posenet_store.store.formats import hdf5
from posenet_store.store.reader import open_store
from tests.support.small import contents, folder, tiny_backbone, write_images

ROWS = 14


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    photos = write_images(tmp_path_factory.mktemp("convert") / "photos", ROWS)
    (photos / "image003.png").write_bytes(b"")
    return load_image_set(str(photos))


@pytest.fixture(scope="module")
def stores(images: ImageSet, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root, backbone = tmp_path_factory.mktemp("stores"), tiny_backbone()
    plans = {name: plan_store(images, backbone, "native", "float16", 4, name) for name in FORMATS}
    return {name: build_store(images, backbone, plan, root, max_unreadable=0.2).path for name, plan in plans.items()}


@pytest.mark.parametrize(("source", "target"), [("zarr", "hdf5"), ("hdf5", "zarr"), ("zarr", "zarr")])
def test_a_copy_is_the_store_that_a_build_would_have_made(
    stores: dict[str, Path], tmp_path: Path, source: str, target: str
) -> None:
    path = convert_store(open_store(stores[source]), target, tmp_path)
    assert contents(path) == contents(stores[target])
    copy = open_store(path)
    assert copy.manifest["quarantined"][0]["image_id"] == "image003.png"
    assert copy.plan.provenance["converted"]["from"] == stores[source].name


def test_an_interrupted_copy_resumes(stores: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []

    def stop(count: int) -> None:
        rows.append(count)
        if len(rows) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert_store(open_store(stores["zarr"]), "hdf5", tmp_path, stop)
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("part-*.h5")}
    assert len(written) == 2
    path = convert_store(open_store(stores["zarr"]), "hdf5", tmp_path)
    assert contents(path) == contents(stores["hdf5"])
    assert {part: part.stat().st_mtime_ns for part in written} == written
    assert convert_store(open_store(stores["zarr"]), "hdf5", tmp_path) == path


def test_a_damaged_original_stops_the_copy_and_is_named(stores: dict[str, Path], tmp_path: Path) -> None:
    store = Path(shutil.copytree(stores["zarr"], tmp_path / stores["zarr"].name))
    shard = store / "data.zarr/f2/c.2.0.0.0"
    shard.write_bytes(b"x" * shard.stat().st_size)
    with pytest.raises(StoreError, match=r"f2/c\.2\.0\.0\.0"):
        convert_store(open_store(store), "hdf5", tmp_path / "copy")
    with pytest.raises(StoreError, match="not sealed"):
        open_store(next((tmp_path / "copy").iterdir()))


def test_a_block_that_does_not_read_back_does_not_count(
    stores: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = hdf5.encode_block

    def careless(spec: Any, block: int, arrays: dict[str, Any], *rest: Any) -> Any:
        return encode(spec, block, {name: values + 1 for name, values in arrays.items()}, *rest)

    monkeypatch.setattr(hdf5, "encode_block", careless)
    with pytest.raises(BuildError, match="block 0 of f1 does not read back"):
        convert_store(open_store(stores["zarr"]), "hdf5", tmp_path)
    assert not list(tmp_path.rglob("b00000.json"))


def test_the_view_of_all_parts_shows_the_same_rows(stores: dict[str, Path], tmp_path: Path) -> None:
    import h5py

    reader = open_store(stores["hdf5"])
    with h5py.File(folder(reader) / "whole.h5", "r") as file:
        assert [name.decode() for name in file["image_id"][()]] == list(reader.ids)
        for name in reader.spec.arrays:
            np.testing.assert_array_equal(file[name][()], reader.read(name, 0, ROWS))
    moved = Path(shutil.copytree(stores["hdf5"], tmp_path / "elsewhere"))
    (moved / "parts/part-00001.h5").unlink()
    with h5py.File(moved / "whole.h5", "r") as file:
        assert np.isnan(file["f1"][4:8]).all()
        assert np.isfinite(file["f1"][8:]).all()
