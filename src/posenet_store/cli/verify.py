"""verify: is every byte of a store what was written? If not, repair it."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from posenet_store.cli.build_progress import build_with_progress
from posenet_store.cli.build_store import report_device
from posenet_store.cli.help import command
from posenet_store.cli.images import load_images
from posenet_store.cli.options import WEIGHTS, device_option, image_options, int_range, json_option
from posenet_store.cli.output import print_json, print_line, progress
from posenet_store.errors import UsageError

if TYPE_CHECKING:
    from posenet_store.images.sources import Load
    from posenet_store.store.verify import Damage


@command(example="verify stores/vgg16-photos-0a1b2c3d --deep")
@click.argument("store", metavar="STORE")
@click.option("--deep", is_flag=True, help="Hash every byte and decode every chunk; without it records, names and sizes only.")
@click.option("--probe", is_flag=True, help="Run the recorded probe image again: do weights and libraries still give the same?")
@click.option("--repair", is_flag=True, help="Extract damaged blocks again (a deep check first); needs --images.")
@image_options(required=False)
@click.option("--weights", metavar="W",
              help=f"With --repair or --probe, the weights of the build: {WEIGHTS}  [default: those on record]")  # fmt: skip
@device_option
@click.option("--batch-size", type=int_range("batch_size"),
              help="With --repair: images a forward pass.  [default: that of the build]")  # fmt: skip
@json_option
def verify(
    store: str, deep: bool, probe: bool, repair: bool, source: str | None, data_root: Path | None, weights: str | None,
    device: str, batch_size: int | None, as_json: bool,
) -> None:  # fmt: skip
    """Check a store and name every damaged file.

    The store may be a folder or a URL. Exit code 1 if anything is wrong and not repaired.
    """
    from posenet_store.images.sources import find_images
    from posenet_store.store.access_remote import open_files
    from posenet_store.store.plan import read_plan
    from posenet_store.store.verify import find_damage

    if repair and source is None:
        raise click.UsageError("--repair extracts damaged blocks again: give the --images of the build")
    if repair and not Path(store).is_dir():
        raise UsageError(f"{store} is not a folder here; only a store on a disk of this machine can be repaired")
    plan = read_plan(open_files(store))
    load = find_images(source, data_root) if repair and source is not None else None
    with progress() as bars:
        bar = bars.add_task(f"checking {plan.spec.folder}", total=plan.spec.rows, unit="images")
        damage = list(find_damage(store, deep or repair, lambda rows: bars.advance(bar, rows)))
    differences = _differences(store, weights, device) if probe else {}
    if as_json:
        print_json({"faults": [vars(entry) for entry in damage], "probe": differences})
    else:
        for entry in damage:
            print_line(f"{'store' if entry.block is None else f'block {entry.block}'}: {entry.what}")
        for name, value in differences.items():
            print_line(f"probe {name}: differs by {value:.2e} of its root mean square")
        how = "every byte" if deep or repair else "records and sizes; --deep checks every byte"
        print_line(f"{store.rstrip('/').rsplit('/')[-1]}: {len(damage)} faults ({how})", err=True)
    if damage and load and source is not None:
        _repair(Path(store).resolve(), source, load, damage, weights, device, batch_size)
    elif damage or _drifted(differences, plan.spec.compute):
        raise click.exceptions.Exit(1)


def _differences(store: str, weights: str | None, device: str) -> dict[str, float]:
    """Return each tap's difference between the probe image now and in the store's provenance."""
    from posenet_store.backbones.load import load_backbone
    from posenet_store.extraction.reference_check import compare_samples, sample_taps
    from posenet_store.store.access_remote import open_files
    from posenet_store.store.plan import read_plan

    plan = read_plan(open_files(store))
    if "probe" not in plan.provenance:
        raise UsageError(f"{store} records no probe image; its plan.json was edited")
    return compare_samples(plan.provenance["probe"], sample_taps(load_backbone(plan.find_backbone_spec(weights, device))))


def _drifted(differences: dict[str, float], compute: str) -> bool:
    """Return whether the probe image gives other features than those on record, and say so."""
    if not differences:
        return False
    from posenet_store.extraction.reference_check import describe_drift

    if beyond := describe_drift(differences, compute):
        print_line(f"the network no longer gives what the store holds: {beyond}; are weights and versions the same?", err=True)
    return bool(beyond)


def _repair(
    store: Path, source: str, load: "Load", damage: "list[Damage]", weights: str | None, device: str,
    batch_size: int | None,
) -> None:  # fmt: skip
    """Repair the store under a progress bar."""
    from posenet_store.backbones.device import collect_device
    from posenet_store.backbones.load import load_backbone
    from posenet_store.extraction.repair import repair_store
    from posenet_store.store.access import StoreFiles
    from posenet_store.store.plan import read_plan

    plan = read_plan(StoreFiles(store))
    images = load_images(source, load, None if plan.spec.extended_at else plan.spec.rows)
    computed_on = plan.provenance.get("computed_on", {}).get("device")
    if device == "auto" and computed_on == "cpu":
        device = "cpu"  # also where there is a GPU, so that the repaired features are the same to the last bit
    backbone = load_backbone(plan.find_backbone_spec(weights, device))
    place = report_device(backbone, device)
    if computed_on not in (None, collect_device(backbone.device)["device"]):
        print_line(f"note: the build computed on {computed_on}; the last bits of repaired features may differ", err=True)
    build = partial(repair_store, store, images, backbone, damage=damage, batch_size=batch_size)
    build_with_progress(build, f"{plan.spec.network} on {images.name}", plan.spec.rows, place)
