"""erase: write what erases targets from a network's features."""

from pathlib import Path

import click

from posenet_store.cli.help import command
from posenet_store.cli.options import int_range, json_option
from posenet_store.cli.output import print_json, print_line, print_path, show_steps
from posenet_store.errors import UsageError
from posenet_store.files import check_file_path


@command(example="erase stores/vgg16-photos-0a1b2c3d --out all.safetensors")
@click.argument("store")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The file to write, .safetensors.")
@click.option("--target", "targets", multiple=True, default=("H", "V"), show_default=True, help="What to erase; repeatable.")
@click.option("--stage", "stages", multiple=True, metavar="TAP", help="Where, such as f3; repeatable.  [default: all stages]")
@click.option("--random", "seed", type=int_range("seeds"), metavar="SEED", help="Erase as many random directions instead.")
@json_option
def erase(store: str, out: Path, targets: tuple[str, ...], stages: tuple[str, ...], seed: int | None, as_json: bool) -> None:
    """Write what erases targets from a network's features.

    After the erasure no linear head of the stage predicts the targets better than a constant (LEACE). `build-store --erase`
    erases inside the running network: do later stages compute position anew?
    """
    check_file_path(out, "--out")
    if out.suffix != ".safetensors":
        raise UsageError(f"--out {out} is not accepted; give a path that ends in .safetensors")
    if out.exists():
        raise UsageError(f"--out {out} exists, and stores may have been built with it; remove it, or give another path")

    from posenet_store.sweep.eraser_file import write_eraser

    with show_steps(store, "spans") as advance:
        ranks = write_eraser(store, out, targets, stages, seed=seed, show=advance)
    if as_json:
        print_json({"file": str(out), "dimensions": ranks})
        return
    for stage, rank in ranks.items():
        print_line(f"{stage}: {rank} {'dimension' if rank == 1 else 'dimensions'}", err=True)
    print_path(out)
