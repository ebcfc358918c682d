"""Extraction: run a backbone once over an image set and commit its taps to a store, block by block."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from posenet_store.alignment import stored
from posenet_store.backbones import Backbone
from posenet_store.blocks import default_block_rows, row_order
from posenet_store.drift import described, drift, sample
from posenet_store.errors import BuildError, ImageError
from posenet_store.images import ImageSet
from posenet_store.layout import Plan
from posenet_store.provenance import provenance
from posenet_store.specs import StoreSpec
from posenet_store.store import Quarantined, StoreWriter, cast

DECODERS = 2
BATCHES_AHEAD = 2


@dataclass(frozen=True)
class Outcome:
    """What a build did: the store's path, images extracted now, blocks still missing (0: sealed), seconds, quarantine."""

    path: Path
    extracted: int
    missing: int
    seconds: float
    quarantined: tuple[Quarantined, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the facts that `build-store --json` prints."""
        return vars(self) | {"path": str(self.path), "quarantined": [vars(entry) for entry in self.quarantined]}


@dataclass(frozen=True)
class _Batch:
    """Decoded images of rows [start, start + n) of one block, and why some could not be read."""

    block: int
    start: int
    pixels: NDArray[np.uint8]
    quarantined: tuple[Quarantined, ...]


def plan_store(
    images: ImageSet, backbone: Backbone, layout: str, dtype: str, block_rows: int | None = None, file_format: str = "zarr"
) -> Plan:
    """Decide everything about a store before anything is written."""
    spec = StoreSpec(
        backbone=backbone.name,
        weights=backbone.weights,
        weights_sha256=backbone.weights_sha256,
        tap_set=backbone.tap_set,
        taps=backbone.taps,
        preprocess=backbone.preprocess,
        images=images.name,
        images_sha256=images.sha256,
        rows=len(images),
        layout=layout,
        dtype=dtype,
        block_rows=block_rows or default_block_rows(layout),
        format=file_format,
    )
    order = row_order(spec.rows, spec.permutation_seed)
    ids, digests = (tuple(entries[index] for index in order) for entries in (images.ids, images.digests))
    return Plan(spec, ids, digests, tuple(order), provenance() | {"probe": sample(backbone)})


def _read(images: ImageSet, plan: Plan, row: int) -> NDArray[np.uint8] | Quarantined:
    try:
        return images.read(plan.order[row], plan.spec.preprocess.size)
    except ImageError as error:
        return Quarantined(row, plan.ids[row], str(error))


def _gather(block: int, start: int, results: Sequence[NDArray[np.uint8] | Quarantined], size: int) -> _Batch:
    pixels = np.zeros((len(results), size, size, 3), dtype=np.uint8)
    bad = []
    for place, result in enumerate(results):
        if isinstance(result, Quarantined):
            bad.append(result)
        else:
            pixels[place] = result
    return _Batch(block, start, pixels, tuple(bad))


def decoded(images: ImageSet, plan: Plan, blocks: Sequence[int], batch_size: int) -> Iterator[_Batch]:
    """Yield the batches of `blocks` in order; threads decode two batches ahead, so memory does not grow.

    A batch never crosses a block, so what a row is computed with does not depend on where a build was resumed.
    """
    spans = [(b, row, min(row + batch_size, plan.bounds[b][1])) for b in blocks for row in range(*plan.bounds[b], batch_size)]
    waiting: deque[tuple[int, int, list[Future[NDArray[np.uint8] | Quarantined]]]] = deque()
    with ThreadPoolExecutor(DECODERS) as pool:
        try:
            for block, start, stop in spans:
                waiting.append((block, start, [pool.submit(_read, images, plan, row) for row in range(start, stop)]))
                if len(waiting) > BATCHES_AHEAD:
                    first = waiting.popleft()
                    yield _gather(first[0], first[1], [f.result() for f in first[2]], plan.spec.preprocess.size)
            for number, start, futures in waiting:
                yield _gather(number, start, [f.result() for f in futures], plan.spec.preprocess.size)
        finally:
            pool.shutdown(cancel_futures=True)


def extracted(
    backbone: Backbone, pixels: NDArray[np.uint8], arrays: Mapping[str, tuple[int, int, int]]
) -> dict[str, NDArray[np.float32]]:
    """Run the backbone once over uint8 [B, S, S, 3] and return a store's `arrays` as float32 on the host."""
    taps = backbone.features(torch.from_numpy(pixels))
    with torch.inference_mode():
        return {name: values.cpu().numpy() for name, values in stored(taps, arrays).items()}


def measured_rate(images: ImageSet, backbone: Backbone, plan: Plan, batch_size: int) -> float:
    """Return the seconds an image takes here, measured on one batch: reading, decoding, the forward pass, its arrays."""
    size = backbone.preprocess.size
    count = min(batch_size, len(images))
    extracted(backbone, np.zeros((1, size, size, 3), dtype=np.uint8), plan.spec.arrays)  # the first call sets up kernels
    began = time.perf_counter()
    pixels = np.zeros((count, size, size, 3), dtype=np.uint8)
    for index in range(count):
        try:
            pixels[index] = images.read(index, size)
        except ImageError:
            continue  # the build itself quarantines and reports it
    extracted(backbone, pixels, plan.spec.arrays)
    return (time.perf_counter() - began) / count


def _check_quarantine(count: int, reasons: Sequence[Quarantined], rows: int, limit: float) -> None:
    if count > limit * rows:
        examples = "; ".join(f"{entry.image_id}: {entry.reason}" for entry in reasons[:3])
        raise BuildError(
            f"{count} of {rows} images are unreadable, more than the {limit:.1%} allowed ({examples}). "
            "Mend or remove them, or allow more: --max-unreadable 0.05"
        )


def _check_drift(recorded: Plan, now: Plan) -> None:
    """Refuse to mix features: a resumed build must give what its first blocks hold."""
    differing = described(drift(recorded.provenance.get("probe", {}), now.provenance["probe"]))
    if differing:
        raise BuildError(
            f"the network no longer gives what the store's first blocks hold: the probe image differs in {differing}; "
            f"they were made with {recorded.provenance.get('versions')}: go on with these, or move the store away"
        )


def part_of(blocks: Iterable[int], part: tuple[int, int]) -> list[int]:
    """Return the blocks that part (i, n) extracts.

    >>> part_of(range(7), (2, 3))
    [1, 4]
    """
    return [block for block in blocks if block % part[1] == part[0] - 1]


def rows_in(plan: Plan, blocks: Iterable[int]) -> int:
    """Return the number of rows of some blocks."""
    return sum(stop - start for start, stop in (plan.bounds[block] for block in blocks))


def build(
    images: ImageSet,
    backbone: Backbone,
    plan: Plan,
    root: Path,
    *,
    batch_size: int = 16,
    max_unreadable: float = 0.01,
    part: tuple[int, int] = (1, 1),
    advance: Callable[[int], None] = lambda images: None,
) -> Outcome:
    """Build or resume the store of `plan` below `root`, and seal it once no block is missing.

    `part` (i, n) extracts every n-th block from the i-th: parts may run in any order, on several machines, even twice.
    `advance(n)` is called after n more images are safe or found safe. Raises BuildError if features do not fit the
    dtype or more than `max_unreadable` of the images can't be read; what is committed stays.
    """
    began = time.perf_counter()
    writer = StoreWriter.open(root, plan)
    mine = part_of(range(len(plan.bounds)), part)
    missing = part_of(writer.missing(), part)
    if missing:
        writer.unseal(missing)
    bad = writer.quarantined()
    if missing:
        _check_drift(writer.plan, plan)
    rows = rows_in(plan, missing)
    advance(rows_in(plan, mine) - rows)
    shapes = plan.spec.arrays.items()
    buffers = {name: np.empty((plan.spec.block_rows, *shape), plan.spec.dtype) for name, shape in shapes if missing}
    in_block: list[Quarantined] = []
    for batch in decoded(images, plan, missing, batch_size):
        start, stop = plan.bounds[batch.block]
        in_block += batch.quarantined
        _check_quarantine(len(bad) + len(in_block), [*bad, *in_block], plan.spec.rows, max_unreadable)
        _fill(buffers, extracted(backbone, batch.pixels, plan.spec.arrays), batch, start)
        if batch.start + len(batch.pixels) == stop:
            writer.commit(batch.block, {name: buffer[: stop - start] for name, buffer in buffers.items()}, in_block)
            bad, in_block = [*bad, *in_block], []
        advance(len(batch.pixels))
    seconds = time.perf_counter() - began
    left = len(writer.missing())
    if not left and not writer.sealed:
        writer.seal({"extracted": rows, "seconds": round(seconds, 3), **provenance()})
    return Outcome(writer.files.root, rows, left, seconds, tuple(bad))


def _fill(arrays: dict[str, NDArray[Any]], values: dict[str, NDArray[np.float32]], batch: _Batch, block_start: int) -> None:
    """Cast a batch into the block's arrays; quarantined rows become NaN."""
    unreadable = {entry.row - batch.start for entry in batch.quarantined}
    held = [place for place in range(len(batch.pixels)) if place not in unreadable]
    first = batch.start - block_start
    for name, array in arrays.items():
        array[first : first + len(batch.pixels)] = cast(values[name], array.dtype.name, name, held)
        for place in unreadable:
            array[first + place] = np.nan
