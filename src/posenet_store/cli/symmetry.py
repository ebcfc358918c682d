"""symmetry: show how far a network's kernels are from being their own mirror images."""

from typing import TYPE_CHECKING

import click

from posenet_store.cli.help import command
from posenet_store.cli.options import format_option, json_option, weights_option
from posenet_store.cli.output import print_listing
from posenet_store.errors import UsageError

if TYPE_CHECKING:
    from posenet_store.backbones.kernel_symmetry import LayerSymmetry
    from posenet_store.report.text_table import Listing

REMARK = (
    "antisymmetric share of the squares of a layer's kernels, ||K - flip K||^2 / (4 ||K||^2): 0 is a kernel that is its own "
    "mirror image, 1 the negative of it; chance is that of independent numbers"
)


@command(example="symmetry tf_efficientnet_lite0 --weights lite0")
@click.argument("backbone", metavar="BACKBONE")
@weights_option
@format_option
@json_option
def symmetry(backbone: str, weights: str, form: str, as_json: bool) -> None:
    """Show how far kernels are from being their mirror images.

    A row a layer. Training images that are mirrored at random make kernels even from left to right; the network then knows
    how far the sides are, but not which side is which.
    """
    from posenet_store.backbones.checks import check_names
    from posenet_store.specs import BackboneSpec

    spec = BackboneSpec(backbone, weights, device="cpu")
    check_names(spec)

    from posenet_store.backbones.kernel_symmetry import measure_symmetry
    from posenet_store.backbones.load import load_unfolded

    layers = list(measure_symmetry(load_unfolded(spec)))
    if not layers:
        raise UsageError(f"{backbone} has no convolution of more than one position, so that there is nothing to mirror")
    print_listing(_list_layers(layers), f"{backbone}, weights {weights}", REMARK, form, as_json, ruled=False)


def _list_layers(layers: "list[LayerSymmetry]") -> "Listing":
    from posenet_store.backbones.kernel_symmetry import compute_chance_share
    from posenet_store.report.text_table import Listing, format_number

    def show(share: float | None) -> str:
        return "" if share is None else format_number(share)

    rows, records = [], []
    for layer in layers:
        height, width = layer.shape[2:]
        chance = [compute_chance_share(side) if side > 1 else None for side in (width, height)]
        shares = {"left_right": layer.left_right, "up_down": layer.up_down}
        rows.append([layer.layer, layer.kind, *map(show, (layer.left_right, chance[0], layer.up_down, chance[1]))])
        record = {"layer": layer.layer, "kernel": layer.kind, "outputs": layer.shape[0], "inputs": layer.shape[1]}
        records.append(record | shares | {"left_right_chance": chance[0], "up_down_chance": chance[1]})
    return Listing(["layer", "kernel", "left-right", "chance", "up-down", "chance"], rows, records)
