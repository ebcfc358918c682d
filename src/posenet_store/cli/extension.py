"""What `build-store --extend STORE` decides: the network, the options of the build, and the images that are new."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from posenet_store.cli.images import load_images
from posenet_store.cli.options import OPTIONS, is_given, list_given
from posenet_store.cli.output import print_line
from posenet_store.errors import UsageError
from posenet_store.specs import BackboneSpec

if TYPE_CHECKING:
    from posenet_store.backbones.backbone import Backbone
    from posenet_store.images.image_set import ImageSet
    from posenet_store.images.sources import Load
    from posenet_store.store.plan import Plan
    from posenet_store.store.reader import Reader


def open_base(store: str | None, network: BackboneSpec, root: Path) -> "tuple[Reader | None, BackboneSpec, Path]":
    """Open the store that is extended, if there is one; return it, how its network is loaded, and where the new one lies.

    That is beside it, unless `--stores` says otherwise. Raises UsageError if an option that was typed contradicts the store.
    """
    if store is None:
        if network.name is None:
            raise click.UsageError("Missing option '--backbone'.")
        return None, network, root
    from posenet_store.extraction.extend import choose_root
    from posenet_store.store.reader import open_store

    base, given = open_store(store), list_given(network)
    recorded = base.plan.find_backbone_spec(given.get("weights"), network.device)
    options = click.get_current_context().params
    pairs = [(OPTIONS.get(name, name), value, getattr(recorded, name)) for name, value in given.items()]
    pairs += [
        (option, options[name], getattr(base.spec, option))
        for name, option in (("layout", "layout"), ("dtype", "dtype"), ("file_format", "format")) if is_given(name)
    ]  # fmt: skip
    pairs += [("keep-tokens", True, bool(base.spec.tokens))] if options["keep_tokens"] else []
    for option, value, stored in pairs:
        if value != stored:
            raise UsageError(f"--{option} {value} contradicts {base.name}, which has {stored} and is extended as it is")
    return base, recorded, choose_root(base, root if is_given("root") else None)


def load_new_images(base: "Reader | None", source: str, load: "Load", limit: int | None) -> "ImageSet":
    """Load images; of those that a store holds which is extended, say how many there are, and leave them out."""
    images = load_images(source, load, limit)
    if base is None:
        return images
    from posenet_store.extraction.extend import select_new

    new = select_new(base, images)
    skipped = len(images) - len(new)
    skipped_note = f"; {skipped} of {images.name} are in it already and left out" if skipped else ""
    print_line(f"{base.name} holds {base.spec.rows} images, {len(new)} are new{skipped_note}", err=True)
    return new


def plan_build(
    base: "Reader | None", images: "ImageSet", backbone: "Backbone", layout: str, dtype: str, file_format: str,
    keep_tokens: bool,
) -> "Plan":  # fmt: skip
    """Plan a store of images, or one that extends `base`, and say which blocks are shared."""
    from posenet_store.extraction.build import plan_store
    from posenet_store.extraction.extend import find_batch_size, plan_extension
    from posenet_store.store.sharing import list_shared

    if base is None:
        return plan_store(images, backbone, layout, dtype, file_format=file_format, keep_tokens=keep_tokens)
    plan = plan_extension(base, images, backbone)
    shared = list_shared(base, plan)
    print_line(f"{len(shared)} of {len(plan.bounds)} blocks are shared with {base.name}", err=True)
    if find_batch_size(base, backbone) is None:
        print_line(f"note: another device computed {base.name}; the last bits of features may differ", err=True)
    return plan
