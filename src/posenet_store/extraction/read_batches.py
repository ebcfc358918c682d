"""Read the pixels of images in batches, for what looks at each image once and stores nothing."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from posenet_store.errors import ImageError
from posenet_store.images.image_set import ImageSet
from posenet_store.specs import Size
from posenet_store.threads import map_on_threads

BATCH = 16


def read_batches(
    images: ImageSet, size: Size, indices: Sequence[int], advance: Callable[[int], object] = lambda count: None
) -> Iterator[tuple[list[int], Tensor]]:
    """Yield the indices of readable images and their pixels, uint8 [B, S, S, 3]; `advance` gets how many are done with."""

    def read(index: int) -> NDArray[np.uint8] | None:
        try:
            return images.read(index, size)
        except ImageError:
            return None

    for first in range(0, len(indices), BATCH):
        batch = indices[first : first + BATCH]
        pixels = {index: image for index, image in zip(batch, map_on_threads(read, batch), strict=True) if image is not None}
        if pixels:
            yield list(pixels), torch.from_numpy(np.stack(list(pixels.values())))
        advance(len(batch))
