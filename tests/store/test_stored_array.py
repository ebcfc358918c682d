"""An array of a store, indexed: the same numbers as NumPy's, and only the blocks that are asked for."""

from typing import Any

import numpy as np
import pytest

from posenet_store.errors import UsageError
from posenet_store.images.sources import load_image_set
from posenet_store.store.reader import Reader
from tests.support.small import built_store, tiny_backbone, write_images

ROWS = 10


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    """Ten rows in blocks of four."""
    root = tmp_path_factory.mktemp("array")
    return built_store(root, load_image_set(str(write_images(root / "photos", ROWS))), tiny_backbone())


@pytest.mark.parametrize(
    "index",
    [
        0, -1, slice(3, 7), slice(None), slice(8, 99), slice(7, 2, -2), slice(4, 4), ..., None, (), (2, 3), (slice(2, 6), 5),
        (..., 0), (None, 3), (slice(0, 2), ..., slice(1, 3)), [9, 0, 0], [], np.array([[0, 5], [7, 1]]), np.arange(ROWS) > 6,
        (slice(0, 5), [1, 3]), ([1, 8], slice(2, 4)), (3, 4, 1, 2), np.int64(4),
    ],
    ids=str,
)  # fmt: skip
def test_indexing_is_numpys(reader: Reader, index: Any) -> None:
    expected = reader.read("f3")[index]
    actual = reader["f3"][index]
    assert actual.dtype == expected.dtype
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("index", [10, -11, "f1", (0, 16), ([0, 1], [0, 1]), 1.5, (0, 0, 0, 0, 0), np.ones(3, bool)], ids=str)
def test_what_the_array_does_not_have_is_a_sentence(reader: Reader, index: Any) -> None:
    with pytest.raises(UsageError, match="f3 can't be indexed by"):
        reader["f3"][index]


def test_it_looks_like_an_array_and_is_read_when_used(reader: Reader) -> None:
    array = reader["f3"]
    before = reader.counter.bytes
    assert (array.shape, str(array.dtype), array.ndim, len(array)) == ((ROWS, 16, 4, 4), "float32", 4, ROWS)
    assert all(fact in repr(array) for fact in ("f3", "[10, 16, 4, 4]", "float32"))
    assert array.nbytes == ROWS * 16 * 4 * 4 * 4
    assert reader.counter.bytes == before
    np.testing.assert_array_equal(np.asarray(array), reader.read("f3"))
    assert np.asarray(array, np.float64).dtype == np.float64
    assert np.stack(list(array)).shape == array.shape
    with pytest.raises(ValueError, match="copy"):
        np.array(array, copy=False)


def test_only_the_rows_between_the_first_and_the_last_of_a_block_are_read(reader: Reader) -> None:
    before = reader.counter.bytes
    reader["f3"][[0, 9]]
    assert reader.counter.bytes - before == 2 * 16 * 4 * 4 * 4
