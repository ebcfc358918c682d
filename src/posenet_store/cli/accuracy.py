"""accuracy: classify images with a network, and with the same network with something erased."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from posenet_store.cli.help import command
from posenet_store.cli.images import load_images
from posenet_store.cli.options import backbone_options, format_option, image_options, json_option, limit_option
from posenet_store.cli.output import print_line, print_listing, progress

if TYPE_CHECKING:
    from posenet_store.specs import BackboneSpec


@command(example="accuracy f3.safetensors --backbone resnet18 --images val")
@click.argument("erasers", nargs=-1, metavar="[ERASER]...")
@backbone_options(backbone_required=True)
@image_options(required=True)
@limit_option
@click.option("--labels", type=click.Path(path_type=Path), metavar="CSV",
              help="Image and class in each row.  [default: WordNet ids in the names of images or folders]")  # fmt: skip
@format_option
@json_option
def accuracy(
    erasers: tuple[str, ...], network: "BackboneSpec", batch_size: int | None, source: str, data_root: Path | None,
    limit: int | None, labels: Path | None, form: str, as_json: bool,
) -> None:  # fmt: skip
    """Show a network's top-1 accuracy, as it is and with each ERASER.

    ERASER is a file of the command `erase`. All classify the same images.
    """
    from posenet_store.backbones.checks import check_eraser, check_names
    from posenet_store.images.sources import find_images

    load = find_images(source, data_root)
    for eraser in erasers:
        check_eraser(eraser)
    check_names(network)

    from posenet_store.backbones.load import load_classifier
    from posenet_store.extraction.accuracy import classify_images, find_classes
    from posenet_store.report.accuracy import REMARK, list_accuracies

    images = load_images(source, load, limit)
    classes = find_classes(images.ids, labels)
    if lacking := sum(number < 0 for number in classes):
        print_line(f"{lacking} of {len(images)} images have no class and are left out", err=True)
    correct = {}
    with progress() as bars:
        for erase in (network.erase, *erasers):
            classifier = load_classifier(replace(network, erase=erase))
            bar = bars.add_task(classifier.weights, total=len(images) - lacking, unit="images")
            correct[classifier.weights] = classify_images(images, classifier, classes, partial(bars.advance, bar))
    print_listing(list_accuracies(correct), f"{network.name}: top-1 on {images.name}", REMARK, form, as_json, ruled=False)
