"""erase: write what erases targets from a network's features."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from posenet_store.cli.help import command
from posenet_store.cli.images import load_images
from posenet_store.cli.options import device_option, image_options, int_range, is_given, json_option, limit_option
from posenet_store.cli.output import print_json, print_line, print_path, progress, show_steps
from posenet_store.errors import UsageError
from posenet_store.files import check_file_path
from posenet_store.heads.targets import PATTERNS, TARGETS

if TYPE_CHECKING:
    from posenet_store.backbones.erasing import Erasers
    from posenet_store.images.sources import Load
    from posenet_store.store.reader import Reader


@command(example="erase stores/vgg16-photos-0a1b --stage f3 --out f3.safetensors")
@click.argument("store")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The file to write, .safetensors.")
@click.option("--target", "targets", multiple=True, default=("H", "V"), show_default=True,
              help=f"What to erase: {', '.join((*TARGETS, *PATTERNS))}; repeatable.")  # fmt: skip
@click.option("--stage", "stages", multiple=True, metavar="TAP",
              help="Where, such as f3; repeatable. More than one needs --images.  [default: all stages]")  # fmt: skip
@click.option("--random", "seed", type=int_range("seeds"), metavar="SEED", help="Erase as many random directions instead.")
@image_options(required=False)
@limit_option
@device_option
@json_option
def erase(
    store: str, out: Path, targets: tuple[str, ...], stages: tuple[str, ...], seed: int | None, source: str | None,
    data_root: Path | None, limit: int | None, device: str, as_json: bool,
) -> None:  # fmt: skip
    """Write what erases targets from a network's features.

    After the erasure no linear head of a stage predicts the targets better than a constant (LEACE). `build-store --erase`
    erases inside the running network: do later stages compute position anew? `accuracy` asks whether the classifier needs it.

    One stage is erased by the sums of STORE, which read no image. Several are erased together, each as it is in the network
    erased before it: the network of STORE runs over --images once for each.
    """
    check_file_path(out, "--out")
    if out.suffix != ".safetensors":
        raise UsageError(f"--out {out} is not accepted; give a path that ends in .safetensors")
    if out.exists():
        raise UsageError(f"--out {out} exists, and stores may have been built with it; remove it, or give another path")
    if source is None and (names := [name for name in ("limit", "device", "data_root") if is_given(name)]):
        raise UsageError(f"--{names[0].replace('_', '-')} is for --images; the sums of a store need none: leave it out")

    from posenet_store.heads.own_maps import load_target
    from posenet_store.images.sources import find_images
    from posenet_store.store.reader import open_store

    reader = open_store(store)
    maps = list(dict.fromkeys(load_target(target) for target in targets))
    if reader.plan.provenance.get("erase"):
        raise UsageError(f"{reader.name} is of a network that is erased already; give the store of the network as it was")
    if source is not None:
        erasers = _fit_in_turn(reader, source, find_images(source, data_root), maps, stages, seed, limit, device)
    elif len(set(stages)) == 1:
        from posenet_store.sweep.stage_eraser import fit_stage_eraser

        with show_steps(store, "spans") as advance:
            erasers = fit_stage_eraser(reader, stages[0], maps, seed, show=advance)
    else:
        raise UsageError(
            f"at {', '.join(stages) or 'all stages'} each is fitted on the network that is erased at those before it: "
            "give --images for it, or one --stage"
        )
    erasers.save(out)
    if as_json:
        print_json({"file": str(out), "dimensions": erasers.dimensions})
        return
    for stage, rank in erasers.dimensions.items():
        print_line(f"{stage}: {rank} {'dimension' if rank == 1 else 'dimensions'}", err=True)
    print_path(out)


def _fit_in_turn(
    reader: "Reader", source: str, load: "Load", targets: list[str], stages: tuple[str, ...], seed: int | None,
    limit: int | None, device: str,
) -> "Erasers":  # fmt: skip
    """Fit one stage after another under a progress bar."""
    from posenet_store.backbones.load import load_backbone
    from posenet_store.extraction.erase_in_turn import fit_erasers_in_turn

    backbone = load_backbone(reader.plan.find_backbone_spec(device=device))
    images = load_images(source, load, limit)
    passes = len(set(stages)) or len(backbone.taps)
    with progress(transient=True) as bars:
        bar = bars.add_task(f"{reader.spec.network} on {images.name}", total=passes * len(images), unit="images")
        return fit_erasers_in_turn(images, backbone, targets, stages, seed, lambda count: bars.advance(bar, count))
