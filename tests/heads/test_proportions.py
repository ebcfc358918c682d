"""Tests and intervals of counts, against scipy and against sums over all tables."""

from itertools import product
from math import comb

import numpy as np
import pytest
from scipy.stats import binom, binomtest

from posenet_store.heads.proportions import find_mcnemar_p, find_newcombe_bounds, find_wilson_bounds

EXACT = 1e-12  # the same few operations in another order


@pytest.mark.parametrize(("right", "images"), [(0, 10), (3, 10), (10, 10), (97, 120)])
def test_the_interval_of_a_share_is_wilsons(right: int, images: int) -> None:
    expected = binomtest(right, images).proportion_ci(0.95, "wilson")
    assert find_wilson_bounds(right, images) == pytest.approx((expected.low, expected.high), abs=EXACT)


@pytest.mark.parametrize(("better", "worse"), [(3, 9), (9, 3), (4, 4), (0, 1), (0, 7)])
def test_mcnemars_p_is_that_of_a_fair_coin(better: int, worse: int) -> None:
    assert find_mcnemar_p(better, worse) == pytest.approx(binomtest(better, better + worse).pvalue)


def newcombe(table: tuple[int, int, int, int]) -> tuple[float, float]:
    """Newcombe's method 10 in the words of the article: second minus first, of e, f, g, h; bounds by scipy."""
    e, f, g, h = table
    n = sum(table)
    p1, p2 = (e + f) / n, (e + g) / n
    (l1, u1), (l2, u2) = (
        (ci.low, ci.high) for ci in (binomtest(k, n).proportion_ci(0.95, "wilson") for k in (e + f, e + g))
    )  # fmt: skip
    product_of_sides = e * h - f * g
    numerator = product_of_sides - n / 2 if product_of_sides > n / 2 else min(product_of_sides, 0)
    denominator = np.sqrt(float((e + f) * (g + h) * (e + g) * (f + h)))
    phi = numerator / denominator if denominator else 0.0
    delta = (p2 - l2) ** 2 - 2 * phi * (p2 - l2) * (u1 - p1) + (u1 - p1) ** 2
    epsilon = (u2 - p2) ** 2 - 2 * phi * (u2 - p2) * (p1 - l1) + (p1 - l1) ** 2
    return p2 - p1 - np.sqrt(max(delta, 0)), p2 - p1 + np.sqrt(max(epsilon, 0))


@pytest.mark.parametrize("table", [(14, 5, 0, 22), (36, 12, 2, 0), (20, 3, 9, 8), (0, 10, 10, 0), (25, 0, 0, 0), (9, 0, 0, 4)])
def test_the_interval_of_a_difference_is_newcombes(table: tuple[int, int, int, int]) -> None:
    low, high = find_newcombe_bounds(*table)
    assert (low, high) == pytest.approx(newcombe(table), abs=EXACT)
    both, first, second, neither = table
    assert find_newcombe_bounds(both, second, first, neither) == pytest.approx((-high, -low), abs=EXACT)
    assert -1 <= low <= (second - first) / sum(table) <= high <= 1


def list_tables(images: int) -> list[tuple[int, int, int, int]]:
    counts = product(range(images + 1), repeat=3)
    return [(both, first, second, images - both - first - second) for both, first, second in counts
            if both + first + second <= images]  # fmt: skip


@pytest.mark.parametrize("shares", [(0.7, 0.1, 0.1, 0.1), (0.8, 0.05, 0.02, 0.13), (0.4, 0.3, 0.1, 0.2)])
def test_the_interval_covers_in_a_sum_over_all_tables(shares: tuple[float, float, float, float]) -> None:
    """Of 24 images, the multinomial probability of every table whose interval holds the true difference."""
    covered, truth = 0.0, shares[2] - shares[1]
    for table in list_tables(24):
        low, high = find_newcombe_bounds(*table)
        ways = comb(24, table[0]) * comb(24 - table[0], table[1]) * comb(24 - table[0] - table[1], table[2])
        covered += (low <= truth <= high) * ways * float(np.prod(np.power(shares, table)))
    assert covered > 0.94  # the article has .95 to .99 at this size: wider where few images change


@pytest.mark.parametrize("changed", [1, 6, 12, 40])
def test_mcnemars_test_errs_no_more_often_than_it_says(changed: int) -> None:
    errors = sum(float(binom.pmf(k, changed, 0.5)) for k in range(changed + 1) if find_mcnemar_p(k, changed - k) < 0.05)
    assert errors < 0.05
