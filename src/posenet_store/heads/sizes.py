"""Sizes of what heads are trained from, as pure integers: plans need them, and not the arithmetic itself."""


def count_moment_bytes(images: int, channels: int, kernel: int) -> int:
    """Return the bytes of the second moments of each of that many images (see `moments.ImageMoments`).

    >>> count_moment_bytes(10, 15, 3)
    745280
    """
    size = channels * kernel**2 + 1
    return images * size * (size + 1) // 2 * 8
