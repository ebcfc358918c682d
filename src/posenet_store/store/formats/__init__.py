"""The files of a store: one module a format, none of which knows another, all behind one contract.

A format owns the arrays of a store and nothing else; plan, records and manifest are the same for all of them.
"""

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast

from numpy.typing import NDArray

from posenet_store.errors import unknown
from posenet_store.specs import FORMATS, StoreSpec
from posenet_store.store.access import Files
from posenet_store.store.records import EncodedFiles


class Arrays(Protocol):
    """Open arrays of a store, for reading; every byte is checked against its checksum as it is decoded."""

    def list_files(self, name: str, block: int) -> list[str]:
        """Return the files that rows of one array in a block are read from."""
        ...

    def read(self, name: str, start: int, out: NDArray[Any]) -> None:
        """Decode rows [start, start + len(out)) of one array into `out`, contiguous and of the stored dtype."""
        ...


class Format(Protocol):
    """What a format module provides; files are named relative to the store."""

    def create(self, folder: Path, spec: StoreSpec, ids: Sequence[str]) -> None:
        """Create what a store needs before its first block."""
        ...

    def list_block_files(self, spec: StoreSpec, block: int) -> list[str]:
        """Return the files that hold one block of all arrays."""
        ...

    def encode_block(self, spec: StoreSpec, block: int, arrays: Mapping[str, NDArray[Any]], ids: Sequence[str]) -> EncodedFiles:
        """Return the bytes of one block of all arrays: for each of `list_block_files`, the pieces it is made of, in order."""
        ...

    def open_arrays(self, files: Files, spec: StoreSpec) -> Arrays:
        """Open a store's arrays."""
        ...

    def count_other_files(self, spec: StoreSpec) -> int:
        """Return how many files a sealed store has beside its blocks, records, plan and manifest."""
        ...

    def finish(self, folder: Path, spec: StoreSpec) -> None:
        """Add what helps people once all blocks are there; no reader depends on it."""
        ...


def load_format(name: str) -> Format:
    """Return the module of a format, imported on demand: h5py is not needed to use Zarr."""
    if name not in FORMATS:
        raise unknown("format", name, FORMATS)
    return cast(Format, import_module(f"posenet_store.store.formats.{name}"))
