"""A part in memory: the bytes of a file that HDF5 writes itself, and its chunks are not copied."""

import io

import h5py
import numpy as np
import pytest

from posenet_store.store.formats.hdf5_chunks import write_datasets
from posenet_store.store.formats.hdf5_part import PartFile

OPTIONS = {"libver": ("earliest", "v110")}
ROWS = {"f1": 1, "f2": 3}


def fill(file: h5py.File, part: PartFile | None = None) -> None:
    """Write chunks and metadata, also metadata behind chunks."""
    rng = np.random.default_rng(0)
    arrays = {name: rng.normal(size=(7, 3, 40, 40)).astype("float16") for name in ROWS}
    write_datasets(file, arrays, ROWS, part.expect if part else lambda chunk: None)
    for name in arrays:
        file[name].attrs["module"] = "x" * 100
        file[name].dims[0].label = "image"
    file.create_dataset("image_id", data=["a", "b/ünï"], dtype=h5py.string_dtype())


def test_a_part_is_the_file_that_hdf5_writes() -> None:
    part, buffer = PartFile(), io.BytesIO()
    with h5py.File(part, "w", **OPTIONS) as file:
        fill(file, part)
    with h5py.File(buffer, "w", **OPTIONS) as file:
        fill(file)
    assert b"".join(part.list_pieces()) == buffer.getvalue()


def test_chunks_are_kept_as_they_are() -> None:
    part, chunks = PartFile(), [bytes([number]) * 5000 for number in range(3)]
    with h5py.File(part, "w") as file:
        dataset = file.create_dataset("f1", (3, 5000), "uint8", chunks=(1, 5000), compression="gzip")
        for number, chunk in enumerate(chunks):
            part.expect(chunk)
            dataset.id.write_direct_chunk((number, 0), chunk)
    pieces = {id(piece) for piece in part.list_pieces()}
    assert pieces >= {id(chunk) for chunk in chunks}


def test_metadata_is_read_back_as_it_was_written_last() -> None:
    part = PartFile()
    for offset, data in ((0, b"aaaa"), (2, b"bb"), (8, b"cc")):
        part.seek(offset)
        part.write(data)
    part.seek(1)
    assert part.read(8) == b"abb" + bytes(4) + b"c"
    assert part.seek(0, io.SEEK_END) == part.tell() == 10
    assert part.truncate(12) == 12
    assert part.list_pieces() == [b"aabb" + bytes(4) + b"cc" + bytes(2)]


@pytest.mark.parametrize("rows", [1, 4])
def test_what_is_not_expected_is_kept_too(rows: int) -> None:
    part = PartFile()
    with h5py.File(part, "w") as file:
        file.create_dataset("f1", data=np.arange(4000).reshape(4, 1000), chunks=(rows, 1000), compression="gzip")
    with h5py.File(io.BytesIO(b"".join(part.list_pieces())), "r") as file:
        assert file["f1"][3, 999] == 3999
