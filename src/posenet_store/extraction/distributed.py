"""Build a store in parts on several workers; each loads images and network once, and all write to the same store."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from math import ceil
from pathlib import Path

import torch

from posenet_store.backbones.backbone import Backbone
from posenet_store.backbones.device import parse_device
from posenet_store.backbones.load import load_backbone
from posenet_store.errors import BuildError, PosenetStoreError, WorkerError
from posenet_store.extraction.build import BuildResult, build_store, plan_store
from posenet_store.extraction.extend import find_batch_size, plan_extension, select_new
from posenet_store.images.image_set import ImageSet
from posenet_store.images.sources import load_image_set, make_absolute
from posenet_store.parallel.executors import count_workers, run_tasks
from posenet_store.parallel.worker import prepare_worker
from posenet_store.specs import BackboneSpec
from posenet_store.store.access import StoreFiles
from posenet_store.store.access_remote import open_files
from posenet_store.store.reader import open_store


@dataclass(frozen=True, kw_only=True)
class Part:
    """Part (i, n) of a build, with everything that a worker needs; paths must be valid on every worker."""

    source: str
    data_root: Path | None = None
    limit: int | None = None
    backbone: BackboneSpec
    layout: str
    dtype: str
    file_format: str
    keep_tokens: bool = False
    root: Path
    folder: Path
    batch_size: int | None = None
    max_unreadable: float = 0.01
    fingerprint: str
    extend: str | None = None
    part: tuple[int, int] = (1, 1)

    def make_absolute(self) -> "Part":
        """Return the part with absolute paths, for workers in other folders."""
        weights, is_file = self.backbone.weights, Path(self.backbone.weights).is_file()
        return replace(
            self,
            source=make_absolute(self.source),
            extend=self.extend and _find_location(self.extend),
            data_root=self.data_root and self.data_root.resolve(),
            backbone=replace(self.backbone, weights=str(Path(weights).resolve()) if is_file else weights),
            root=self.root.resolve(),
            folder=self.folder.resolve(),
        )


def _find_location(store: str) -> str:
    """Return the absolute path of a store in a folder, or its URL."""
    files = open_files(store)
    return str(files.root.resolve()) if isinstance(files, StoreFiles) else str(files)


MAX_BLOCKS = 16
"""Blocks of a part at most: about a second of a GPU, some minutes of a CPU."""
PARTS = 4
"""Parts for each worker: so that workers of different speed end at nearly the same time, and late ones find work."""


def split_build(build: Part, blocks: int, scheduler: str, workers: int | None = None) -> list[Part]:
    """Split a build of `blocks` blocks into parts that workers take as they come free; on local GPUs one for each of them."""
    devices = _list_gpus(build.backbone.device) if scheduler == "local" else []
    workers = count_workers(scheduler, workers)
    size = min(MAX_BLOCKS, ceil(blocks / (PARTS * workers)))
    count = min(len(devices), workers, blocks) if devices else ceil(blocks / size)
    parts = [replace(build.make_absolute(), part=(number, count)) for number in range(1, count + 1)]
    return [
        replace(part, backbone=replace(part.backbone, device=device))
        for part, device in zip(parts, devices or [build.backbone.device] * count, strict=False)
    ]


def _list_gpus(device: str) -> list[str]:
    """Return the GPUs of this machine that `device` may mean: none for a CPU, all for auto and cuda."""
    if parse_device(device).type == "cpu":
        return []
    return [device] if ":" in device else [f"cuda:{index}" for index in range(torch.cuda.device_count())]


def count_committed(folder: Path) -> int:
    """Return how many blocks of the store in `folder` are committed, as its list of files says now."""
    commits = StoreFiles(folder).commits
    return sum(1 for _ in commits.glob("b*.json")) if commits.is_dir() else 0


def build_parts(
    parts: list[Part], scheduler: str, workers: int | None = None, announce: Callable[[str], None] = lambda line: None
) -> Iterator[tuple[Part, BuildResult | PosenetStoreError]]:
    """Build parts on workers and yield each with its result or error; raises BuildError at the end if one failed.

    `scheduler` and `announce` are those of `parallel.executors.run_tasks`. The finished blocks of a failed part are kept.
    """
    build, failed = parts[0], 0
    resource = None if build.backbone.device == "cpu" else "GPU"
    tasks = run_tasks(
        build_part,
        parts,
        scheduler,
        workers,
        announce,
        resource,
        folder=build.root,
        count_kept=partial(count_committed, build.folder),
    )
    for part, result in tasks:
        failed += isinstance(result, PosenetStoreError)
        yield part, result
    if failed:
        raise BuildError(f"{failed} of {len(parts)} parts failed; finished blocks are kept: rerun the command to continue")


def build_part(part: Part, threads: int) -> BuildResult:
    """Build one part on `threads` threads; raises WorkerError if this worker has other images or weights."""
    prepare_worker(threads)
    images, backbone = _load_images(part.source, part.data_root, part.limit), _load_backbone(part.backbone)
    base = open_store(part.extend) if part.extend else None
    if base:
        images = select_new(base, images)
        plan, size = plan_extension(base, images, backbone), part.batch_size or find_batch_size(base, backbone)
    else:
        plan = plan_store(images, backbone, part.layout, part.dtype, file_format=part.file_format, keep_tokens=part.keep_tokens)
        size = part.batch_size
    if plan.spec.fingerprint != part.fingerprint:
        raise WorkerError(
            f"it finds other images or weights at {part.source} and {part.backbone.weights} than the command did "
            f"(fingerprint {plan.spec.fingerprint[:8]} instead of {part.fingerprint[:8]})"
        )
    try:
        return build_store(
            images, backbone, plan, part.root,
            batch_size=size, max_unreadable=part.max_unreadable, part=part.part, folder=part.folder, base=base,
        )  # fmt: skip
    finally:
        if backbone.device.type == "cuda":
            torch.cuda.empty_cache()  # the worker lives on, and others may need the memory


@lru_cache(maxsize=1)
def _load_images(source: str, data_root: Path | None, limit: int | None) -> ImageSet:
    return load_image_set(source, data_root, limit)


@lru_cache(maxsize=1)
def _load_backbone(spec: BackboneSpec) -> Backbone:
    return load_backbone(spec)
