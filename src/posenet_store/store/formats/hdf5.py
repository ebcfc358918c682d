"""A store's arrays as closed HDF5 part files, one per block, readable by plain h5py or h5dump. The owner of h5py.

Chunks are deflated under HDF5's own gzip filter, so that no plugin is needed and a flipped bit is an error; `hdf5_chunks`
makes and reads them. A part is made in memory and written in one step; it is never opened for writing again, so a crash
can't leave it incomplete.
"""

import io
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from posenet_store.errors import first_line
from posenet_store.files import make_folder, write_atomic
from posenet_store.specs import StoreSpec, name_axes
from posenet_store.store.access import EncodedFiles, Files, StoreFiles
from posenet_store.store.chunking import choose_chunk_rows, compute_block_bounds, count_row_bytes
from posenet_store.store.formats import Arrays
from posenet_store.store.formats.hdf5_chunks import get_dataset, read_rows, write_datasets
from posenet_store.store.formats.hdf5_part import PartFile

PARTS = "parts"
WHOLE = "whole.h5"
IDS = "image_id"


def create(folder: Path, spec: StoreSpec, ids: Sequence[str]) -> None:
    """Create the folder of the parts."""
    make_folder(folder / PARTS)


def count_other_files(spec: StoreSpec) -> int:
    """Return 1, for the view of all parts."""
    return 1


def name_file(array: str, block: int) -> str:
    """Return the part that holds a block of all arrays."""
    return f"{PARTS}/part-{block:05d}.h5"


def encode_block(
    spec: StoreSpec, block: int, arrays: Mapping[str, NDArray[Any]], ids: Sequence[str], pool: Executor | None = None
) -> EncodedFiles:
    """Encode a block of all arrays and its row names as one part."""
    rows = {name: choose_chunk_rows(spec.block_rows, count_row_bytes(spec, [name])) for name in arrays}
    part = PartFile()  # in memory, since HDF5 ends the process when the disk is full
    with h5py.File(part, "w", libver=("earliest", "v110")) as file:
        write_datasets(file, arrays, rows, part.expect, pool)
        for name in arrays:
            file[name].attrs["module"] = spec.modules.get(name, "all taps, trilinear to [3, 28, 28] each")
            for axis, label in enumerate(("image", *name_axes(name))):
                file[name].dims[axis].label = label
        file.create_dataset(IDS, data=list(ids), dtype=h5py.string_dtype())
    return {name_file(IDS, block): [*part.list_pieces()]}


class _PartArrays(Arrays):
    """Opens a part for each read and closes it again, so that no open file is shared across a fork."""

    def _read_block(self, name: str, block: int, start: int, out: NDArray[Any]) -> None:
        part, (first, stop) = name_file(name, block), self._bounds[block]
        try:
            with self._open(part) as file:
                read_rows(get_dataset(file, name, stop - first), start, out)
        except Exception as error:  # h5py raises any type for a file that was made on purpose
            raise ValueError(f"{part}: {first_line(error)}") from None

    def _open(self, part: str) -> h5py.File:
        if isinstance(self._files, StoreFiles):  # HDF5 reads a local file itself, in C
            return h5py.File(self._files.root / part, "r", locking=False)
        return h5py.File(self._files.open(part), "r")


def open_arrays(files: Files, spec: StoreSpec) -> Arrays:
    """Return the arrays; no part is opened yet."""
    return _PartArrays(files, spec)


def finish(folder: Path, spec: StoreSpec) -> None:
    """Write whole.h5, a view of all parts as one file, for people.

    The readers of this package never open it: HDF5 gives NaN for a missing part of such a view instead of an error.
    """
    bounds = compute_block_bounds(spec.rows, spec.block_rows)
    view = io.BytesIO()
    with h5py.File(view, "w", libver=("earliest", "v110")) as file:
        for name, shape in [*spec.arrays.items(), (IDS, ())]:
            kind = h5py.string_dtype() if name == IDS else np.dtype(spec.dtype)
            layout = h5py.VirtualLayout((spec.rows, *shape), kind)
            for block, (start, stop) in enumerate(bounds):
                layout[start:stop] = h5py.VirtualSource(name_file(name, block), name, (stop - start, *shape), kind)
            file.create_virtual_dataset(name, layout, fillvalue=None if name == IDS else np.nan)
    write_atomic(folder / WHOLE, view.getbuffer())
