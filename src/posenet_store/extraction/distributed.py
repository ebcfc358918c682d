"""Parts of a build as tasks for Dask workers: each loads its inputs once a process and meets the others in the store."""

from dataclasses import astuple, dataclass
from functools import lru_cache
from pathlib import Path

from posenet_store.backbones.backbone import Backbone
from posenet_store.backbones.load import load_backbone
from posenet_store.errors import BuildError
from posenet_store.extraction.build import BuildResult, build_store, plan_store
from posenet_store.images.image_set import ImageSet
from posenet_store.images.sources import load_image_set
from posenet_store.parallel.worker import prepare_worker
from posenet_store.specs import BackboneSpec


@dataclass(frozen=True)
class Part:
    """One part (i, n) of a build; paths must mean the same on every worker."""

    source: str
    data_root: Path | None
    limit: int | None
    network: BackboneSpec
    layout: str
    dtype: str
    file_format: str
    root: Path
    batch_size: int | None
    max_unreadable: float
    fingerprint: str
    part: tuple[int, int]


@lru_cache(maxsize=1)
def _images(source: str, data_root: Path | None, limit: int | None) -> ImageSet:
    return load_image_set(source, data_root).limited(limit)


@lru_cache(maxsize=1)
def _backbone(network: BackboneSpec) -> Backbone:
    return load_backbone(*astuple(network))


def build_part(part: Part, threads: int) -> BuildResult:
    """Build one part on `threads` threads; raises BuildError if this worker's images or weights are other ones."""
    prepare_worker(threads)
    images, backbone = _images(part.source, part.data_root, part.limit), _backbone(part.network)
    plan = plan_store(images, backbone, part.layout, part.dtype, file_format=part.file_format)
    if plan.spec.fingerprint != part.fingerprint:
        raise BuildError(
            f"a worker finds other images or weights at {part.source} and {part.network.weights} than the command did "
            f"(fingerprint {plan.spec.fingerprint[:8]} instead of {part.fingerprint[:8]})"
        )
    return build_store(
        images, backbone, plan, part.root, batch_size=part.batch_size, max_unreadable=part.max_unreadable, part=part.part
    )
