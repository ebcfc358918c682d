"""Estimate the seconds, memory and bytes of a build on this machine by running one batch."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from posenet_store.backbones.backbone import Backbone
from posenet_store.errors import BuildError, ImageError
from posenet_store.extraction.commit import BUFFERS
from posenet_store.extraction.forward import Forward, allocate_arrays, allocate_statistics
from posenet_store.extraction.prefetch import BATCHES_AHEAD
from posenet_store.extraction.timing import StageTimer, get_peak_memory, reset_peak_memory
from posenet_store.files import find_existing
from posenet_store.images.image_set import ImageSet
from posenet_store.parallel.machine import has_bfloat16_instructions
from posenet_store.specs import StoreSpec, get_precision
from posenet_store.store.access import StoreFiles
from posenet_store.store.chunking import count_row_bytes
from posenet_store.store.plan import Plan
from posenet_store.store.writer import StoreWriter
from posenet_store.threads import count_cpus


@dataclass(frozen=True)
class Estimate:
    """Costs of a build: seconds, peak host memory in bytes, bytes on the disk, peak memory of the GPU in bytes (CPU: 0)."""

    seconds: float
    memory: int
    bytes: int
    gpu_memory: int = 0


def estimate_build(images: ImageSet, backbone: Backbone, plan: Plan, batch_size: int) -> Estimate:
    """Estimate what a build over `images` costs by reading, computing, copying, encoding and hashing one batch.

    On a CPU all stages share the cores and add up. On CUDA three things happen at the same time and the slowest counts: the
    GPU computes, it copies, and the CPU decodes and encodes.
    """
    clock, spec, loading = StageTimer(), plan.spec, get_peak_memory()
    reset_peak_memory()  # temporary memory of loading is free by now
    cuda, count = backbone.device.type == "cuda", min(batch_size, spec.block_rows, len(images))
    pixels = torch.zeros((count, spec.preprocess.size, spec.preprocess.size, 3), dtype=torch.uint8, pin_memory=cuda)
    for index in range(count):
        try:
            with clock.measure("decode", count_cpus()):
                pixels[index] = torch.from_numpy(images.read(index, spec.preprocess.resize).copy())
        except ImageError:
            continue  # the build itself quarantines and reports it
    targets = allocate_arrays(spec.arrays, count, spec.dtype, pinned=cuda)
    statistics, valid = allocate_statistics(spec.arrays, count) if cuda else {}, torch.ones(count, dtype=torch.bool)
    for timer in (StageTimer(), clock):  # the first pass sets up kernels
        for batch in Forward(backbone, spec.arrays, timer).launch(pixels, valid, targets, statistics):
            batch.wait()
    size = _encode(plan, count, targets, statistics, clock)
    seconds_of = clock.get_seconds()
    on_cpu = seconds_of["decode"] + seconds_of["encode"]
    if cuda:
        seconds = max(seconds_of["forward"], seconds_of["copy"], on_cpu)
    else:
        seconds = seconds_of["forward"] + seconds_of["copy"] + on_cpu
    buffer = sum(_count_pinned(shape, spec) if cuda else count_block_bytes(shape, spec) for shape in spec.arrays.values())
    reading = images.count_reading(spec.preprocess.resize, count_cpus())
    # two blocks in buffers, one encoded and one being written; features may hardly compress
    blocks = BUFFERS * buffer + 2 * size // count * min(spec.block_rows, spec.rows)
    memory = max(loading, get_peak_memory() + blocks + reading + (BATCHES_AHEAD + 1) * pixels.numel())
    gpu_memory = torch.cuda.max_memory_reserved(backbone.device) if cuda else 0
    return Estimate(seconds / count * len(images), memory, size * len(images) // count, gpu_memory)


def _encode(plan: Plan, count: int, targets: Mapping[str, Tensor], statistics: Mapping[str, Tensor], clock: StageTimer) -> int:
    """Encode a block of `count` rows as a build does, but write nothing; return its size in bytes."""
    small = replace(plan, spec=replace(plan.spec, rows=count, extended_at=()), ids=plan.ids[:count])
    arrays, rows = ({name: tensor.numpy() for name, tensor in tensors.items()} for tensors in (targets, statistics))
    with clock.measure("encode"):
        files = StoreWriter(StoreFiles(Path()), small).encode(0, arrays, [], row_statistics=rows).describe_files()
    return sum(file["bytes"] for file in files)


def count_block_bytes(shape: Sequence[int], spec: StoreSpec) -> int:
    """Return the bytes of one array in a block."""
    return min(spec.block_rows, spec.rows) * prod(shape) * np.dtype(spec.dtype).itemsize


def _count_pinned(shape: Sequence[int], spec: StoreSpec) -> int:
    """Return the bytes that torch locks for one array of a buffer: it rounds each up to a power of two."""
    return 1 << (count_block_bytes(shape, spec) - 1).bit_length()


def find_slow_precision(backbone: Backbone) -> str | None:
    """Return a note if the network computes in bfloat16 on a CPU that has to emulate it, else None."""
    if backbone.device.type != "cpu" or get_precision(backbone.compute) != "bfloat16" or has_bfloat16_instructions():
        return None
    return "this CPU has no instructions for bfloat16, which takes about 8 times as long here as --precision float32"


def check_space(images: ImageSet, backbone: Backbone, plan: Plan, root: Path, rows: int, batch_size: int) -> None:
    """Raise BuildError if `rows` more rows do not fit on the disk of `root`.

    One batch tells how well they compress; it is run only where they might not fit.
    """
    free = shutil.disk_usage(find_existing(root)).free
    if count_row_bytes(plan.spec) * rows <= free:
        return
    needed = estimate_build(images, backbone, plan, batch_size).bytes * rows // len(images)
    if needed > free:
        raise BuildError(
            f"{plan.spec.folder} needs about {needed / 1e9:.1f} GB more and the disk of {root} has {free / 1e9:.1f} GB free; "
            "make room, give another --stores, or keep less: --layout readout or aligned"
        )
