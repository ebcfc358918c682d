"""The torch dataset: every row once under workers, start methods and ranks, in an order that repeats and can be resumed."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from posenet_store.errors import UsageError
from posenet_store.extraction.build import build_store, plan_store
from posenet_store.images.sources import load_image_set
from posenet_store.specs import FORMATS
from posenet_store.store import reader as reader_module
from posenet_store.store.reader import Reader, open_store
from posenet_store.store.torch_dataset import StoreDataset
from tests.support.small import tiny_backbone, write_images

ROWS, BAD = 38, ("image004.png", "image011.png")
READABLE = ROWS - len(BAD)
Batch = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Reader]:
    """38 rows in blocks of four, two of them quarantined, in each format."""
    root = tmp_path_factory.mktemp("loading")
    folder = write_images(root / "photos", ROWS)
    for name in BAD:
        (folder / name).write_bytes(b"")
    images, backbone = load_image_set(str(folder)), tiny_backbone()
    plans = {name: plan_store(images, backbone, "native", "float16", 4, name) for name in FORMATS}
    return {
        name: open_store(build_store(images, backbone, plan, root, max_unreadable=0.1).path) for name, plan in plans.items()
    }


@pytest.fixture
def reader(stores: dict[str, Reader], monkeypatch: pytest.MonkeyPatch) -> Reader:
    """Pools of three blocks, so that there are several."""
    monkeypatch.setattr(reader_module, "POOL_BYTES", 12 * 2 * 16 * 4 * 4)
    return stores["zarr"]


def loaded(dataset: StoreDataset, workers: int = 0, context: str | None = None) -> list[Batch]:
    return list(DataLoader(dataset, batch_size=None, num_workers=workers, multiprocessing_context=context))


def rows_of(batches: list[Batch]) -> list[list[int]]:
    return [batch["row"].tolist() for batch in batches]


def test_batches_hold_the_rows_that_they_name(reader: Reader) -> None:
    stored = {name: reader.read(name, 0, ROWS) for name in ("f3", "aligned")}
    for batch in reader.torch(["f3", "aligned"], 5, seed=3):
        for name, values in stored.items():
            assert batch[name].dtype == torch.float16
            np.testing.assert_array_equal(batch[name].numpy(), values[batch["row"].numpy()])


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("batch_size", [1, 5, 36, 100])
def test_an_epoch_is_every_readable_row_once(reader: Reader, batch_size: int, shuffle: bool) -> None:
    dataset = reader.torch(["f3"], batch_size, shuffle=shuffle)
    actual = rows_of(list(dataset))
    assert [len(rows) for rows in actual] == [batch_size] * (READABLE // batch_size) + [READABLE % batch_size] * bool(
        READABLE % batch_size
    )
    assert len(actual) == len(dataset)
    order = list(itertools.chain(*actual))
    assert sorted(order) == np.flatnonzero(reader.readable).tolist()
    assert (order == sorted(order)) is not shuffle


@pytest.mark.system
@pytest.mark.parametrize("context", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("file_format", FORMATS)
def test_workers_share_an_epoch_however_they_are_started(stores: dict[str, Reader], context: str, file_format: str) -> None:
    """The parent has read before the fork: a handle or a lock that does not survive one would show here."""
    reader = stores[file_format]
    reader.read("f3", 0, ROWS)
    alone = rows_of(list(reader.torch(["f3"], 5, seed=1, epoch=2)))
    shared = loaded(reader.torch(["f3"], 5, seed=1, epoch=2), 2, context)
    assert sorted(rows_of(shared)) == sorted(alone)
    for batch in shared:
        np.testing.assert_array_equal(batch["f3"].numpy(), reader.read("f3", 0, ROWS)[batch["row"].numpy()])


@pytest.mark.parametrize("ranks", [1, 2, 3, 5, 36])
@pytest.mark.parametrize("batch_size", [1, 4, 6, 12])
def test_ranks_share_an_epoch_and_take_equally_many_steps(reader: Reader, ranks: int, batch_size: int) -> None:
    parts = [rows_of(list(reader.torch(["f3"], batch_size, rank=(rank, ranks)))) for rank in range(ranks)]
    assert sorted(itertools.chain(*itertools.chain(*parts))) == np.flatnonzero(reader.readable).tolist()
    steps = {len(part) for part in parts}
    assert len(steps) == 1 or (batch_size == 1 and max(steps) - min(steps) == 1)
    assert all(1 <= len(rows) <= batch_size for part in parts for rows in part)


def test_more_ranks_than_rows_is_an_error(reader: Reader) -> None:
    with pytest.raises(UsageError, match="2 rows can't be dealt to 4 ranks"):
        list(reader.torch(["f3"], 4, rows=(0, 3), rank=(0, 4)))


def test_the_process_groups_rank_is_found_and_travels(reader: Reader, tmp_path: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        assert len(reader.torch(["f3"], 5)) == 8
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker processes")
@pytest.mark.parametrize("workers", [0, *(pytest.param(count, marks=pytest.mark.system) for count in (1, 2, 3))])
def test_an_epoch_goes_on_from_any_position(reader: Reader, workers: int) -> None:
    context = "fork" if workers else None
    expected = rows_of(loaded(reader.torch(["f3"], 5, seed=2, epoch=1), workers, context))
    for position in (0, 1, 2, 3, 7, len(expected)):
        dataset = reader.torch(["f3"], 5, seed=2, epoch=1, position=position)
        assert rows_of(loaded(dataset, workers, context)) == expected[position:]
        assert len(dataset) == len(expected) - position


def test_epochs_differ_and_repeat(reader: Reader) -> None:
    dataset = reader.torch(["f3"], 5)

    def orders() -> Iterator[list[list[int]]]:
        for epoch in range(3):
            dataset.set_epoch(epoch)
            yield rows_of(list(dataset))

    first, second = list(orders()), list(orders())
    assert first == second
    assert first[0] != first[1] != first[2]


def test_a_batch_is_the_callers_to_keep(reader: Reader) -> None:
    """Buffers are reused behind the scenes only."""
    batches = list(reader.torch(["f3"], 3))
    for batch in batches:
        np.testing.assert_array_equal(batch["f3"].numpy(), reader.read("f3", 0, ROWS)[batch["row"].numpy()])


def test_a_batch_of_nothing_is_refused(reader: Reader) -> None:
    with pytest.raises(UsageError, match="at least 1"):
        reader.torch(["f3"], 0)
