"""The array files of a store: one module per format, all with the functions of `Format`; none knows another.

Plan, records and manifest are the same for all formats and do not belong here.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast

from numpy.typing import NDArray

from posenet_store.errors import unknown
from posenet_store.specs import FORMATS, StoreSpec
from posenet_store.store.access import EncodedFiles, Files
from posenet_store.store.chunking import compute_block_bounds, split_at_blocks


class Arrays(ABC):
    """The arrays of a store, opened for reading; every byte is compared with its checksum while it is decoded."""

    def __init__(self, files: Files, spec: StoreSpec) -> None:
        self._files, self._spec = files, spec
        self._bounds = compute_block_bounds(spec.rows, spec.block_rows)

    def read(self, name: str, start: int, out: NDArray[Any]) -> None:
        """Decode rows [start, start + len(out)) of an array into `out`, which is contiguous and of the stored dtype."""
        for block, first, stop in split_at_blocks(self._bounds, start, start + len(out)):
            self._read_block(name, block, first - self._bounds[block][0], out[first - start : stop - start])

    @abstractmethod
    def _read_block(self, name: str, block: int, start: int, out: NDArray[Any]) -> None:
        """Decode rows of one block into `out`; `start` counts from the block's first row."""


class Format(Protocol):
    """The functions of a format module; files are named relative to the store."""

    def create(self, folder: Path, spec: StoreSpec, ids: Sequence[str]) -> None:
        """Create the files that a store needs before its first block."""
        ...

    def name_file(self, array: str, block: int) -> str:
        """Return the file that holds an array's rows of a block."""
        ...

    def encode_block(
        self, spec: StoreSpec, block: int, arrays: Mapping[str, NDArray[Any]], ids: Sequence[str], pool: Executor | None = None
    ) -> EncodedFiles:
        """Encode a block of all arrays, on the threads of `pool`: return the pieces of each of its files, in order."""
        ...

    def open_arrays(self, files: Files, spec: StoreSpec) -> Arrays:
        """Open a store's arrays."""
        ...

    def count_other_files(self, spec: StoreSpec) -> int:
        """Return how many files of a sealed store belong to the format and to no block."""
        ...

    def finish(self, folder: Path, spec: StoreSpec) -> None:
        """Write what makes a complete store easier to use for people; no reader depends on it."""
        ...


def load_format(name: str) -> Format:
    """Return the module of a format, imported on demand: h5py is not needed to use Zarr."""
    if name not in FORMATS:
        raise unknown("format", name, FORMATS)
    return cast(Format, import_module(f"posenet_store.store.formats.{name}"))


def list_block_files(spec: StoreSpec, block: int) -> list[str]:
    """Return the files that hold a block of all arrays of a store."""
    name_file = load_format(spec.format).name_file
    return list(dict.fromkeys(name_file(array, block) for array in spec.arrays))


def count_files(spec: StoreSpec) -> int:
    """Return the number of files of the sealed store: blocks, their records, the format's own, plan and manifest."""
    blocks = len(compute_block_bounds(spec.rows, spec.block_rows))
    return blocks * (len(list_block_files(spec, 0)) + 1) + load_format(spec.format).count_other_files(spec) + 2
