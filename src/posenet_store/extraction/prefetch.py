"""Read and decode images into batches of pixels, on threads that run ahead of the network."""

from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from posenet_store.errors import ImageError
from posenet_store.extraction.timing import StageTimer
from posenet_store.images.decode import decode
from posenet_store.images.image_set import FileReader, ImageSet
from posenet_store.store.chunking import split_into_batches
from posenet_store.store.plan import Plan
from posenet_store.store.writer import QuarantinedImage
from posenet_store.threads import count_cpus

BATCHES_AHEAD = 2


@dataclass(frozen=True)
class Batch:
    """Pixels uint8 [n, S, S, 3] of rows [start, start + n) of a block; `valid` bool [n] is False for unreadable images."""

    block: int
    start: int
    pixels: Tensor
    valid: Tensor
    quarantined: tuple[QuarantinedImage, ...]

    @property
    def stop(self) -> int:
        return self.start + len(self.pixels)


def _read_row(images: ImageSet, plan: Plan, clock: StageTimer, target: Tensor, first: int, row: int) -> QuarantinedImage | None:
    """Read the image of a row into `target`, uint8 [S, S, 3]; return it as quarantined if it is unreadable."""
    index, size, workers = plan.order[row] - first, plan.spec.preprocess.resize, count_cpus()
    try:
        if isinstance(images.read, FileReader):
            with images.read.reserve(index):
                with clock.measure("read", workers):
                    data = images.read.fetch(index)
                with clock.measure("decode", workers):
                    target.numpy()[:] = decode(data, size)
        else:
            with clock.measure("decode", workers):
                target.numpy()[:] = images.read(index, size)
    except ImageError as error:
        return QuarantinedImage(row, plan.ids[row], str(error))
    return None


def decode_batches(
    images: ImageSet,
    plan: Plan,
    blocks: Iterable[int],
    batch_size: int,
    clock: StageTimer | None = None,
    pinned: bool = False,
    first: int = 0,
) -> Generator[Batch]:
    """Yield the batches of `blocks` in order; threads decode up to two batches ahead, so memory is bounded.

    `images` are those of the rows from `first` on, which are all that is read. No batch crosses the bounds of a block or a row
    at which a store was extended, so a resumed or extended build computes each row in the same batch. Closing the generator
    ends its threads.
    """  # fmt: skip
    clock, size = clock or StageTimer(), plan.spec.preprocess.size
    batches = ((b, *span) for b in blocks for span in split_into_batches(*plan.bounds[b], batch_size, plan.spec.extended_at))
    spans = [batch for batch in batches if batch[1] >= first]
    pending: deque[tuple[int, int, Tensor, list[Future[QuarantinedImage | None]]]] = deque()
    with ThreadPoolExecutor(count_cpus()) as pool:

        def collect() -> Batch:
            block, start, pixels, futures = pending.popleft()
            with clock.measure("images"):
                results = [future.result() for future in futures]
            valid = torch.tensor([result is None for result in results])
            return Batch(block, start, pixels, valid, tuple(result for result in results if result is not None))

        try:
            for block, start, stop in spans:
                pixels = torch.zeros((stop - start, size, size, 3), dtype=torch.uint8, pin_memory=pinned)
                rows = range(start, stop)
                futures = [pool.submit(_read_row, images, plan, clock, pixels[row - start], first, row) for row in rows]
                pending.append((block, start, pixels, futures))
                if len(pending) > BATCHES_AHEAD:
                    yield collect()
            while pending:
                yield collect()
        finally:
            pool.shutdown(cancel_futures=True)
