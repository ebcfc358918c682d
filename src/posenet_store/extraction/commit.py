"""Commit blocks while the network computes the next ones: all cores encode a block, another thread writes the previous one."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from posenet_store.extraction.forward import allocate_arrays, allocate_statistics
from posenet_store.extraction.timing import StageTimer
from posenet_store.store.plan import Plan
from posenet_store.store.writer import EncodedBlock, QuarantinedImage, StoreWriter
from posenet_store.threads import count_cpus, use_torch_threads

BUFFERS = 2
Arrays = Mapping[str, NDArray[Any]]
Follow = Callable[[int, Arrays, NDArray[np.bool_]], None]
"""What gets each block while it is stored: its first row, its arrays, and which of its rows hold an image."""


class Buffer:
    """Host memory for a block; while `encoding` runs, it must not change."""

    def __init__(self, plan: Plan, pinned: bool) -> None:
        self.arrays = allocate_arrays(plan.spec.arrays, plan.spec.block_rows, plan.spec.dtype, pinned)
        self.statistics = allocate_statistics(plan.spec.arrays, plan.spec.block_rows) if pinned else {}
        self.encoding: Future[None] | None = None

    @property
    def is_free(self) -> bool:
        """Whether the buffer may be filled at once."""
        return self.encoding is None or self.encoding.done()

    def wait(self, clock: StageTimer) -> None:
        """Wait until the buffer may be filled again; raises the error of encoding its block."""
        if self.encoding is not None:
            with clock.measure("buffers"):
                self.encoding.result()


class Committer:
    """Encodes blocks on a pool of threads, which lives as long as the build, and writes them on a thread of its own.

    It does each with one block at a time. `follow` sees a block on the thread that submits it: it may set the number of threads
    for arithmetic, on which the last bits of a network on the CPU depend, so it must not run at the same time.
    """

    def __init__(self, writer: StoreWriter, clock: StageTimer, follow: Follow | None = None) -> None:
        self._writer, self._clock, self._follow = writer, clock, follow
        self._pool = ThreadPoolExecutor(count_cpus())
        self._encoder, self._writer_thread = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
        self._writing: Future[None] | None = None

    def __enter__(self) -> "Committer":
        return self

    def __exit__(self, *_: object) -> None:
        """Commit the complete blocks, even if an error ended the build."""
        for threads in (self._encoder, self._writer_thread, self._pool):
            threads.shutdown()

    def submit(
        self, block: int, buffer: Buffer, quarantined: Sequence[QuarantinedImage], computed_on: Mapping[str, Any] | None = None
    ) -> None:
        """Start committing a complete block."""
        buffer.encoding = self._encoder.submit(self._encode, block, buffer, quarantined, computed_on)
        if self._follow:
            start, stop = self._writer.plan.bounds[block]
            readable = ~np.isin(np.arange(start, stop), [image.row for image in quarantined])
            with self._clock.measure("moments"), use_torch_threads(count_cpus()):
                self._follow(start, _list_rows(buffer.arrays, stop - start), readable)

    def finish(self, buffers: Iterable[Buffer]) -> None:
        """Wait until everything is committed; raises the first error."""
        for buffer in buffers:
            buffer.wait(self._clock)
        if self._writing is not None:
            self._writing.result()

    def _encode(
        self,
        block: int,
        buffer: Buffer,
        quarantined: Sequence[QuarantinedImage],
        computed_on: Mapping[str, Any] | None,
    ) -> None:
        start, stop = self._writer.plan.bounds[block]
        with self._clock.measure("encode"):
            arrays, statistics = (_list_rows(parts, stop - start) for parts in (buffer.arrays, buffer.statistics))
            encoded = self._writer.encode(block, arrays, quarantined, computed_on, statistics, self._pool)
        if self._writing is not None:
            self._writing.result()  # so that at most one encoded block waits in memory for the disk
        self._writing = self._writer_thread.submit(self._write, encoded)

    def _write(self, encoded: EncodedBlock) -> None:
        with self._clock.measure("write"):
            self._writer.write(encoded)


def _list_rows(tensors: Mapping[str, Tensor], count: int) -> Arrays:
    """Return the first rows of each tensor as arrays, not copied."""
    return {name: rows[:count].numpy() for name, rows in tensors.items()}
