"""Stores of every format version open for ever, and read back the numbers they were made of."""

from pathlib import Path

import numpy as np
import pytest

from posenet_store.files import sha256_file
from posenet_store.store.reader import open_store
from posenet_store.store.verify import find_damage
from tests.support.make_golden import GOLDEN, IDS

STORES = sorted(path for path in GOLDEN.iterdir() if path.is_dir())


def test_there_is_a_golden_store_of_each_format() -> None:
    assert [path.name for path in STORES] == ["v1-hdf5", "v1-zarr"]


@pytest.mark.parametrize("path", STORES, ids=lambda path: path.name)
def test_a_golden_store_reads_back(path: Path) -> None:
    before = {file: sha256_file(file) for file in path.rglob("*") if file.is_file()}
    reader = open_store(path)
    assert sorted(reader.ids) == sorted(IDS)
    assert list(find_damage(path, deep=True)) == []
    for row, name in enumerate(reader.ids):
        index = IDS.index(name)
        expected = np.array([index, 10 * index, 50 * index], np.float16)[None, :, None, None]
        for array in ("f1", "aligned"):
            actual = reader.read(array, row, row + 1)
            assert actual.dtype == np.float16
            assert (
                np.isnan(actual).all() if name == "broken" else np.array_equal(actual, np.broadcast_to(expected, actual.shape))
            )
    assert [entry["reason"] for entry in reader.manifest["quarantined"]] == ["broken on purpose"]
    assert {file: sha256_file(file) for file in path.rglob("*") if file.is_file()} == before
