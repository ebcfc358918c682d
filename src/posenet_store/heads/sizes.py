"""Sizes of what heads are trained from, and when a feature is dead, as plain numbers: plans need them, and no arithmetic."""

DEAD_DEVIATION = 1e-6
"""A feature is dead if its standard deviation is below 1e-6 of its root mean square: float16 resolves 5e-4."""


def count_moment_bytes(images: int, channels: int, kernel: int) -> int:
    """Return the bytes of the second moments of each of that many images (see `moments.ImageMoments`).

    >>> count_moment_bytes(10, 15, 3)
    745280
    """
    size = channels * kernel**2 + 1
    return images * size * (size + 1) // 2 * 8
