"""Commit blocks behind the network: one thread encodes a full block while the next fills, another writes the one before."""

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from torch import Tensor

from posenet_store.extraction.forward import allocate_arrays
from posenet_store.extraction.timing import StageTimer
from posenet_store.store.plan import Plan
from posenet_store.store.writer import EncodedBlock, QuarantinedImage, StoreWriter

BUFFERS = 2


class Buffer:
    """Host memory for one block; it must not change until `done`, the encoding of its last block, has ended."""

    def __init__(self, plan: Plan, pinned: bool) -> None:
        self.arrays = allocate_arrays(plan.spec.arrays, plan.spec.block_rows, plan.spec.dtype, pinned)
        self.done: Future[None] | None = None

    def free(self, clock: StageTimer) -> None:
        """Wait until the buffer may be filled again; raises the error of encoding its last block."""
        if self.done is not None:
            with clock.measure("buffers"):
                self.done.result()


class Committer:
    """Encodes full blocks on one thread and writes them on another, one block at a time each."""

    def __init__(self, writer: StoreWriter, clock: StageTimer) -> None:
        self._writer, self._clock = writer, clock
        self._encoding, self._writing = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
        self._written: Future[None] | None = None

    def __enter__(self) -> "Committer":
        return self

    def __exit__(self, *_: object) -> None:
        """Commit the blocks that are complete, whatever ended the build."""
        self._encoding.shutdown()
        self._writing.shutdown()

    def put(self, block: int, buffer: Buffer, quarantined: Sequence[QuarantinedImage]) -> None:
        """Start committing a full block."""
        buffer.done = self._encoding.submit(self._encode, block, buffer.arrays, quarantined)

    def finish(self, buffers: Iterable[Buffer]) -> None:
        """Wait until everything is committed; raises the first error."""
        for buffer in buffers:
            buffer.free(self._clock)
        if self._written is not None:
            self._written.result()

    def _encode(self, block: int, arrays: Mapping[str, Tensor], quarantined: Sequence[QuarantinedImage]) -> None:
        start, stop = self._writer.plan.bounds[block]
        with self._clock.measure("encode"):
            values = {name: array[: stop - start].numpy() for name, array in arrays.items()}
            encoded = self._writer.encode(block, values, quarantined)
        if self._written is not None:
            self._written.result()  # at most one encoded block waits in memory for the disk
        self._written = self._writing.submit(self._write, encoded)

    def _write(self, encoded: EncodedBlock) -> None:
        with self._clock.measure("write"):
            self._writer.write(encoded)
