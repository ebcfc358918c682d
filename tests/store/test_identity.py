"""Which store is read: an open reader, its copies in other processes and its views never take another store for theirs."""

import os
import pickle
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch.utils.data import DataLoader

from posenet_store.errors import StoreError
from posenet_store.extraction.build import build_store, plan_store
from posenet_store.images.image_set import ImageSet
from posenet_store.images.sources import load_image_set
from posenet_store.specs import FORMATS
from posenet_store.store import access_remote
from posenet_store.store.access import StoreFiles
from posenet_store.store.formats import list_block_files
from posenet_store.store.reader import Reader, open_store
from posenet_store.threads import cached_property
from tests.support.servers import serve
from tests.support.small import tiny_backbone, write_images

ROWS = 14  # three blocks of four and a tail of two
REPLACED = "was replaced or built again since it was opened"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    return load_image_set(str(write_images(tmp_path_factory.mktemp("identity"), ROWS)))


def build(root: Path, images: ImageSet, file_format: str = "zarr", seed: int = 0, part: tuple[int, int] = (1, 1)) -> Path:
    """Build the store of the tiny network of a seed; networks of other seeds give other features of the same images."""
    backbone = tiny_backbone(seed)
    plan = plan_store(images, backbone, "native", "float16", 4, file_format)
    return build_store(images, backbone, plan, root, part=part).path


def replace_store(store: Path, other: Path) -> None:
    """Put another store in the place of a store."""
    shutil.rmtree(store)
    shutil.copytree(other, store)


@pytest.fixture(params=FORMATS)
def stores(request: pytest.FixtureRequest, images: ImageSet, tmp_path: Path) -> tuple[Path, Path]:
    """A store, and another of the same images by another network."""
    return build(tmp_path / "a", images, request.param), build(tmp_path / "b", images, request.param, seed=1)


def test_a_store_replaced_under_an_open_reader_is_an_error(stores: tuple[Path, Path]) -> None:
    """Blocks that were read before, and others."""
    reader = open_store(stores[0])
    expected = reader.read("f3", 0, 8)
    replace_store(*stores)
    for start in (0, 4, 8):
        with pytest.raises(StoreError, match=REPLACED) as caught:
            reader.read("f3", start, start + 2)
        assert str(stores[0]) in str(caught.value)
    assert not np.array_equal(open_store(stores[0]).read("f3", 0, 8), expected)


@pytest.mark.parametrize(
    "use",
    [
        lambda reader: reader["f3"][0:2],
        lambda reader: list(reader.batches("f3")),
        lambda reader: list(reader.torch("f3")),
        lambda reader: reader.dask("f3").compute(),
        lambda reader: reader.xarray()["f3"].values,
    ],
)
def test_no_view_of_a_reader_gives_the_other_store(images: ImageSet, tmp_path: Path, use: Callable[[Reader], object]) -> None:
    store, other = build(tmp_path / "a", images), build(tmp_path / "b", images, seed=1)
    reader = open_store(store)
    use(reader)
    replace_store(store, other)
    with pytest.raises(StoreError, match=REPLACED):
        use(reader)


def test_lazy_arrays_of_two_stores_at_one_path_have_different_keys(stores: tuple[Path, Path]) -> None:
    """A Dask cluster keeps results by key."""
    before = open_store(stores[0]).dask("f3").name
    replace_store(*stores)
    assert open_store(stores[0]).dask("f3").name != before


def test_a_copy_in_another_process_does_not_open_another_store(stores: tuple[Path, Path]) -> None:
    travelling = pickle.dumps(open_store(stores[0]))
    assert len(pickle.loads(travelling).read("f3")) == ROWS
    replace_store(*stores)
    with pytest.raises(StoreError, match=REPLACED):
        pickle.loads(travelling)


def test_a_store_that_is_copied_or_repaired_to_the_same_bytes_stays_open(stores: tuple[Path, Path]) -> None:
    reader = open_store(stores[0])
    travelling, expected = pickle.dumps(reader), reader.read("f3")
    shutil.copytree(stores[0], aside := stores[0].with_name("aside"))
    replace_store(stores[0], aside)
    np.testing.assert_array_equal(reader.read("f3"), expected)
    np.testing.assert_array_equal(pickle.loads(travelling).read("f3"), expected)


