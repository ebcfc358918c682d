"""Reader: read a store's arrays, in order or in shuffled batches; needs neither the images nor the network, never writes."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from posenet_store.errors import StoreError, UsageError, first_line
from posenet_store.notebook import format_html_table
from posenet_store.specs import StoreSpec, Tap
from posenet_store.store.access_remote import open_files
from posenet_store.store.batching import Rows, draw_epoch_pools, iterate_batches
from posenet_store.store.block_records import BlockRecords, Identity
from posenet_store.store.catalogue import list_facts
from posenet_store.store.chunking import count_row_bytes, split_at_blocks
from posenet_store.store.formats import Arrays, load_format
from posenet_store.store.plan import read_plan
from posenet_store.store.read_counter import ReadCounter
from posenet_store.store.requests import check_count, check_span, choose_names, find_rows
from posenet_store.store.stored_array import StoredArray
from posenet_store.threads import cached_property

if TYPE_CHECKING:
    import dask.array
    import xarray

    from posenet_store.store.torch_dataset import StoreDataset

POOL_BYTES = 256 << 20
Names = str | Sequence[str] | None
Batch = Mapping[str, NDArray[Any]]


class Reader:
    """A store, read-only: rows in the stored (permuted) order; the iterators skip quarantined rows.

    When a file is first read, or is another file than before, its digest is compared with its block's record; each chunk is
    compared with its checksum whenever it is decoded. With `unsealed`, a store that is still being built opens too, with the
    blocks committed so far.

    A copy in another process reads the same blocks: it gets the `identity` of what was opened, and raises StoreError if the
    store is another one by then.
    """

    def __init__(self, location: str | Path, unsealed: bool = False, identity: Identity | None = None) -> None:
        self.files = open_files(location)
        self.plan = read_plan(self.files)
        self._blocks = BlockRecords(self.files, self.plan, unsealed, identity)
        self.counter = ReadCounter()

    def __len__(self) -> int:
        """Return the number of rows, quarantined ones included."""
        return self.spec.rows

    def __getitem__(self, name: str) -> StoredArray:
        """Return one array, lazily: `reader["f5"][3:5]` reads two rows; raises UsageError for an unknown name."""
        return StoredArray(self, *self._choose([name]))

    __iter__ = None  # rows or arrays? `scan`, `batches` and `spec.arrays` say which

    def __contains__(self, name: object) -> bool:
        """Return whether there is an array of this name."""
        return name in self.spec.arrays

    def _ipython_key_completions_(self) -> list[str]:
        return list(self.spec.arrays)

    def _facts(self) -> list[tuple[str, str]]:
        """Return the (label, value) lines that describe the store."""
        return list_facts(self.spec, int(self.readable.sum()), self._blocks.state)

    def __repr__(self) -> str:
        return "\n".join([f"<Reader {self.name}>", *(f"  {label:8} {value}" for label, value in self._facts())])

    def _repr_html_(self) -> str:
        """Return the description as a table, for notebooks."""
        return format_html_table(self._facts(), caption=self.name)

    def __reduce__(self) -> tuple[type["Reader"], tuple[str, bool, Identity]]:
        return Reader, (str(self.files), not self._blocks.sealed, self._blocks.identity)

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
    def manifest(self) -> dict[str, Any]:
        """What the store was sealed with: statistics, quarantined images, digests of the records."""
        return self._blocks.manifest

    @cached_property
    def readable(self) -> NDArray[np.bool_]:
        """bool [rows]: False where the image is quarantined or not committed yet."""
        return self._blocks.find_readable()

    @cached_property
    def _arrays(self) -> Arrays:
        return load_format(self.spec.format).open_arrays(self.files, self.spec)

    def read_record(self, block: int) -> dict[str, Any]:
        """Return a block's record; raises StoreError if it is missing or not the one that the manifest names."""
        return self._blocks.read(block)

    def rows_of(self, *image_ids: str) -> NDArray[np.int64]:
        """Return the row of each image id, to index arrays with; raises UsageError for an id that the store does not hold."""
        return np.array(find_rows(self.ids, image_ids, self.name), np.int64)

    def _choose(self, names: Names) -> tuple[str, ...]:
        return choose_names(self.spec.arrays, names, self.name)

    def _span(self, start: int, stop: int | None) -> tuple[int, int]:
        return check_span(self.spec.rows, start, stop, self.name)

    def read(self, name: str, start: int = 0, stop: int | None = None, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Return rows [start, stop), by default all, of the array `name` in the stored dtype; quarantined rows are NaN.

        They are decoded into `out` if it is given (contiguous, of that shape and dtype). Raises UsageError for an unknown
        array, rows out of range or an unsuitable `out`, StoreError that names the file if a chunk is missing or damaged.
        """
        self._choose([name])
        start, stop = self._span(start, stop)
        shape = (stop - start, *self.spec.arrays[name])
        if out is not None and (out.shape != shape or out.dtype != self.spec.dtype or not out.flags.c_contiguous):
            raise UsageError(
                f"`out` is {out.dtype} {out.shape}; rows {start}-{stop} of {name} are {self.spec.dtype} {shape}, contiguous"
            )
        try:
            out = np.empty(shape, self.spec.dtype) if out is None else out
            for block, first, last in split_at_blocks(self.bounds, start, stop):
                with self._blocks.checking(block, load_format(self.spec.format).name_file(name, block)):
                    self._arrays.read(name, first, out[first - start : last - start])
            self.counter.bytes += out.nbytes
        except (ValueError, RuntimeError, OSError, KeyError, MemoryError) as error:
            where = f"{self.files}: rows {start}-{stop} of {name}"
            raise StoreError(f"{where} can't be decoded: {first_line(error)}; `verify --deep` names the file") from None
        return out

    def scan(self, names: Names = None, start: int = 0, stop: int | None = None) -> Iterator[Batch]:
        """Yield the readable rows of [start, stop) in stored order, block by block, as {name: [n, C, H, W]}.

        By default all rows of all arrays. Raises UsageError at once for an unknown array or rows out of range.
        """
        return self._scan(self._choose(names), *self._span(start, stop))

    def _scan(self, names: Sequence[str], start: int, stop: int) -> Iterator[Batch]:
        for _, first, last in split_at_blocks(self.bounds, start, stop):
            if self.readable[first:last].any():
                # without a reference here, the next block is read into the memory that this one frees
                yield self._count_images(self._read_readable(names, first, last))

    def _read_readable(self, names: Sequence[str], start: int, stop: int) -> dict[str, NDArray[Any]]:
        """Return the readable rows of [start, stop)."""
        readable = self.readable[start:stop]
        values = {name: self.read(name, start, stop) for name in names}
        return values if readable.all() else {name: value[readable] for name, value in values.items()}

    def _count_images(self, values: Batch) -> Batch:
        self.counter.images += len(next(iter(values.values())))
        return values

    def epoch(
        self, names: Names = None, start: int = 0, stop: int | None = None, *, seed: int = 0, epoch: int = 0
    ) -> list[Rows]:
        """Return the rows that `batches` visits, pool by pool; a pool is a block, or several of at most 256 MiB together."""
        chosen, span = self._choose(names), self._span(start, stop)
        check_count("seed", seed, 0)
        check_count("epoch", epoch, 0)
        pool_rows = max(1, POOL_BYTES // count_row_bytes(self.spec, chosen))
        return draw_epoch_pools(self.bounds, self.readable, span, pool_rows, seed, epoch)

    def batches(
        self,
        names: Names = None,
        start: int = 0,
        stop: int | None = None,
        *,
        batch_size: int = 32,
        seed: int = 0,
        epoch: int = 0,
    ) -> Iterator[Batch]:
        """Yield every readable row of [start, stop) once, in batches whose order depends on `seed` and `epoch` only.

        By default all rows of all arrays. Whole blocks are decoded and shuffled in pools (see `batching.draw_epoch_pools`).
        Memory: a pool and a batch. Raises UsageError for an unknown array, rows out of range or a batch of no rows.
        """
        check_count("batch_size", batch_size, 1)
        chosen = self._choose(names)
        pools = self.epoch(chosen, start, stop, seed=seed, epoch=epoch)
        rows = sum(map(len, pools))
        sizes = [min(batch_size, rows - first) for first in range(0, rows, batch_size)]
        return map(self._count_images, (values for _, values in iterate_batches(self, chosen, pools, sizes)))

    def torch(
        self,
        names: Names = None,
        batch_size: int = 32,
        shuffle: bool = True,
        seed: int = 0,
        epoch: int = 0,
        *,
        position: int = 0,
        rows: tuple[int, int] | None = None,
        rank: tuple[int, int] | None = None,
    ) -> "StoreDataset":
        """Return a `StoreDataset`: a torch IterableDataset of batches that DataLoader workers and ranks share.

        By default all rows of all arrays. `rows` is a span [start, stop); `rank` is (rank, ranks), by default that of
        torch.distributed. Raises UsageError for an unknown array, rows out of range, or a batch or rank that is not possible.
        """
        from posenet_store.store.torch_dataset import StoreDataset

        chosen, span = self._choose(names), self._span(*(rows or (0, None)))
        check_count("seed", seed, 0)
        order = partial(self._draw_order, chosen, span, seed) if shuffle else partial(self._list_stored_order, span)
        load_format(self.spec.format)  # here: a worker that is forked during another thread's import would wait for ever
        dataset = StoreDataset(self, chosen, order, batch_size=batch_size, rank=rank)
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

        return make_dask_array(self, *self._choose([name]))

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
        reader["f1"][0:8]                               # rows 0 to 7 of an array, [8, C, H, W]
        reader["f1"][reader.rows_of("cat.jpg")]         # the row of an image
        reader.torch(["f1", "aligned"], batch_size=32)  # a dataset for torch's DataLoader

    Raises UsageError for an unknown kind of URL or a missing package, and StoreError if the store is missing, damaged, of
    another format version or (without `unsealed`) not sealed.
    """
    return Reader(location, unsealed)
