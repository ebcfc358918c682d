"""Estimate the seconds, memory and bytes of a build on this machine by running one batch."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

from posenet_store.backbones.backbone import Backbone
from posenet_store.errors import BuildError, ImageError
from posenet_store.extraction.commit import BUFFERS
from posenet_store.extraction.forward import Forward, allocate_arrays
from posenet_store.extraction.prefetch import BATCHES_AHEAD
from posenet_store.extraction.timing import StageTimer, get_peak_memory, reset_peak_memory
from posenet_store.files import find_existing
from posenet_store.images.image_set import ImageSet
from posenet_store.store.chunking import count_row_bytes
from posenet_store.store.formats import load_format
from posenet_store.store.plan import Plan
from posenet_store.threads import count_cpus


@dataclass(frozen=True)
class Estimate:
    """Costs of a build: seconds, peak host memory in bytes, bytes on the disk."""

    seconds: float
    memory: int
    bytes: int


def estimate_build(images: ImageSet, backbone: Backbone, plan: Plan, batch_size: int) -> Estimate:
    """Estimate a build by reading, computing, copying and compressing one batch.

    On CUDA the stages overlap and the slowest counts; on a CPU they share the cores and add up.
    """
    clock, spec, loading = StageTimer(), plan.spec, get_peak_memory()
    reset_peak_memory()  # temporary memory of loading is free by now
    count = min(batch_size, spec.block_rows, len(images))
    forward = Forward(backbone, spec.arrays, StageTimer())
    pixels = torch.zeros((count, spec.preprocess.size, spec.preprocess.size, 3), dtype=torch.uint8)
    targets = allocate_arrays(spec.arrays, count, spec.dtype, pinned=False)
    valid = torch.ones(count, dtype=torch.bool)
    for index in range(count):
        try:
            with clock.measure("decode", count_cpus()):
                pixels[index] = torch.from_numpy(images.read(index, spec.preprocess.size).copy())
        except ImageError:
            continue  # the build itself quarantines and reports it
    for timer in (StageTimer(), clock):  # the first pass sets up kernels
        with timer.measure("forward"):
            for batch in forward.launch(pixels, valid, targets):
                batch.wait()
    with clock.measure("encode"):
        arrays = {name: target.numpy() for name, target in targets.items()}
        files = load_format(spec.format).encode_block(spec, 0, arrays, plan.ids[:count])
    size = sum(len(piece) for pieces in files.values() for piece in pieces)
    seconds_of = clock.get_seconds()
    stages = [seconds_of[stage] for stage in ("decode", "forward", "encode")]
    seconds = (max if backbone.device.type == "cuda" else sum)(stages) / count * spec.rows
    # two blocks in buffers, one encoded and one being written; features may hardly compress
    block = min(spec.block_rows, spec.rows) * (BUFFERS * count_row_bytes(spec) + 2 * size // count)
    ahead = (BATCHES_AHEAD + 1) * pixels.numel()
    return Estimate(seconds, max(loading, get_peak_memory() + block + ahead), size * spec.rows // count)


def check_space(images: ImageSet, backbone: Backbone, plan: Plan, root: Path, rows: int, batch_size: int) -> None:
    """Raise BuildError if `rows` more rows do not fit on the disk of `root`.

    One batch tells how well they compress; it is run only where they might not fit.
    """
    free = shutil.disk_usage(find_existing(root)).free
    if count_row_bytes(plan.spec) * rows <= free:
        return
    needed = estimate_build(images, backbone, plan, batch_size).bytes * rows // plan.spec.rows
    if needed > free:
        raise BuildError(
            f"{plan.spec.folder} needs about {needed / 1e9:.1f} GB more and the disk of {root} has {free / 1e9:.1f} GB free; "
            "make room, give another --stores, or keep less: --layout readout or aligned"
        )
