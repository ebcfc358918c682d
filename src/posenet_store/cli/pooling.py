"""pooling: where was an image placed, asked of features that are averaged over all positions?"""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from posenet_store.cli.build_progress import build_with_progress
from posenet_store.cli.build_store import find_inputs, report_device
from posenet_store.cli.help import command
from posenet_store.cli.images import load_images
from posenet_store.cli.options import backbone_options, format_option, image_options, int_range, json_option, stores_option
from posenet_store.cli.output import print_listing
from posenet_store.errors import unknown
from posenet_store.specs import PADDINGS
from posenet_store.store.catalogue import find_equivalent
from posenet_store.store.reader import open_store

if TYPE_CHECKING:
    from posenet_store.backbones.backbone import Backbone
    from posenet_store.images.image_set import ImageSet
    from posenet_store.report.text_table import Listing
    from posenet_store.specs import BackboneSpec
    from posenet_store.sweep.pooling import Accuracy

GRIDS, LAYOUT = (3, 5, 7), "readout"
REMARK = (
    "accuracy on the held-out fifth of the images, with Wilson's 95 % interval: in which cell of a black canvas does an image "
    "lie? A softmax head tells it from the last tap, averaged over all positions"
)


@command(example="pooling --images photos --backbone vgg16 --paddings zeros,none")
@backbone_options(backbone_required=True)
@image_options(required=True)
@stores_option
@click.option("--grid", "grids", type=int_range("grid"), multiple=True, default=GRIDS, show_default=True,
              help="Cells a side of the canvas; repeatable.")  # fmt: skip
@click.option(
    "--paddings",
    metavar="LIST",
    help=f"Paddings of the network to compare, such as zeros,circular: {', '.join(PADDINGS)}.  [default: --padding]",
)
@format_option
@json_option
def pooling(
    network: "BackboneSpec", batch_size: int | None, source: str, data_root: Path | None, root: Path, grids: tuple[int, ...],
    paddings: str | None, form: str, as_json: bool,
) -> None:  # fmt: skip
    """Classify where an image was placed from pooled features.

    Each image is shrunk into one cell of a grid on a black canvas (--images SRC@placed:GRID:0). Averaging over all
    positions leaves no map; what tells the cell is in the channels. Stores are built where they are missing.
    """
    names = paddings.split(",") if paddings else [network.padding]
    for name in names:
        if name not in PADDINGS:
            raise unknown("padding", name, PADDINGS)
    images = load_images(source, find_inputs(source, data_root, network, root))

    from posenet_store.backbones.load import load_backbone
    from posenet_store.images.transforms import Transform, transform_images

    measured: dict[tuple[int, str], Accuracy] = {}
    for name in dict.fromkeys(names):
        frozen = load_backbone(replace(network, padding=name))
        place = report_device(frozen, network.device)
        for grid in dict.fromkeys(grids):
            placed = transform_images(images, Transform("placed", seed=0, grid=grid))
            measured[grid, name] = _measure(frozen, placed, root, batch_size, place, grid)
    print_listing(_list_accuracies(measured), f"{frozen.name}, weights {frozen.weights}", REMARK, form, as_json, ruled=False)


def _measure(backbone: "Backbone", images: "ImageSet", root: Path, batch_size: int | None, place: str, grid: int) -> "Accuracy":
    """Build, or find, the store of placed images, and classify from it."""
    from posenet_store.extraction.build import build_store, plan_store
    from posenet_store.images.transforms import find_cell
    from posenet_store.sweep.pooling import classify_places, pool_features

    plan = plan_store(images, backbone, LAYOUT, "float32")
    location = find_equivalent(plan.spec, root)
    if location is None:
        build = partial(build_store, images, backbone, plan, root, batch_size=batch_size)
        location = build_with_progress(build, f"{plan.spec.network} on {images.name}", len(images), place).path
    reader = open_store(location)
    cells = [find_cell(digest, grid) for digest, known in zip(reader.plan.digests, reader.readable, strict=True) if known]
    pooled = pool_features(reader, reader.taps[-1].name)
    return classify_places(pooled, [row * grid + column for row, column in cells], grid**2)


def _list_accuracies(measured: "dict[tuple[int, str], Accuracy]") -> "Listing":
    """Return a row a grid, a column a padding."""
    from posenet_store.report.text_table import Entry, Listing, format_interval, format_number

    grids, paddings = list(dict.fromkeys(grid for grid, _ in measured)), list(dict.fromkeys(name for _, name in measured))
    rows: list[list[Entry]] = []
    for grid in grids:
        row = [measured[grid, padding] for padding in paddings]
        entries = [(format_number(each.share), format_interval(each.find_bounds())) for each in row]
        rows.append([f"{grid}x{grid}", format_number(1 / grid**2), *entries])
    records = [
        {"grid": grid, "padding": padding, "accuracy": each.share, "low": each.find_bounds()[0], "high": each.find_bounds()[1],
         "right": each.right, "images": each.images, "chance": 1 / each.classes}
        for (grid, padding), each in measured.items()
    ]  # fmt: skip
    return Listing(["grid", "chance", *paddings], rows, records)
