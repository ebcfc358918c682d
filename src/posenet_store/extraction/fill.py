"""Fill the buffers of blocks: with the features of batches, and with the rows that the store being extended holds already."""

import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Sequence

from posenet_store.extraction.commit import Buffer
from posenet_store.extraction.forward import Forward, PendingBatch, describe_rows
from posenet_store.extraction.prefetch import Batch
from posenet_store.extraction.timing import StageTimer
from posenet_store.store.plan import Plan
from posenet_store.store.reader import Reader


def fill_buffers(
    batches: Iterable[Batch],
    forward: Forward,
    plan: Plan,
    buffers: Sequence[Buffer],
    clock: StageTimer,
    ahead: int,
    base: Reader | None = None,
) -> Iterator[tuple[Batch, Buffer]]:
    """Yield each batch once its features are in its block's buffer, in order, while the next `ahead` batches run.

    Rows of a block that precede its first batch are read from `base`.
    """
    next_buffer = itertools.cycle(buffers)
    pending: deque[tuple[Batch, Buffer, list[PendingBatch]]] = deque()

    def wait() -> tuple[Batch, Buffer]:
        batch, buffer, running = pending.popleft()
        for part in running:
            part.wait()
        return batch, buffer

    buffer, block = buffers[0], -1
    for batch in batches:
        start = plan.bounds[batch.block][0]
        if batch.block != block:
            block, buffer = batch.block, next(next_buffer)
            while pending and not buffer.is_free:  # what is computed meanwhile can already be encoded
                yield wait()
            buffer.wait(clock)
            if base:
                _copy_rows(base, start, batch.start, buffer)
        rows = slice(batch.start - start, batch.stop - start)
        targets, statistics = (
            {name: array[rows] for name, array in part.items()} for part in (buffer.arrays, buffer.statistics)
        )
        pending.append((batch, buffer, forward.launch(batch.pixels, batch.valid, targets, statistics)))
        if len(pending) > ahead:
            yield wait()
    while pending:
        yield wait()


def _copy_rows(base: Reader, start: int, stop: int, buffer: Buffer) -> None:
    """Copy rows [start, stop) of a store to the first rows of a buffer, with their statistics if it has some."""
    for name, array in buffer.arrays.items() if stop > start else ():
        rows = array[: stop - start]
        base.read(name, start, stop, rows.numpy())
        if name in buffer.statistics:
            buffer.statistics[name][: stop - start] = describe_rows(rows)
