"""A store's arrays as closed HDF5 part files, one a block, readable by plain h5py or h5dump. The owner of h5py.

Chunks are uncompressed with fletcher32, so that no plugin is needed and a flipped bit is an error. A part is written
beside its place, closed, synced and renamed; it is never opened for writing again, so no crash can leave it half.
"""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from posenet_store.files import fsync, write_atomic
from posenet_store.specs import StoreSpec
from posenet_store.store.access import Files, StoreFiles
from posenet_store.store.chunking import choose_chunk_rows, compute_block_bounds, count_row_bytes, overlapping
from posenet_store.store.records import EncodedFiles

PARTS = "parts"
WHOLE = "whole.h5"
IDS = "image_id"
CACHE = {"rdcc_nbytes": 16 << 20, "rdcc_w0": 1.0}  # a chunk larger than the cache would be decoded again for every row of it


def create(folder: Path, spec: StoreSpec, ids: Sequence[str]) -> None:
    """Create the folder of the parts."""
    (folder / PARTS).mkdir()
    fsync(folder)


def count_other_files(spec: StoreSpec) -> int:
    """Return one, for the view of all parts."""
    return 1


def _part(block: int) -> str:
    return f"{PARTS}/part-{block:05d}.h5"


def list_block_files(spec: StoreSpec, block: int) -> list[str]:
    """Return the part that holds one block."""
    return [_part(block)]


def encode_block(spec: StoreSpec, block: int, arrays: Mapping[str, NDArray[Any]], ids: Sequence[str]) -> EncodedFiles:
    """Make a closed part of one block of all arrays and its row names, in memory."""
    modules = {tap.name: tap.module for tap in spec.taps}
    part = io.BytesIO()  # HDF5 itself would take the process down with it on a full disk
    with h5py.File(part, "w", libver=("earliest", "v110")) as file:
        for name, values in arrays.items():
            rows = min(choose_chunk_rows(spec.block_rows, count_row_bytes(spec, [name])), len(values))
            dataset = file.create_dataset(name, data=values, chunks=(rows, *values.shape[1:]), fletcher32=True)
            dataset.attrs["module"] = modules.get(name, "all taps, trilinear to [3, 28, 28] each")
            for axis, label in enumerate(("image", "channel", "y", "x")):
                dataset.dims[axis].label = label
        file.create_dataset(IDS, data=list(ids), dtype=h5py.string_dtype())
    return {_part(block): [part.getbuffer()]}


class _Arrays:
    """Opens the parts that a read needs and closes them again: nothing is held open across a fork."""

    def __init__(self, files: Files, spec: StoreSpec) -> None:
        self._files = files
        self._bounds = compute_block_bounds(spec.rows, spec.block_rows)

    def list_files(self, name: str, block: int) -> list[str]:
        """Return the part that an array's rows in a block are read from."""
        return [_part(block)]

    def read(self, name: str, start: int, out: NDArray[Any]) -> None:
        """Read rows [start, start + len(out)) of one array into `out`."""
        stop = start + len(out)
        for block in overlapping(self._bounds, start, stop):
            first, end = self._bounds[block]
            low, high = max(first, start), min(end, stop)
            with self._opened(_part(block)) as file:
                file[name].read_direct(out, np.s_[low - first : high - first], np.s_[low - start : high - start])

    def _opened(self, part: str) -> h5py.File:
        """A path is read by HDF5 itself, in C; what comes from a URL is bytes already."""
        if isinstance(self._files, StoreFiles):
            return h5py.File(self._files.root / part, "r", locking=False, **CACHE)
        return h5py.File(self._files.open(part), "r", **CACHE)


def open_arrays(files: Files, spec: StoreSpec) -> _Arrays:
    """Prepare reading the parts."""
    return _Arrays(files, spec)


def finish(folder: Path, spec: StoreSpec) -> None:
    """Write whole.h5, in which the parts appear as one file: for people, who see NaN where a part is missing.

    Readers of this package never open it: HDF5 has no error for a missing part of such a view.
    """
    bounds = compute_block_bounds(spec.rows, spec.block_rows)
    text = h5py.string_dtype()
    view = io.BytesIO()
    with h5py.File(view, "w", libver=("earliest", "v110")) as file:
        for name, shape in [*spec.arrays.items(), (IDS, ())]:
            kind = text if name == IDS else np.dtype(spec.dtype)
            layout = h5py.VirtualLayout((spec.rows, *shape), kind)
            for block, (start, stop) in enumerate(bounds):
                layout[start:stop] = h5py.VirtualSource(_part(block), name, (stop - start, *shape), kind)
            file.create_virtual_dataset(name, layout, fillvalue=None if name == IDS else np.nan)
    write_atomic(folder / WHOLE, view.getbuffer())