def test_a_file_is_hashed_once_as_long_as_it_is_the_same(stores: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    reader = open_store(stores[0])
    hashed: list[str] = []
    real = StoreFiles.sha256

    def hash_and_note(files: StoreFiles, name: str) -> str:
        hashed.append(name)
        return real(files, name)

    monkeypatch.setattr(StoreFiles, "sha256", hash_and_note)
    file = list_block_files(reader.spec, 0)[0]
    for _ in range(3):
        reader.read("f1", 0, 2)
    assert hashed == [file]
    os.utime(stores[0] / file, (0, 0))
    reader.read("f1", 0, 2)
    assert hashed == [file, file]


def test_a_file_that_changes_while_it_is_read_is_an_error(stores: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look at the file and the reading of it."""
    reader = open_store(stores[0])
    reader.read("f3")
    real = reader._arrays.read

    def replace_and_read(*arguments: Any) -> None:
        replace_store(*stores)
        real(*arguments)

    monkeypatch.setattr(reader._arrays, "read", replace_and_read)
    with pytest.raises(StoreError, match=REPLACED):
        reader.read("f3")


@pytest.fixture(params=FORMATS)
def growing(request: pytest.FixtureRequest, images: ImageSet, tmp_path: Path) -> tuple[Path, Callable[[], object]]:
    """A store of which the blocks 0 and 2 are there, and what builds the others."""
    store = build(tmp_path / "stores", images, request.param, part=(1, 2))
    return store, lambda: build(tmp_path / "stores", images, request.param)


def test_a_copy_of_a_growing_store_reads_the_blocks_of_its_original(growing: tuple[Path, Callable[[], object]]) -> None:
    store, finish = growing
    reader = open_store(store, unsealed=True)
    travelling = pickle.dumps(reader)
    finish()
    copy = pickle.loads(travelling)
    assert np.flatnonzero(copy.readable).tolist() == [*range(4), *range(8, 12)]
    assert repr(copy) == repr(reader)
    for start in (0, 8):
        np.testing.assert_array_equal(copy.read("f3", start, start + 4), open_store(store).read("f3", start, start + 4))
    with pytest.raises(StoreError, match="was not there when the store was opened"):
        copy.read("f3", 4, 8)


def test_a_growing_store_that_was_replaced_is_an_error(images: ImageSet, tmp_path: Path) -> None:
    store, other = (build(tmp_path / str(seed), images, seed=seed, part=(1, 2)) for seed in range(2))
    reader = open_store(store, unsealed=True)
    travelling = pickle.dumps(reader)
    reader.read("f3", 0, 4)
    replace_store(store, other)
    with pytest.raises(StoreError, match=REPLACED):
        reader.read("f3", 0, 4)
    with pytest.raises(StoreError, match=REPLACED):
        pickle.loads(travelling)


@pytest.mark.system
@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_of_a_growing_store_give_each_row_once(growing: tuple[Path, Callable[[], object]], context: str) -> None:
    store, finish = growing
    dataset = open_store(store, unsealed=True).torch("f3", 3)
    finish()
    batches = DataLoader(dataset, batch_size=None, num_workers=2, multiprocessing_context=context)
    assert sorted(row for batch in batches for row in batch["row"].tolist()) == [*range(4), *range(8, 12)]


@pytest.fixture
def url(stores: tuple[Path, Path]) -> Iterator[str]:
    with serve(stores[0]) as address:
        yield address


def test_a_store_replaced_on_a_server_is_an_error(stores: tuple[Path, Path], url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once a file is no longer in memory and is fetched again."""
    monkeypatch.setattr(access_remote, "CACHE_BYTES", 1)
    reader = open_store(url)
    travelling = pickle.dumps(reader)
    expected = reader.read("f3", 0, 4)
    reader.read("f3", 4, 8)
    replace_store(*stores)
    with pytest.raises(StoreError, match=REPLACED):
        reader.read("f3", 0, 4)
    with pytest.raises(StoreError, match=REPLACED):
        pickle.loads(travelling)
    assert len(expected) == 4


class _Slow:
    @cached_property
    def value(self) -> int:
        time.sleep(0.3)
        return 1


def test_a_fork_while_another_thread_computes_a_property_does_not_hang() -> None:
    """One lock for all instances, as in functools up to Python 3.11, would be held in the child for ever."""
    thread = threading.Thread(target=lambda: _Slow().value)
    thread.start()
    time.sleep(0.1)
    child = os.fork()
    if child == 0:
        os._exit(_Slow().value)
    thread.join()
    deadline = time.monotonic() + 5
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() < deadline:
        time.sleep(0.02)
    if ended == (0, 0):
        os.kill(child, 9)
        os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(ended[1]) == 1
