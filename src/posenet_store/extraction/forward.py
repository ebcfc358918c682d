"""Run batches through a frozen network, on a CPU or on CUDA, and copy a store's arrays to buffers on the host.

On CUDA `launch` does not wait: pixels come from pinned memory, and features are copied on a separate stream while the next
batch is computed; `PendingBatch.wait` waits for them. On a CPU the features are there when `launch` returns.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from posenet_store.backbones.backbone import Backbone
from posenet_store.backbones.device import collect_device
from posenet_store.errors import BuildError, first_line, is_out_of_memory
from posenet_store.extraction.timing import StageTimer
from posenet_store.resampling import resample_taps
from posenet_store.specs import TOKENS_SUFFIX, get_precision
from posenet_store.store.feature_statistics import FIELDS, check_range

CPU_BATCH = 16
PATIENCE = 256
"""Passes after which a batch that was halved is doubled again: the memory may have been another process's."""


def choose_batch_size(backbone: Backbone, block_rows: int) -> int:
    """Return the default number of images per batch: 16 on a CPU, a block on CUDA (halved if memory runs out)."""
    return block_rows if backbone.device.type == "cuda" else CPU_BATCH


def describe_computation(backbone: Backbone, batch_size: int) -> dict[str, Any]:
    """Return what a store records of how its features were computed: the last bits of them may depend on each."""
    return collect_device(backbone.device) | {"precision": get_precision(backbone.compute), "batch_size": batch_size}


def allocate_arrays(spec_arrays: Mapping[str, tuple[int, ...]], rows: int, dtype: str, pinned: bool) -> dict[str, Tensor]:
    """Return uninitialised host tensors for `rows` images of a store's arrays, page-locked if `pinned`."""
    kind = getattr(torch, dtype)
    return {name: torch.empty((rows, *shape), dtype=kind, pin_memory=pinned) for name, shape in spec_arrays.items()}


def allocate_statistics(spec_arrays: Mapping[str, tuple[int, ...]], rows: int) -> dict[str, Tensor]:
    """Return page-locked host tensors for the statistics of rows (`describe_rows`) of a store's arrays."""
    return {name: torch.empty((rows, len(FIELDS)), dtype=torch.float64, pin_memory=True) for name in spec_arrays}


def describe_rows(values: Tensor) -> Tensor:
    """Return the FIELDS of each row of values [B, C, H, W], float64 [B, 5], computed where the values are.

    Squares of float32 may overflow float32. Those of float16 don't, nor does their sum, and a GPU makes no copy to add them.
    """
    rows, kind = values.flatten(1), torch.float32 if values.dtype == torch.float16 else torch.float64
    low, high = rows.aminmax(dim=1)
    squares = torch.linalg.vector_norm(rows, dim=1, dtype=kind).double().square()
    zeros = rows.shape[1] - rows.count_nonzero(dim=1)
    fields = (low, high, rows.sum(1, dtype=kind) / rows.shape[1], squares / rows.shape[1], zeros.double() / rows.shape[1])
    return torch.stack([field.double() for field in fields], dim=1)


@dataclass
class PendingBatch:
    """A batch whose features may not be on the host yet; `extremes` float32 [arrays, 2]: each array's range before the cast."""

    names: tuple[str, ...]
    dtype: str
    extremes: Tensor
    clock: StageTimer
    events: tuple[torch.cuda.Event, ...] = field(default=())

    def wait(self) -> None:
        """Wait until the features are on the host; raises BuildError if one is not finite or does not fit the dtype."""
        if self.events:
            started, computed, copying, copied = self.events
            copied.synchronize()
            self.clock.add("forward", started.elapsed_time(computed) / 1000)
            self.clock.add("copy", copying.elapsed_time(copied) / 1000)
        for name, (low, high) in zip(self.names, self.extremes.tolist(), strict=True):
            check_range(name, low, high, self.dtype)


def _find_extremes(values: Tensor, valid: Tensor) -> Tensor:
    """Return the minimum and maximum of the valid rows, float32 [2]; 0 if there is none."""
    # rows are picked by number: a mask on the GPU would make the host wait for the number of its rows
    rows = values if bool(valid.all()) else values[valid.nonzero()[:, 0].to(values.device, non_blocking=True)]
    if not rows.numel():
        return torch.zeros(2, device=values.device)
    # in the order of memory, channels last: otherwise all values would be copied first
    return torch.stack(rows.movedim(1, -1).flatten().aminmax())


