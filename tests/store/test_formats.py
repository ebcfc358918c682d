"""One contract that every format keeps."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import xarray
from numpy.typing import NDArray

from posenet_store.errors import StoreError, UsageError
from posenet_store.files import sha256_file
from posenet_store.images.sources import load_image_set
from posenet_store.specs import FORMATS
from posenet_store.store.access import StoreFiles
from posenet_store.store.formats import list_block_files, load_format
from posenet_store.store.reader import Reader, open_store
from posenet_store.store.writer import StoreWriter
from tests.support.small import built_store, folder, tiny_backbone, write_images

ROWS = 14  # three blocks of four and a tail of two


@pytest.fixture(scope="module")
def readers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Reader]:
    root = tmp_path_factory.mktemp("formats")
    images = load_image_set(str(write_images(root / "photos", ROWS)))
    return {name: built_store(root / "stores", images, tiny_backbone(), file_format=name) for name in FORMATS}


@pytest.fixture(params=FORMATS)
def reader(request: pytest.FixtureRequest, readers: dict[str, Reader]) -> Reader:
    return readers[request.param]


def copied(reader: Reader, root: Path) -> Path:
    """A copy of a store that a test may damage."""
    target = root / folder(reader).name
    subprocess.run(["cp", "-r", str(folder(reader)), str(target)], check=True)
    return target


def files_of(store: Path, reader: Reader, block: int) -> list[Path]:
    return [store / name for name in list_block_files(reader.spec, block)]


def write_block(store: Path, reader: Reader, block: int, arrays: dict[str, NDArray[Any]]) -> None:
    StoreWriter(StoreFiles(store), reader.plan).commit(block, arrays, [])


def test_formats_hold_the_same_rows(readers: dict[str, Reader]) -> None:
    first, *others = readers.values()
    for other in others:
        assert other.ids == first.ids
        for name in first.spec.arrays:
            np.testing.assert_array_equal(other.read(name, 0, ROWS), first.read(name, 0, ROWS))


def test_a_format_is_part_of_the_fingerprint(readers: dict[str, Reader]) -> None:
    assert len({reader.spec.fingerprint for reader in readers.values()}) == len(FORMATS)


@pytest.mark.parametrize(("start", "stop"), [(0, 14), (3, 5), (4, 8), (11, 14), (13, 14), (6, 6)])
def test_any_span_of_rows_is_a_slice_of_the_whole(reader: Reader, start: int, stop: int) -> None:
    expected = reader.read("f2", 0, ROWS)
    np.testing.assert_array_equal(reader.read("f2", start, stop), expected[start:stop])
    assert np.isfinite(expected).all()


def test_writing_a_block_twice_gives_the_same_bytes(reader: Reader, tmp_path: Path) -> None:
    store = copied(reader, tmp_path)
    before = [sha256_file(path) for path in files_of(store, reader, 3)]
    arrays = {name: reader.read(name, 12, 14) for name in reader.spec.arrays}
    for _ in range(2):
        write_block(store, reader, 3, arrays)
    assert [sha256_file(path) for path in files_of(store, reader, 3)] == before
    assert not list(store.rglob("*.tmp"))


def test_a_torn_file_does_not_stand_in_the_way_of_its_repair(reader: Reader, tmp_path: Path) -> None:
    store = copied(reader, tmp_path)
    torn = files_of(store, reader, 3)[-1]
    content = torn.read_bytes()
    torn.write_bytes(content[: len(content) // 2])
    arrays = {name: reader.read(name, 12, 14) for name in reader.spec.arrays}
    write_block(store, reader, 3, arrays)
    assert torn.read_bytes() == content


def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    reader: Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = copied(reader, tmp_path)
    (store / "commits/b00000.json").unlink()  # a committed block would not be written again
    before = {path: path.read_bytes() for path in store.rglob("*") if path.is_file()}

    def full(path: Path) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("posenet_store.store.exclusive.fsync", full)
    arrays = {name: reader.read(name, 0, 4) + 1 for name in reader.spec.arrays}
    with pytest.raises(OSError, match="No space left"):
        write_block(store, reader, 0, arrays)
    assert {path: path.read_bytes() for path in store.rglob("*") if path.is_file()} == before


def test_every_flipped_byte_is_an_error_or_harmless_never_other_numbers(reader: Reader, tmp_path: Path) -> None:
    """Each 97th byte of a block's files in turn: what is read is what was written, or a StoreError that names the file."""
    store = copied(reader, tmp_path)
    expected = reader.read("f3", 12, 14)
    caught = 0
    for path in files_of(store, reader, 3):
        content = path.read_bytes()
        for offset in range(0, len(content), 97):
            path.write_bytes(content[:offset] + bytes([content[offset] ^ 0x10]) + content[offset + 1 :])
            try:
                np.testing.assert_array_equal(open_store(store).read("f3", 12, 14), expected)
            except StoreError as error:
                assert str(store) in str(error)
                caught += 1
        path.write_bytes(content)
    assert caught > 0


