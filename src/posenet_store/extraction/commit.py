"""Behind the network: one thread encodes a full block while the next one fills, another writes the one before."""

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from posenet_store.extraction.forward import allocate_arrays
from posenet_store.extraction.timing import StageTimer
from posenet_store.store.plan import Plan
from posenet_store.store.writer import EncodedBlock, QuarantinedImage, StoreWriter

BUFFERS = 2


class Buffer:
    """Room for one block on the host; `done` is the encoding of what was in it last, until which it must not change."""

    def __init__(self, plan: Plan, pinned: bool) -> None:
        self.arrays = allocate_arrays(plan.spec.arrays, plan.spec.block_rows, plan.spec.dtype, pinned)
        self.done: Future[None] | None = None

    def free(self, clock: StageTimer) -> None:
        """Wait until the buffer may be filled again; raises what went wrong with the block that was in it."""
        if self.done is not None:
            with clock.busy("buffers"):
                self.done.result()


class Committer:
    """Behind the network: one thread encodes a full block, another writes the one before."""

    def __init__(self, writer: StoreWriter, clock: StageTimer) -> None:
        self._writer, self._clock = writer, clock
        self._encoding, self._writing = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
        self._written: Future[None] | None = None

    def __enter__(self) -> "Committer":
        return self

    def __exit__(self, *_: object) -> None:
        """Blocks that are complete are committed, whatever ended the build."""
        self._encoding.shutdown()
        self._writing.shutdown()

    def put(self, block: int, buffer: Buffer, quarantined: Sequence[QuarantinedImage]) -> None:
        """Let a full block be committed."""
        buffer.done = self._encoding.submit(self._encode, block, buffer.arrays, quarantined)

    def finish(self, buffers: Iterable[Buffer]) -> None:
        """Wait until everything is committed; raises what went wrong."""
        for buffer in buffers:
            buffer.free(self._clock)
        if self._written is not None:
            self._written.result()

    def _encode(self, block: int, arrays: Mapping[str, Tensor], quarantined: Sequence[QuarantinedImage]) -> None:
        start, stop = self._writer.plan.bounds[block]
        with self._clock.busy("encode"):
            unreadable = [entry.row - start for entry in quarantined]
            for array in arrays.values():
                array[unreadable] = torch.nan
            values = {name: array[: stop - start].numpy() for name, array in arrays.items()}
            encoded = self._writer.encode(block, values, quarantined)
        if self._written is not None:
            self._written.result()  # one block at a time lies encoded in memory and waits for the disk
        self._written = self._writing.submit(self._write, encoded)

    def _write(self, encoded: EncodedBlock) -> None:
        with self._clock.busy("write"):
            self._writer.write(encoded)
