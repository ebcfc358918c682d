"""Repair a store: compute its damaged blocks again from the images and the network of its build."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from posenet_store.backbones.backbone import Backbone
from posenet_store.errors import BuildError, UsageError
from posenet_store.extraction.build import BuildResult, build_store, plan_store
from posenet_store.extraction.timing import StageTimer
from posenet_store.files import expand_user
from posenet_store.images.image_set import ImageSet
from posenet_store.specs import Size
from posenet_store.store.access import StoreFiles
from posenet_store.store.plan import Plan, read_plan
from posenet_store.store.verify import Damage, find_damage

INPUTS = {"images": "images_sha256", "weights": "weights_sha256", "taps": "taps"}


def repair_store(
    store: str | Path,
    images: ImageSet,
    backbone: Backbone,
    *,
    damage: Sequence[Damage] | None = None,
    batch_size: int | None = None,
    advance: Callable[[int], None] | None = None,
    clock: StageTimer | None = None,
) -> BuildResult:
    """Compute the damaged blocks of the store in the folder `store` again; other blocks stay as they are.

    `damage` is the result of `find_damage`; None finds it by reading every byte. `batch_size` None is that of the build, with
    which the same kind of device gives the same features to the last bit. `advance` and `clock` are those of `build_store`.
    Raises UsageError, and changes nothing, if `images` or `backbone` are not those of the build. Of a store that was extended,
    `images` may be any of its images, in any order: BuildError says if a damaged block needs another one.
    """
    store = expand_user(store)
    stored = read_plan(StoreFiles(store))
    recorded, batch_size = stored.spec, batch_size or stored.batch_size
    images = _arrange(images, stored) if recorded.extended_at else images.take(recorded.rows)
    layout, dtype, edges = recorded.layout, recorded.dtype, recorded.extended_at
    plan = plan_store(
        images, backbone, layout, dtype, recorded.block_rows, recorded.format, edges, keep_tokens=bool(recorded.tokens)
    )
    if plan.spec.fingerprint != recorded.fingerprint:
        differing = [name for name, field in INPUTS.items() if getattr(plan.spec, field) != getattr(recorded, field)]
        reason = ", ".join(f"the {name} differ" for name in differing) or "the fingerprints differ"
        raise UsageError(f"these inputs are not the store's: {reason}; give what its build was given")
    damage = list(find_damage(store, deep=True)) if damage is None else damage
    return build_store(
        images, backbone, plan, store.parent,
        batch_size=batch_size, max_unreadable=1.0, advance=advance, clock=clock, folder=store,
        damaged=[entry.block for entry in damage if entry.block is not None],
    )  # fmt: skip


def _arrange(images: ImageSet, plan: Plan) -> ImageSet:
    """Return the images of a store in their order; of one that is not among `images`, reading raises BuildError."""
    entries, given = plan.list_images(), zip(images.ids, images.digests, strict=True)
    positions = {entry: index for index, entry in enumerate(given)}
    names, digests = zip(*entries, strict=True)

    def read(index: int, size: Size) -> NDArray[np.uint8]:
        if entries[index] not in positions:
            raise BuildError(
                f"{names[index]} of a damaged block is not among the images that were given: give all of the block's in one "
                "folder or list, or remove the damaged files and rerun build-store --extend"
            )
        return images.read(positions[entries[index]], size)

    return replace(images, ids=names, digests=digests, read=read) if positions.keys() & set(entries) else images
