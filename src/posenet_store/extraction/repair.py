"""Repair a store: compute its damaged blocks again from the images and the network of its build."""

from collections.abc import Callable, Sequence
from pathlib import Path

from posenet_store.backbones.backbone import Backbone
from posenet_store.errors import UsageError
from posenet_store.extraction.build import BuildResult, build_store, plan_store
from posenet_store.extraction.timing import StageTimer
from posenet_store.files import expand_user
from posenet_store.images.image_set import ImageSet
from posenet_store.store.access import StoreFiles
from posenet_store.store.plan import read_plan
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
    Raises UsageError, and changes nothing, if `images` or `backbone` are not those of the build.
    """
    store = expand_user(store)
    stored = read_plan(StoreFiles(store))
    recorded, batch_size = stored.spec, batch_size or stored.provenance.get("computed_on", {}).get("batch_size")
    images = images.take(recorded.rows)
    plan = plan_store(images, backbone, recorded.layout, recorded.dtype, recorded.block_rows, recorded.format)
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
