"""Count what is read of a store."""

from dataclasses import dataclass


@dataclass
class ReadCounter:
    """What has been read of a store: images (counted again in every epoch) and the bytes decoded for them.

    >>> ReadCounter(2, 30) + ReadCounter(1, 4)
    ReadCounter(images=3, bytes=34)
    """

    images: int = 0
    bytes: int = 0

    def __add__(self, other: "ReadCounter") -> "ReadCounter":
        return ReadCounter(self.images + other.images, self.bytes + other.bytes)
