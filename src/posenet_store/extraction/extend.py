"""Extend a store: make another one that holds its rows and those of more images, which are all that the network sees.

The identity of the first images rests on the first store's plan, which has their names and digests; no file of them is read.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from posenet_store.backbones.backbone import Backbone
from posenet_store.backbones.device import collect_device
from posenet_store.errors import UsageError
from posenet_store.extraction.build import BuildResult, build_store, check_drift, plan_store
from posenet_store.extraction.timing import StageTimer
from posenet_store.files import expand_user
from posenet_store.images.image_set import ImageSet
from posenet_store.images.reading import UNREADABLE
from posenet_store.store.access import StoreFiles
from posenet_store.store.plan import Plan
from posenet_store.store.reader import Reader, open_store

SHOWN = 3
"""Changed images that are named."""


def select_new(base: Reader, images: ImageSet) -> ImageSet:
    """Return the images whose bytes a store does not hold yet; raises UsageError if one has the name of another in it.

    Images that can't be read have no bytes to compare: they are held if the same name can't be read for the same reason.
    """
    digest_of, digests = dict(zip(base.ids, base.plan.digests, strict=True)), set(base.plan.digests)
    new = [
        index for index, (name, digest) in enumerate(zip(images.ids, images.digests, strict=True))
        if digest_of.get(name) != digest and (digest.startswith(UNREADABLE) or digest not in digests)
    ]  # fmt: skip
    if changed := [images.ids[index] for index in new if images.ids[index] in digest_of]:
        names = ", ".join(changed[:SHOWN]) + (", ..." if len(changed) > SHOWN else "")
        raise UsageError(
            f"{len(changed)} images of {images.name} are called like images of {base.name} and differ from them: {names}; "
            "build a store of all images, or give these another name, such as that of their folder in a list"
        )
    return images.select(new)


def plan_extension(base: Reader, images: ImageSet, backbone: Backbone) -> Plan:
    """Plan the store of the images of `base`, then of `images`, which it does not hold; nothing is written.

    Raises UsageError if `backbone` is not the network of `base` or there are no images, BuildError if its features differ.
    """
    if not len(images):
        raise UsageError(f"{base.name} holds these images already: there is none to extend it by")
    spec = base.spec
    new = plan_store(images, backbone, spec.layout, spec.dtype, spec.block_rows, spec.format, keep_tokens=bool(spec.tokens))
    if new.spec.network_key != spec.network_key:
        raise UsageError(
            f"{backbone.name} with weights {backbone.weights} is not the network of {base.name} ({spec.network}): weights, "
            "taps, preprocessing or padding differ"
        )
    check_drift(base.plan, new)
    names, digests = zip(*base.plan.list_images(), strict=True)
    everything = replace(images, ids=names + images.ids, digests=digests + images.digests)
    extended_at = (*spec.extended_at, spec.rows)
    order = (*base.plan.order, *(spec.rows + index for index in new.order))
    origin = {"from": base.name, "store_id": base.manifest["store_id"], "rows": spec.rows, "images": images.name}
    spec = replace(spec, images_sha256=everything.sha256, rows=len(everything), extended_at=extended_at)
    provenance = new.provenance | {"extended": origin}
    return Plan(spec, (*base.ids, *new.ids), (*base.plan.digests, *new.digests), order, provenance)


def find_batch_size(base: Reader, backbone: Backbone) -> int | None:
    """Return the images a forward pass with which a store was built, None if another kind of device computed it."""
    computed_on = base.plan.provenance.get("computed_on")
    device = computed_on.get("device") if isinstance(computed_on, dict) else None
    return base.plan.batch_size if device == collect_device(backbone.device)["device"] else None


def extend_store(
    store: str | Path,
    images: ImageSet,
    backbone: Backbone,
    root: str | Path | None = None,
    *,
    batch_size: int | None = None,
    max_unreadable: float = 0.01,
    part: tuple[int, int] = (1, 1),
    advance: Callable[[int], None] | None = None,
    clock: StageTimer | None = None,
) -> BuildResult:
    """Build or resume the store of the images of the sealed `store`, then of those of `images` that it does not hold.

    It lies below `root`, by default beside `store`, which stays as it is; their common blocks are shared by hard links where
    the disk has them. Layout, dtype, format and blocks are those of `store`, and so is the batch size on the same device. The
    other arguments are those of `build_store`. Raises UsageError if `backbone` is not the store's network, if all images are
    in it, or if one has the name of another in it.
    """
    base = open_store(store)
    images = select_new(base, images)
    plan = plan_extension(base, images, backbone)
    size = batch_size or find_batch_size(base, backbone)
    return build_store(
        images, backbone, plan, choose_root(base, root),
        batch_size=size, max_unreadable=max_unreadable, part=part, advance=advance, clock=clock, base=base,
    )  # fmt: skip


def choose_root(base: Reader, root: str | Path | None) -> Path:
    """Return the folder below which a store is extended: `root`, else that in which `base` lies; the default for a URL."""
    if root is not None:
        return expand_user(root)
    if not isinstance(base.files, StoreFiles):
        return Path("stores")
    store = base.files.root
    return store.parent if store.name.strip(".") else store.resolve().parent
