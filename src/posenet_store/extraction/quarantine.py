"""Count the images of a build that can't be read, and stop it when they are too many."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from posenet_store.errors import BuildError
from posenet_store.store.writer import QuarantinedImage

EXAMPLES = 3
"""Unreadable images that are named where a build stops for their number."""


@dataclass
class Quarantine:
    """The unreadable images of a store of `rows` rows: how many there are, and the first of them."""

    rows: int
    limit: float
    count: int = 0
    examples: list[QuarantinedImage] = field(default_factory=list)

    def add(self, images: Sequence[QuarantinedImage]) -> None:
        """Count more images; raises BuildError if all are more than the share `limit` of the rows."""
        self.count += len(images)
        self.examples += images[: EXAMPLES - len(self.examples)]
        if self.count > self.limit * self.rows:
            examples = "; ".join(f"{image.image_id}: {image.reason}" for image in self.examples)
            raise BuildError(
                f"{self.count} of {self.rows} images are unreadable, more than the {self.limit:.1%} allowed ({examples}). "
                "Fix or remove them, or allow more: --max-unreadable 0.05"
            )
