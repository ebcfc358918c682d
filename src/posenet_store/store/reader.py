"""Reader: read a store's arrays, in order or in shuffled batches; needs neither the images nor the network, never writes."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from posenet_store.errors import StoreError, UsageError, first_line, unknown
from posenet_store.files import sha256
from posenet_store.specs import StoreSpec, Tap
from posenet_store.store.access import MANIFEST, name_record
from posenet_store.store.access_remote import open_files
from posenet_store.store.batching import Rows, draw_epoch_pools, iterate_batches
from posenet_store.store.catalogue import list_facts
from posenet_store.store.chunking import count_row_bytes, split_at_blocks
from posenet_store.store.formats import Arrays, load_format
from posenet_store.store.plan import read_plan
from posenet_store.store.records import (
    RESTORE,
    find_fault,
    read_committed_records,
    read_matching_manifest,
    read_record,
    summarize_records,
)

if TYPE_CHECKING:
    import dask.array
    import xarray

    from posenet_store.store.torch_dataset import StoreDataset

POOL_BYTES = 256 << 20


@dataclass
class ReadCounter:
    """Images read from a store (again in every epoch) and the bytes decoded for them.

    >>> ReadCounter(2, 30) + ReadCounter(1, 4)
    ReadCounter(images=3, bytes=34)
    """

    images: int = 0
    bytes: int = 0

    def __add__(self, other: "ReadCounter") -> "ReadCounter":
        return ReadCounter(self.images + other.images, self.bytes + other.bytes)


class Reader:
    """A store, read-only: rows in the stored (permuted) order; the iterators skip quarantined rows.

    When a file is first read its digest is compared with its block's record; each chunk is compared with its checksum
    whenever it is decoded. With `unsealed`, a store that is still being built opens too, with the blocks committed so far.
    """

    def __init__(self, location: str | Path, unsealed: bool = False) -> None:
        self.files = open_files(location)
        self.plan = read_plan(self.files)
        self._unsealed = unsealed
        self._records: dict[int, dict[str, Any]] = {}
        self._verified: set[str] = set()
        self.counter = ReadCounter()
        if unsealed and self.files.size(MANIFEST) is None:
            self._records = read_committed_records(self.files, self.plan)
            self.manifest = summarize_records(self.spec, self._records.values())
        else:
            self.manifest = read_matching_manifest(self.files, self.spec)
        for entry in self.plan.files:
            if fault := find_fault(self.files, entry, deep=True):
                raise StoreError(fault)

    def __len__(self) -> int:
        """Return the number of rows, quarantined ones included."""
        return self.spec.rows

    def _facts(self) -> list[tuple[str, str]]:
        """Return the (label, value) lines that describe the store."""
        state = "sealed" if self._sealed else f"unsealed, {len(self._records)} of {len(self.bounds)} blocks"
        return list_facts(self.spec, int(self.readable.sum()), state)

    def __repr__(self) -> str:
        return "\n".join([f"<Reader {self.name}>", *(f"  {label:8} {value}" for label, value in self._facts())])

    def _repr_html_(self) -> str:
        """Return the description as a table, for notebooks."""
        lines = "".join(f"<tr><th>{escape(label)}</th><td>{escape(value)}</td></tr>" for label, value in self._facts())
        return f"<table><caption>{escape(self.name)}</caption>{lines}</table>"

    def __reduce__(self) -> tuple[type["Reader"], tuple[str, bool]]:
        return Reader, (str(self.files), self._unsealed)

    @property
    def name(self) -> str:
        """The name of the store's folder."""
        return str(self.files).rsplit("/", 1)[-1]

    @property
    def spec(self) -> StoreSpec:
        """What the store is made of."""
        return self.plan.spec

    @cached_property
    def bounds(self) -> list[tuple[int, int]]:
        """(start, stop) of every block."""
        return self.plan.bounds

    @property
    def ids(self) -> tuple[str, ...]:
        """The image id of every row."""
        return self.plan.ids

    @property
    def taps(self) -> tuple[Tap, ...]:
        """The taps of the network, in order, with their module names and shapes."""
        return self.spec.taps

    @property
    def _sealed(self) -> bool:
        return "commits_sha256" in self.manifest

    @cached_property
    def readable(self) -> NDArray[np.bool_]:
        """bool [rows]: False where the image is quarantined or not committed yet."""
        mask = np.full(self.spec.rows, self._sealed)
        for block in () if self._sealed else self._records:
            mask[slice(*self.bounds[block])] = True
        mask[[entry["row"] for entry in self.manifest["quarantined"]]] = False
        return mask

    @cached_property
    def _arrays(self) -> Arrays:
        return load_format(self.spec.format).open_arrays(self.files, self.spec)

    def read_record(self, block: int) -> dict[str, Any]:
        """Return a block's record; raises StoreError if it is missing or not the one that the manifest names."""
        if block not in self._records:
            where = f"{self.files}/{name_record(block)}"
            if not self._sealed:
                raise StoreError(f"{where} was not there when the store was opened; its build has not ended")
            try:
                digest = sha256(self.files.read(name_record(block)))
            except FileNotFoundError:
                raise StoreError(f"{where} is missing; {RESTORE}") from None
            if digest != self.manifest["commits_sha256"][block]:
                raise StoreError(f"{where} is not the record that the manifest names; {RESTORE}")
            self._records[block] = read_record(self.files, block)
        return self._records[block]

    def _check_names(self, names: Sequence[str]) -> None:
        for name in names:
            if name not in self.spec.arrays:
                raise unknown(f"array of {self.name}", name, self.spec.arrays)

    def _check_file(self, name: str, block: int) -> None:
        """Compare the file of an array's block with its digest, once."""
        path = load_format(self.spec.format).name_file(name, block)
        if path in self._verified:
            return
        entry = next((entry for entry in self.read_record(block)["files"] if entry["path"] == path), None)
        fault = find_fault(self.files, entry, deep=True) if entry else f"{self.files}/{path} is in no record"
        if fault:
            raise StoreError(f"{fault}; block {block} is damaged; {RESTORE}")
        self._verified.add(path)

    def read(self, name: str, start: int, stop: int, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Return rows [start, stop) of the array `name` in the stored dtype; quarantined rows are NaN.

        They are decoded into `out` if it is given (contiguous, of that shape and dtype). Raises UsageError for an unknown
        array, rows out of range or an unsuitable `out`, StoreError that names the file if a chunk is missing or damaged.
        """
        self._check_names([name])
        if not 0 <= start <= stop <= self.spec.rows:
            raise UsageError(f"rows {start}-{stop} are not rows of {self.name}; it has rows 0-{self.spec.rows}")
        shape = (stop - start, *self.spec.arrays[name])
        out = np.empty(shape, self.spec.dtype) if out is None else out
        if out.shape != shape or out.dtype != self.spec.dtype or not out.flags.c_contiguous:
            raise UsageError(
                f"`out` is {out.dtype} {out.shape}; rows {start}-{stop} of {name} are {self.spec.dtype} {shape}, contiguous"
            )
        try:
            for block, *_ in split_at_blocks(self.bounds, start, stop):
                self._check_file(name, block)
            self._arrays.read(name, start, out)
            self.counter.bytes += out.nbytes
        except (ValueError, RuntimeError, OSError, KeyError) as error:
            where = f"{self.files}: rows {start}-{stop} of {name}"
            raise StoreError(f"{where} can't be decoded: {first_line(error)}; `verify --deep` names the file") from None
        return out

    def scan(self, names: Sequence[str], start: int = 0, stop: int | None = None) -> Iterator[Mapping[str, NDArray[Any]]]:
        """Yield the readable rows of [start, stop) in stored order, block by block, as {name: [n, C, H, W]}."""
        for _, first, last in split_at_blocks(self.bounds, start, self.spec.rows if stop is None else stop):
            if self.readable[first:last].any():
                # without a reference here, the next block is read into the memory that this one frees
                yield self._count_images(self._read_readable(names, first, last))

    def _read_readable(self, names: Sequence[str], start: int, stop: int) -> dict[str, NDArray[Any]]:
        """Return the readable rows of [start, stop)."""
        readable = self.readable[start:stop]
        values = {name: self.read(name, start, stop) for name in names}
        return values if readable.all() else {name: value[readable] for name, value in values.items()}

    def _count_images(self, values: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        self.counter.images += len(next(iter(values.values())))
        return values

    def epoch(self, names: Sequence[str], start: int, stop: int, *, seed: int, epoch: int) -> list[Rows]:
        """Return the rows that `batches` visits, pool by pool; a pool is a block, or several of at most 256 MiB together."""
        self._check_names(names)
        pool_rows = max(1, POOL_BYTES // count_row_bytes(self.spec, names))
        return draw_epoch_pools(self.bounds, self.readable, (start, stop), pool_rows, seed, epoch)

    def batches(
        self, names: Sequence[str], start: int, stop: int, *, batch_size: int, seed: int, epoch: int
    ) -> Iterator[Mapping[str, NDArray[Any]]]:
        """Yield every readable row of [start, stop) once, in batches whose order depends on `seed` and `epoch` only.

        Whole blocks are decoded and shuffled in pools (see `batching.draw_epoch_pools`). Memory: a pool and a batch.
        """
        pools = self.epoch(names, start, stop, seed=seed, epoch=epoch)
        rows = sum(map(len, pools))
        sizes = [min(batch_size, rows - first) for first in range(0, rows, batch_size)]
        return map(self._count_images, (values for _, values in iterate_batches(self, names, pools, sizes)))

    def torch(
        self,
        taps: Sequence[str],
        batch_size: int,
        shuffle: bool = True,
        seed: int = 0,
        epoch: int = 0,
        *,
        position: int = 0,
        rows: tuple[int, int] | None = None,
        rank: tuple[int, int] | None = None,
    ) -> "StoreDataset":
        """Return a `StoreDataset`: a torch IterableDataset of batches that DataLoader workers and ranks share.

        `rows` is a span [start, stop), by default all rows; `rank` is (rank, ranks), by default that of torch.distributed.
        """
        from posenet_store.store.torch_dataset import StoreDataset

        self._check_names(taps)
        span = rows or (0, self.spec.rows)
        order = partial(self._draw_order, tuple(taps), span, seed) if shuffle else partial(self._list_stored_order, span)
        dataset = StoreDataset(self, taps, order, batch_size=batch_size, rank=rank)
        dataset.set_epoch(epoch, position)
        return dataset

    def _draw_order(self, names: Sequence[str], span: tuple[int, int], seed: int, epoch: int) -> list[Rows]:
        return self.epoch(names, *span, seed=seed, epoch=epoch)

    def _list_stored_order(self, span: tuple[int, int], epoch: int) -> list[Rows]:
        """Return the readable rows in stored order, one pool per block, the same in every epoch."""
        pools = [first + np.flatnonzero(self.readable[first:stop]) for _, first, stop in split_at_blocks(self.bounds, *span)]
        return [pool for pool in pools if len(pool)]

    def dask(self, name: str) -> "dask.array.Array":
        """Return an array [rows, C, H, W], lazily, with one chunk per block; quarantined rows are NaN."""
        from posenet_store.store.dask_xarray import make_dask_array

        self._check_names([name])
        return make_dask_array(self, name)

    def xarray(self) -> "xarray.Dataset":
        """Return all arrays as a lazy Dataset with `image_id` and `readable`; needs xarray."""
        from posenet_store.store.dask_xarray import make_dataset

        return make_dataset(self, self.ids, self.readable)


def open_store(location: str | Path, unsealed: bool = False) -> Reader:
    """Open a store for reading; neither the images nor the network are needed.

    `location` is a folder (`~` is expanded) or a URL: file://, http://, https://, s3://, gs:// or az://. With `unsealed`, a
    store that is still being built opens too, with the blocks committed so far.

        reader = open_store("stores/vgg16-photos-1a2b3c4d")
        reader.taps                                     # names, modules and shapes
        reader.read("f1", 0, 8)                         # rows 0 to 7 of an array, [8, C, H, W]
        reader.torch(["f1", "aligned"], batch_size=32)  # a dataset for torch's DataLoader

    Raises UsageError for an unknown kind of URL or a missing package, and StoreError if the store is missing, damaged, of
    another format version or (without `unsealed`) not sealed.
    """
    return Reader(location, unsealed)
