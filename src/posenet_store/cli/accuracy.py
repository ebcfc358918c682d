"""accuracy: classify images with a network, and with the same network with something erased."""

from collections.abc import Sequence
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
    from posenet_store.images.image_set import ImageSet
    from posenet_store.report.accuracy import Classified
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
    """Show a network's top-1, as it is and with each ERASER.

    That is the share of images whose class it finds. ERASER is a file of the command `erase`. All classify the same images.
    Several files of `erase --random` at the same stages also give the mean of the draws, from which files that erase as much
    there are told.
    """
    from posenet_store.backbones.checks import check_eraser, check_names
    from posenet_store.images.sources import find_images

    load = find_images(source, data_root)
    for eraser in erasers:
        check_eraser(eraser)
    check_names(network)

    from posenet_store.backbones.erasing import read_erasers
    from posenet_store.extraction.accuracy import find_classes
    from posenet_store.report.accuracy import REMARK, REMARK_ON_DRAWS, list_accuracies

    for eraser in erasers:
        read_erasers(eraser)  # before the first network classifies
    images = load_images(source, load, limit)
    classes = find_classes(images.ids, labels)
    if lacking := sum(number < 0 for number in classes):
        print_line(f"{lacking} of {len(images)} images have no class and are left out", err=True)
    listing = list_accuracies(_classify(images, classes, network, list(dict.fromkeys(erasers))))
    remark = REMARK + (REMARK_ON_DRAWS if "from draws" in listing.head else "")
    print_listing(listing, f"{network.name}: top-1 on {images.name}", remark, form, as_json, ruled=False)


def _classify(
    images: "ImageSet", classes: Sequence[int], network: "BackboneSpec", erasers: Sequence[str]
) -> "list[Classified]":
    """Classify the images with the network and with each file of what is erased, under progress bars."""
    from posenet_store.backbones.erasing import read_erasers
    from posenet_store.backbones.load import load_classifier
    from posenet_store.extraction.accuracy import classify_images
    from posenet_store.report.accuracy import Classified

    of_files = {file: read_erasers(file) for file in erasers}  # a damaged file ends the command before anything is computed
    labels = [of_file.label for of_file in of_files.values()]
    networks = []
    with progress() as bars:
        for file in (network.erase, *erasers):
            classifier = load_classifier(replace(network, erase=file))
            bar = bars.add_task(classifier.weights, total=sum(number >= 0 for number in classes), unit="images")
            correct = classify_images(images, classifier, classes, partial(bars.advance, bar))
            if file not in of_files:
                networks.append(Classified(classifier.weights, correct))
                continue
            of_file = of_files[file]
            label = classifier.weights + (f" ({file})" if labels.count(of_file.label) > 1 else "")
            dimensions, drawn = of_file.dimensions, of_file.seed is not None
            networks.append(Classified(label, correct, of_file.erased, tuple(dimensions), tuple(dimensions.values()), drawn))
    return networks