@pytest.mark.parametrize("harm", ["delete", "truncate"])
def test_a_missing_or_short_file_is_an_error_that_names_it(reader: Reader, tmp_path: Path, harm: str) -> None:
    store = copied(reader, tmp_path)
    path = files_of(store, reader, 1)[-1]
    path.unlink() if harm == "delete" else path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(StoreError, match=path.name):
        open_store(store).read("aligned", 0, ROWS)


def test_an_unknown_format_names_the_known() -> None:
    with pytest.raises(UsageError, match="accepted: zarr, hdf5"):
        load_format("npy")


def test_xarray_opens_the_zarr_group(readers: dict[str, Reader]) -> None:
    reader = readers["zarr"]
    with xarray.open_zarr(folder(reader) / "data.zarr", consolidated=False) as data:
        assert tuple(data["image_id"].values) == reader.ids
        np.testing.assert_array_equal(data["f1"].values, reader.read("f1", 0, ROWS))


def test_plain_h5py_reads_the_parts_without_a_plugin(readers: dict[str, Reader]) -> None:
    reader = readers["hdf5"]
    expected = reader.read("aligned", 12, ROWS)
    with h5py.File(folder(reader) / "parts/part-00003.h5", "r") as part:
        assert [name.decode() for name in part["image_id"][()]] == list(reader.ids[12:])
        np.testing.assert_array_equal(part["aligned"][()], expected)
        assert part["f1"].compression == "gzip"
        assert [axis.label for axis in part["f1"].dims] == ["image", "channel", "y", "x"]


@pytest.mark.skipif(shutil.which("h5dump") is None, reason="h5dump is missing: apt-get install hdf5-tools")
def test_h5dump_reads_the_parts_without_a_plugin(readers: dict[str, Reader], tmp_path: Path) -> None:
    reader, values = readers["hdf5"], tmp_path / "values"
    part = folder(reader) / "parts/part-00003.h5"
    subprocess.run(["h5dump", "-d", "f1", "-b", "FILE", "-o", values, part], check=True, capture_output=True)
    np.testing.assert_array_equal(np.fromfile(values, reader.spec.dtype), reader.read("f1", 12, ROWS).reshape(-1))


def test_a_byte_flipped_after_a_part_was_checked_is_an_error_that_names_it(readers: dict[str, Reader], tmp_path: Path) -> None:
    store = copied(readers["hdf5"], tmp_path)
    reader, path = open_store(store), store / "parts/part-00001.h5"
    reader.read("f1", 4, 8)
    with h5py.File(path, "r") as part:
        chunk = part["f1"].id.get_chunk_info(0)
    data = bytearray(path.read_bytes())
    data[chunk.byte_offset + chunk.size // 2] ^= 4
    path.write_bytes(data)
    with pytest.raises(StoreError, match=r"parts/part-00001\.h5"):
        reader.read("f1", 4, 8)


@pytest.mark.system
def test_zarr_stores_do_not_need_h5py(readers: dict[str, Reader]) -> None:
    block = "import sys; sys.modules['h5py'] = sys.modules['isal'] = None"
    code = f"{block}; from posenet_store import open_store; open_store(sys.argv[1]).read('f1', 0, 2)"
    subprocess.run([sys.executable, "-c", code, str(folder(readers["zarr"]))], check=True)
