"""Tests and intervals of counts: how many images are classified rightly, by one network or by two on the same images."""

from math import sqrt

Z = 1.959963984540054
"""The standard normal quantile of two-sided 95 % intervals."""


def find_wilson_bounds(right: int, images: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a proportion (JASA 22, 1927), which also holds near 0 and 1.

    >>> [round(bound, 3) for bound in find_wilson_bounds(10, 10)]
    [0.722, 1.0]
    """
    share = right / images
    centre = share + Z**2 / (2 * images)
    half = Z * sqrt(share * (1 - share) / images + Z**2 / (4 * images**2))
    total = 1 + Z**2 / images
    return max(0.0, (centre - half) / total), min(1.0, (centre + half) / total)


def find_newcombe_bounds(both: int, first: int, second: int, neither: int) -> tuple[float, float]:
    """Return Newcombe's 95 % interval of the second proportion minus the first, of pairs (method 10, Stat. Med. 17, 1998).

    `both` images are right on both sides, `first` and `second` on one side only. The distances to the Wilson bounds of the two
    proportions are combined with the sides' correlation phi. It has a width where no image changed, unlike a t interval.

    >>> [round(bound, 3) for bound in find_newcombe_bounds(30, 0, 0, 10)]
    [-0.064, 0.064]
    """
    images = both + first + second + neither
    before, after = both + first, both + second
    low_before, high_before = find_wilson_bounds(before, images)
    low_after, high_after = find_wilson_bounds(after, images)
    phi = _correlate(both, first, second, neither)
    difference = (after - before) / images

    def combine(above: float, below: float) -> float:
        return sqrt(max(0.0, above**2 - 2 * phi * above * below + below**2))

    low = combine(after / images - low_after, high_before - before / images)
    high = combine(high_after - after / images, before / images - low_before)
    return difference - low, difference + high


def _correlate(both: int, first: int, second: int, neither: int) -> float:
    """Return phi of a table of pairs, its numerator less half the images if it is above 0 (not below 0 then)."""
    images = both + first + second + neither
    product = both * neither - first * second
    corrected = product if product < 0 else max(0.0, product - images / 2)
    margins = (both + first) * (second + neither) * (both + second) * (first + neither)
    return corrected / sqrt(margins) if margins else 0.0


def find_mcnemar_p(better: int, worse: int) -> float:
    """Return the two-sided exact p of so many images that only the one and only the other network had right.

    Given how many images changed, each way is as probable without a difference. Counts are few, so that p is below .05 more
    rarely than one time in 20 (conservative).

    >>> find_mcnemar_p(0, 0), find_mcnemar_p(0, 5)
    (1.0, 0.0625)
    """
    from scipy.special import bdtr

    return min(1.0, 2 * float(bdtr(min(better, worse), better + worse, 0.5))) if better + worse else 1.0
