"""Rows, blocks, chunks and the order of an epoch: every readable row exactly once, whatever the sizes."""

from pathlib import Path
from typing import TypeAlias

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from posenet_store.images.image_set import load_folder
from posenet_store.specs import Preprocess, StoreSpec, Tap
from posenet_store.store.batching import draw_epoch_pools
from posenet_store.store.chunking import (
    ALIGNED_BLOCK_ROWS,
    CHUNK_BYTES,
    TAPS_BLOCK_ROWS,
    choose_block_rows,
    choose_chunk_rows,
    compute_block_bounds,
    count_row_bytes,
    draw_row_order,
    split_at_blocks,
)
from posenet_store.store.formats import count_files
from tests.support.small import built_store, folder, tiny_backbone, write_images

unhurried = settings(deadline=None, max_examples=150)
seeds = st.integers(0, 2**32)
Case: TypeAlias = tuple[list[tuple[int, int]], NDArray[np.bool_], tuple[int, int], int]


def spec_of(layout: str, dtype: str, rows: int = 10, block_rows: int = 4) -> StoreSpec:
    taps = (Tap("f1", "0", (8, 16, 16)), Tap("f2", "1", (12, 8, 8)), Tap("f3", "2", (16, 4, 4)))
    preprocess = Preprocess(32, 1 / 255, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    return StoreSpec("tiny", "", "ab", "report", taps, preprocess, "some", "cd", rows, layout, dtype, block_rows)


@st.composite
def epochs(draw: st.DrawFn) -> Case:
    """Draw block bounds, a mask of readable rows, a span of rows, and a pool's size."""
    rows = draw(st.integers(1, 90))
    bounds = compute_block_bounds(rows, draw(st.integers(1, 30)))
    readable = np.array(draw(st.lists(st.booleans(), min_size=rows, max_size=rows)))
    start = draw(st.integers(0, rows))
    return bounds, readable, (start, draw(st.integers(start, rows))), draw(st.integers(1, 60))


@unhurried
@given(rows=st.integers(0, 5000), block_rows=st.integers(1, 700))
def test_blocks_partition_the_rows(rows: int, block_rows: int) -> None:
    bounds = compute_block_bounds(rows, block_rows)
    assert [row for start, stop in bounds for row in range(start, stop)] == list(range(rows))
    assert all(stop - start == block_rows for start, stop in bounds[:-1])
    assert all(0 < stop - start <= block_rows for start, stop in bounds)


@unhurried
@given(block_rows=st.integers(1, 2000), size=st.integers(1, 3 << 20))
def test_chunks_divide_the_block_and_are_the_largest_within_two_mebibytes(block_rows: int, size: int) -> None:
    rows = choose_chunk_rows(block_rows, size)
    divisors = [n for n in range(1, block_rows + 1) if block_rows % n == 0]
    assert rows == max([n for n in divisors if n * size <= CHUNK_BYTES], default=1)


def test_a_row_beyond_two_mebibytes_is_a_chunk_of_its_own() -> None:
    assert CHUNK_BYTES == 2 * 1024**2
    assert (choose_chunk_rows(64, CHUNK_BYTES // 64), choose_chunk_rows(64, CHUNK_BYTES // 64 + 1)) == (64, 32)
    assert (choose_chunk_rows(64, CHUNK_BYTES), choose_chunk_rows(64, CHUNK_BYTES + 1)) == (1, 1)


@unhurried
@given(rows=st.integers(0, 3000), seed=seeds)
def test_the_row_order_is_a_permutation_and_depends_on_the_seed_only(rows: int, seed: int) -> None:
    order = draw_row_order(rows, seed)
    assert sorted(order) == list(range(rows))
    np.random.default_rng().random()
    assert draw_row_order(rows, seed) == order
    assert all(type(index) is int for index in order)  # the plan is written as JSON


def test_the_row_order_of_existing_stores_is_kept() -> None:
    # A store's plan records it, but a resumed build and a second machine recompute it.
    assert draw_row_order(8, 0) == [2, 4, 3, 6, 5, 0, 1, 7]
    assert draw_row_order(8, 1) != draw_row_order(8, 0)


def test_row_order_leaves_no_long_run_of_neighbours() -> None:
    # Image folders are sorted by name; a block must be a sample of all of them.
    order = np.array(draw_row_order(1000, 0))
    assert (np.abs(np.diff(order)) == 1).mean() < 0.02
    assert abs(order[:100].mean() - 499.5) < 120


@unhurried
@given(rows=st.integers(0, 300), block_rows=st.integers(1, 50), data=st.data())
def test_a_span_is_split_at_the_bounds_of_its_blocks(rows: int, block_rows: int, data: st.DataObject) -> None:
    bounds = compute_block_bounds(rows, block_rows)
    start = data.draw(st.integers(0, rows))
    stop = data.draw(st.integers(start, rows))
    parts = list(split_at_blocks(bounds, start, stop))
    assert [(row, row // block_rows) for row in range(start, stop)] == [(row, b) for b, *part in parts for row in range(*part)]
    assert all(first < last for _, first, last in parts)


@unhurried
@given(case=epochs(), seed=seeds, epoch=st.integers(0, 100))
def test_an_epoch_visits_each_readable_row_of_its_span_exactly_once(case: Case, seed: int, epoch: int) -> None:
    bounds, readable, (start, stop), pool_rows = case
    pools = draw_epoch_pools(bounds, readable, (start, stop), pool_rows, seed, epoch)
    visited = [int(row) for pool in pools for row in pool]
    assert sorted(visited) == [row for row in range(start, stop) if readable[row]]


@unhurried
@given(case=epochs(), seed=seeds, epoch=st.integers(0, 100))
def test_a_pool_holds_whole_blocks_and_exceeds_its_size_only_as_a_single_block(case: Case, seed: int, epoch: int) -> None:
    bounds, readable, span, pool_rows = case
    block_rows = bounds[0][1]
    held_before: set[int] = set()
    for pool in draw_epoch_pools(bounds, readable, span, pool_rows, seed, epoch):
        blocks = {int(row) // block_rows for row in pool}
        assert len(pool) <= pool_rows or len(blocks) == 1
        assert not blocks & held_before  # a block is read once an epoch
        held_before |= blocks


@unhurried
@given(case=epochs(), seed=seeds, epoch=st.integers(0, 100))
def test_an_epochs_order_is_a_function_of_its_arguments(case: Case, seed: int, epoch: int) -> None:
    first = draw_epoch_pools(*case, seed, epoch)
    np.random.default_rng().random()
    second = draw_epoch_pools(*case, seed, epoch)
    assert [pool.tolist() for pool in first] == [pool.tolist() for pool in second]


@unhurried
@given(first=st.tuples(seeds, st.integers(0, 50)), other=st.tuples(seeds, st.integers(0, 50)))
def test_epochs_and_seeds_have_orders_of_their_own(first: tuple[int, int], other: tuple[int, int]) -> None:
    assume(first != other)
    bounds, readable = compute_block_bounds(64, 8), np.ones(64, dtype=bool)
    orders = [np.concatenate(draw_epoch_pools(bounds, readable, (0, 64), 24, *key)).tolist() for key in (first, other)]
    assert orders[0] != orders[1]  # by chance once in 8! * (24!)^2 * 16!


def test_swapping_seed_and_epoch_gives_another_order() -> None:
    bounds, readable = compute_block_bounds(64, 8), np.ones(64, dtype=bool)
    orders = [np.concatenate(draw_epoch_pools(bounds, readable, (0, 64), 24, *key)).tolist() for key in ((0, 1), (1, 0))]
    assert orders[0] != orders[1]


def test_the_blocks_of_a_pool_are_mixed() -> None:
    (pool,) = draw_epoch_pools(compute_block_bounds(200, 50), np.ones(200, dtype=bool), (0, 200), 200, seed=0, epoch=0)
    blocks = pool // 50
    assert 120 < int((blocks[1:] != blocks[:-1]).sum()) < 180  # three of four neighbours, had it been drawn at random
    assert all(set(blocks[part]) == {0, 1, 2, 3} for part in (slice(0, 50), slice(150, 200)))


def test_blocks_come_in_random_order() -> None:
    firsts = {
        int(draw_epoch_pools(compute_block_bounds(80, 8), np.ones(80, dtype=bool), (0, 80), 8, 0, epoch)[0][0]) // 8
        for epoch in range(100)
    }
    assert firsts == set(range(10))


def test_pools_are_filled() -> None:
    # Small pools would mix little.
    pools = draw_epoch_pools(compute_block_bounds(96, 8), np.ones(96, dtype=bool), (0, 96), 24, seed=0, epoch=0)
    assert [len(pool) for pool in pools] == [24, 24, 24, 24]


@pytest.mark.parametrize("span", [(0, 0), (5, 5), (10, 10)])
def test_an_empty_span_has_no_pool(span: tuple[int, int]) -> None:
    assert draw_epoch_pools(compute_block_bounds(10, 4), np.ones(10, dtype=bool), span, 8, seed=0, epoch=0) == []


def test_an_epoch_with_no_readable_row_visits_none() -> None:
    pools = draw_epoch_pools(compute_block_bounds(10, 4), np.zeros(10, dtype=bool), (0, 10), 8, seed=0, epoch=0)
    assert sum(map(len, pools)) == 0


def test_default_blocks() -> None:
    assert (choose_block_rows("native"), choose_block_rows("aligned")) == (TAPS_BLOCK_ROWS, ALIGNED_BLOCK_ROWS) == (64, 256)


@pytest.mark.parametrize(
    ("layout", "dtype", "expected"),
    [
        ("native", "float16", 2 * (8 * 256 + 12 * 64 + 16 * 16 + 9 * 784)),
        ("native", "float32", 4 * (8 * 256 + 12 * 64 + 16 * 16 + 9 * 784)),
        ("aligned", "float16", 2 * 9 * 784),
        ("aligned", "float32", 4 * 9 * 784),
    ],
)
def test_row_bytes(layout: str, dtype: str, expected: int) -> None:
    assert count_row_bytes(spec_of(layout, dtype)) == expected


@pytest.mark.parametrize("layout", ["native", "aligned"])
@pytest.mark.parametrize("rows", [4, 5])
def test_the_file_count_is_what_a_built_store_has(tmp_path: Path, layout: str, rows: int) -> None:
    images = load_folder(write_images(tmp_path / "images", rows))
    reader = built_store(tmp_path / "stores", images, tiny_backbone(), layout, block_rows=4)
    files = [path for path in folder(reader).rglob("*") if path.is_file()]
    assert len(files) == count_files(reader.spec)
