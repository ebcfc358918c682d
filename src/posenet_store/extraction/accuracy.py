"""Classify images with a whole network: does the classifier use what is erased?"""

import csv
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from posenet_store.backbones.backbone import Backbone
from posenet_store.backbones.timm_models import list_wordnet_ids
from posenet_store.errors import UsageError, show_value
from posenet_store.extraction.read_batches import read_batches
from posenet_store.images.image_set import ImageSet

WORDNET = re.compile(r"(?<![A-Za-z0-9])n\d{8}(?!\d)")
"""A class of ImageNet in a folder's or a file's name."""


def find_classes(ids: Sequence[str], labels: Path | None = None) -> list[int]:
    """Return the class of each image, -1 where it is not known: from WordNet ids in names, or from a CSV file.

    The file has a row an image: its name, and the number of its class or a WordNet id; a row of headings is passed over.
    Raises UsageError if no image has a class, or the file can't be read.
    """
    known = read_labels(labels) if labels else {}
    texts = [known.get(name, "") if labels else "".join(WORDNET.findall(name)[-1:]) for name in ids]
    wordnet = {name: number for number, name in enumerate(list_wordnet_ids())} if any(map(WORDNET.fullmatch, texts)) else {}
    classes = [int(text) if text.isdecimal() and text.isascii() else wordnet.get(text, -1) for text in texts]
    if max(classes, default=-1) < 0:
        raise UsageError(
            f"no image has a class: {show_value(ids[0])} holds no WordNet id such as n01440764, in its name or its folder's, "
            "and --labels names none; give a CSV file with the image's name and the number of its class in each row"
        )
    return classes


def read_labels(path: Path) -> dict[str, str]:
    """Return the class of each image that a CSV file names; raises UsageError if it can't be read."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"--labels {path} can't be read: {reason}") from None
    if wrong := next((row for row in rows if row and len(row) != 2), None):
        raise UsageError(f"--labels {path} has a row {show_value(wrong)}; give two columns: image and class")
    return {row[0].strip(): row[1].strip() for row in rows if row}


def classify_images(
    images: ImageSet, network: Backbone, classes: Sequence[int], advance: Callable[[int], object] = lambda count: None
) -> NDArray[np.float64]:
    """Return for each image whether the network's first choice is its class, 1 or 0; NaN without a class or if unreadable."""
    correct = np.full(len(images), np.nan)
    labelled = [index for index, number in enumerate(classes) if number >= 0]
    for indices, pixels in read_batches(images, network.preprocess.resize, labelled, advance):
        correct[indices] = network.classify(pixels).cpu().numpy() == np.array([classes[index] for index in indices])
    return correct
