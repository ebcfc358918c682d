"""verify: is every byte of a store what was written, and if not, mend it."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from posenet_store.cli.build import built
from posenet_store.cli.options import image_options, json_option, print_json
from posenet_store.errors import UsageError

if TYPE_CHECKING:
    from posenet_store.specs import StoreSpec

DIFFERENCES = {"the images differ": "images_sha256", "the weights differ": "weights_sha256", "the taps differ": "taps"}


@click.command()
@click.argument("store", type=click.Path(path_type=Path))
@click.option("--deep", is_flag=True, help="Hash every byte and decode every chunk; without it records, names and sizes only.")
@click.option("--repair", is_flag=True, help="Extract damaged blocks again (a deep check first); needs --images.")
@image_options(required=False)
@click.option("--weights", default="imagenet", show_default=True, metavar="W", help="With --repair: the weights of the build.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@json_option
def verify(
    store: Path, deep: bool, repair: bool, source: str | None, data_root: Path | None, weights: str, device: str, as_json: bool
) -> None:  # fmt: skip
    """Check a store against its records and name every damaged file. Exit code 1 if anything is wrong and not repaired."""
    from posenet_store.verify import damages

    if repair and source is None:
        raise click.UsageError("--repair extracts damaged blocks again: give the --images (and --weights) of the build")
    found = list(damages(store, deep or repair))
    if as_json:
        print_json([vars(one) for one in found])
    else:
        for one in found:
            click.echo(f"{'store' if one.block is None else f'block {one.block}'}: {one.what}")
        how = "every byte" if deep or repair else "records and sizes; --deep checks every byte"
        click.echo(f"{store.name}: {len(found)} faults ({how})", err=True)
    if found and repair and source is not None:
        _repair(store, source, data_root, weights, device, [one.block for one in found if one.block is not None])
    elif found:
        raise click.exceptions.Exit(1)


def _repair(store: Path, source: str, data_root: Path | None, weights: str, device: str, blocks: list[int]) -> None:
    from posenet_store.backbones import load_backbone
    from posenet_store.extract import plan_store
    from posenet_store.layout import StoreFiles, read_plan
    from posenet_store.sources import image_set
    from posenet_store.store import StoreWriter

    spec = read_plan(StoreFiles(store)).spec
    images = image_set(source, data_root)
    network = load_backbone(spec.backbone, weights, spec.tap_set or "report", device)
    plan = plan_store(images.limited(spec.rows), network, spec.layout, spec.dtype, spec.block_rows, spec.format)
    _check_same(plan.spec, spec)
    StoreWriter(StoreFiles(store), plan).unseal(blocks)
    built(images.limited(spec.rows), network, plan, store.parent, batch_size=16, max_unreadable=1.0)


def _check_same(given: "StoreSpec", recorded: "StoreSpec") -> None:
    """Refuse to mend a store with other images or another network, and say which."""
    differing = [what for what, key in DIFFERENCES.items() if getattr(given, key) != getattr(recorded, key)]
    if given.fingerprint != recorded.fingerprint:
        reason = ", ".join(differing) or "the fingerprints differ"
        raise UsageError(f"these inputs are not the store's: {reason}; give what its build was given")
