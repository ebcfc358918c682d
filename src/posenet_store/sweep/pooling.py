"""Read pooled features, one number a channel and image, and classify from them where an image was placed."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from posenet_store.errors import UsageError
from posenet_store.heads.proportions import find_wilson_bounds
from posenet_store.heads.softmax import train_softmax
from posenet_store.store.reader import Reader

HOLDOUT = 0.2
LEAST_ROWS = 32


@dataclass(frozen=True)
class Accuracy:
    """How many of some held-out images were classified rightly, of how many classes."""

    right: int
    images: int
    classes: int

    @property
    def share(self) -> float:
        """The accuracy."""
        return self.right / self.images

    def find_bounds(self) -> tuple[float, float]:
        """Return its 95 % interval."""
        return find_wilson_bounds(self.right, self.images)


def count_held_out(rows: int) -> int:
    """Return how many of a store's rows, the last ones, test."""
    return round(HOLDOUT * rows)


def pool_features(reader: Reader, tap: str) -> Tensor:
    """Return the mean over positions of each channel of a tap, float64 [n, C], of the readable rows in stored order.

    The positions are those of the stored array: of layout `native` the tap's own.
    """
    pooled = [block[tap].astype(np.float64).mean(axis=(2, 3)) for block in reader.scan([tap])]
    return torch.from_numpy(np.concatenate(pooled))


def classify_places(pooled: Tensor, places: Sequence[int], classes: int) -> Accuracy:
    """Train a softmax head on the first four fifths of the rows of pooled features [n, C], and test it on the others.

    Rows are in a store's order, which is random. Raises UsageError for fewer than 32 rows.
    """
    if len(pooled) < LEAST_ROWS:
        raise UsageError(f"{len(pooled)} images are too few to train and test on; give at least {LEAST_ROWS}")
    labels, held_out = torch.tensor(places), len(pooled) - count_held_out(len(pooled))
    head = train_softmax(pooled[:held_out], labels[:held_out], classes)
    right = int((head.classify(pooled[held_out:]) == labels[held_out:]).sum())
    return Accuracy(right, len(pooled) - held_out, classes)
