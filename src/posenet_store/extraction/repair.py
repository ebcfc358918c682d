"""Repair a store: compute its damaged blocks again from the images and the network of its build."""

from collections.abc import Iterable
from pathlib import Path

from posenet_store.backbones.backbone import Backbone
from posenet_store.errors import UsageError
from posenet_store.extraction.build import BuildResult, build_store, plan_store
from posenet_store.images.image_set import ImageSet
from posenet_store.store.access import StoreFiles
from posenet_store.store.plan import Plan, read_plan
from posenet_store.store.verify import Damage, find_damage
from posenet_store.store.writer import StoreWriter

INPUTS = {"images": "images_sha256", "weights": "weights_sha256", "taps": "taps"}


def repair_store(store: Path, images: ImageSet, backbone: Backbone, *, batch_size: int | None = None) -> BuildResult:
    """Find the damage of the store in the folder `store` (every byte is read), and compute damaged blocks again.

    Raises UsageError, and changes nothing, if `images` or `backbone` are not those of the build. With the build's
    `batch_size` the features are the same to the last bit.
    """
    plan = prepare_repair(store, images, backbone, list(find_damage(store, deep=True)))
    return build_store(images.take(plan.spec.rows), backbone, plan, store.parent, batch_size=batch_size, max_unreadable=1.0)


def prepare_repair(store: Path, images: ImageSet, backbone: Backbone, damage: Iterable[Damage]) -> Plan:
    """Take damaged blocks out of the store and return the plan with which `build_store` computes them again.

    Raises UsageError, and changes nothing, if `images` or `backbone` are not those of the build.
    """
    recorded = read_plan(StoreFiles(store)).spec
    layout, dtype = recorded.layout, recorded.dtype
    plan = plan_store(images.take(recorded.rows), backbone, layout, dtype, recorded.block_rows, recorded.format)
    if plan.spec.fingerprint != recorded.fingerprint:
        differing = [name for name, field in INPUTS.items() if getattr(plan.spec, field) != getattr(recorded, field)]
        reason = ", ".join(f"the {name} differ" for name in differing) or "the fingerprints differ"
        raise UsageError(f"these inputs are not the store's: {reason}; give what its build was given")
    StoreWriter(StoreFiles(store), plan).unseal([item.block for item in damage if item.block is not None])
    return plan