class Forward:
    """Runs a backbone on batches for one store; `limit` is the number of images per pass once memory has run out."""

    def __init__(self, backbone: Backbone, arrays: Mapping[str, tuple[int, ...]], clock: StageTimer) -> None:
        self.limit: int | None = None
        self._passes = 0  # since memory ran out
        self._shortage = ""  # what torch said then
        self._backbone, self._arrays, self._clock = backbone, arrays, clock
        tokens = any(name.endswith(TOKENS_SUFFIX) for name in arrays)
        self._compute = partial(backbone.features, tokens=True) if tokens else backbone.features
        self._cuda = backbone.device.type == "cuda"
        self._copying = torch.cuda.Stream(backbone.device) if self._cuda else None

    def launch(
        self, pixels: Tensor, valid: Tensor, targets: Mapping[str, Tensor], statistics: Mapping[str, Tensor] | None = None
    ) -> list[PendingBatch]:
        """Compute uint8 [B, S, S, 3] into `targets` [B, C, H, W] or [B, N, C]; `valid` bool [B] says which rows hold an image.

        A GPU computes the `statistics` of the rows, float64 [B, 5], as well, if they are given.

        If memory runs out, the rest of the batch and the next ones (PATIENCE) are computed in halves. Raises BuildError if
        memory does not suffice for one image. The targets may be read once every returned batch's `wait` has returned.
        """
        pending: list[PendingBatch] = []
        first = 0
        while first < len(pixels):
            size = min(self.limit or len(pixels), len(pixels) - first)
            part = slice(first, first + size)
            rows = [{name: table[part] for name, table in tables.items()} for tables in (targets, statistics or {})]
            batch = self._try_batch(pixels[part], valid[part], *rows)
            if batch is not None:
                pending.append(batch)
                first += size
                self._passes += 1
                if self.limit and self._passes % PATIENCE == 0:
                    self.limit *= 2
            elif size == 1:
                raise BuildError(
                    f"the memory of {self._backbone.device} does not suffice for one image ({self._shortage}); "
                    "free some, or --device cpu"
                )
            else:
                self.limit, self._passes = size // 2, 0
                if self._cuda:
                    torch.cuda.empty_cache()
        return pending

    def _try_batch(
        self, pixels: Tensor, valid: Tensor, targets: Mapping[str, Tensor], statistics: Mapping[str, Tensor]
    ) -> PendingBatch | None:
        """Return None if memory ran out; the memory of the attempt is free by then."""
        try:
            if not self._cuda:
                return self._run_on_cpu(pixels, valid, targets)
            with torch.cuda.device(self._backbone.device):  # events are recorded on the current GPU, which may be another
                return self._run_on_cuda(pixels, valid, targets, statistics)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            self._shortage = first_line(error)
            return None

    @torch.inference_mode()
    def _run_on_cpu(self, pixels: Tensor, valid: Tensor, targets: Mapping[str, Tensor]) -> PendingBatch:
        with self._clock.measure("forward"):
            values = resample_taps(self._compute(pixels), self._arrays)
        with self._clock.measure("copy"):
            extremes = torch.stack([_find_extremes(value, valid) for value in values.values()])
            for name, target in targets.items():
                target.copy_(values[name].to(target.dtype))  # the cast halves what is then transposed to channels first
        return self._make_pending(targets, extremes)

    @torch.inference_mode()
    def _run_on_cuda(
        self, pixels: Tensor, valid: Tensor, targets: Mapping[str, Tensor], statistics: Mapping[str, Tensor]
    ) -> PendingBatch:
        # `blocking`: whoever waits sleeps, and leaves its core to decoding and encoding
        started, computed, copying, copied = (torch.cuda.Event(enable_timing=True, blocking=True) for _ in range(4))
        started.record()
        values = resample_taps(self._compute(pixels), self._arrays)
        kind = next(iter(targets.values())).dtype
        extremes = torch.stack([_find_extremes(value, valid) for value in values.values()])
        ready = {name: values[name].to(kind).contiguous() for name in targets}  # the GPU casts and transposes fastest
        described = {name: describe_rows(ready[name]) for name in statistics}
        computed.record()
        host_extremes = torch.empty(extremes.shape, pin_memory=True)
        with torch.cuda.stream(self._copying):
            computed.wait()
            copying.record()
            copies = [(extremes, host_extremes), *((ready[name], targets[name]) for name in targets)]
            for source, target in [*copies, *((described[name], statistics[name]) for name in statistics)]:
                target.copy_(source, non_blocking=True)
                source.record_stream(torch.cuda.current_stream())
            copied.record()
        return self._make_pending(targets, host_extremes, (started, computed, copying, copied))

    def _make_pending(
        self, targets: Mapping[str, Tensor], extremes: Tensor, events: tuple[torch.cuda.Event, ...] = ()
    ) -> PendingBatch:
        dtype = str(next(iter(targets.values())).dtype).removeprefix("torch.")
        return PendingBatch(tuple(targets), dtype, extremes, self._clock, events)
