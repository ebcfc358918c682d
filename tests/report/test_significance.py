"""Intervals and tests of chance, against scipy and against their definitions."""

from itertools import permutations

import numpy as np
import pytest
import scipy.stats
from numpy.typing import NDArray

from posenet_store.heads.metrics import rank_maps, score_with_map_sums
from posenet_store.heads.targets import make_target_map
from posenet_store.report.significance import (
    PERMUTATIONS,
    constant_error,
    correct_holm,
    estimate_mean,
    permuted_p,
)

EXACT = 1e-12  # the same sums in another order, of numbers near 1
NAN = float("nan")


def noise(count: int) -> float:
    """Four standard deviations of a p of .5 estimated by PERMUTATIONS draws, `count` times independently."""
    return 4 * float(np.sqrt(0.25 * count / PERMUTATIONS))


def find_interval(scores: NDArray[np.float64]) -> tuple[float, float] | None:
    """The 95 % bounds of a mean, None where it has none."""
    estimate = estimate_mean(scores)
    return estimate.find_bounds() if estimate else None


@pytest.mark.parametrize("images", [2, 7, 51, 400])
def test_one_seed_is_scipys_t_test(images: int) -> None:
    scores = np.random.default_rng(images).normal(0.03, 0.2, images)
    estimate, reference = estimate_mean(scores), scipy.stats.ttest_1samp(scores, 0)
    assert estimate
    assert estimate.find_bounds() == pytest.approx(tuple(reference.confidence_interval(0.95)), abs=EXACT)
    assert estimate.find_p() == pytest.approx(reference.pvalue, rel=1e-9)  # two ways to the same tail


def test_several_seeds_are_an_analysis_of_variance_as_plain_loops_do() -> None:
    scores = np.random.default_rng(3).normal(0.3, 0.2, (12, 3)) + np.array([0.0, 0.3, 0.5])
    estimate = estimate_mean(scores)
    total = scores.mean()
    of_images = 3 * sum((row.mean() - total) ** 2 for row in scores) / 11
    of_seeds = 12 * sum((column.mean() - total) ** 2 for column in scores.T) / 2
    rest = sum(
        (scores[i, s] - scores[i].mean() - scores[:, s].mean() + total) ** 2 for i in range(12) for s in range(3)
    ) / 22  # fmt: skip
    assert estimate
    variances, freedoms = zip(*estimate.parts, strict=True)
    assert variances == pytest.approx((of_images / 36, (of_seeds - rest) / 36)) and freedoms == (11, 2)
    half = np.sqrt(sum(v * scipy.stats.t.ppf(0.975, freedom) ** 2 for v, freedom in estimate.parts))
    assert estimate.find_bounds() == pytest.approx((total - half, total + half))


@pytest.mark.parametrize("spread", [0.0, 0.1, 1.0])
def test_p_is_the_risk_whose_interval_ends_at_zero(spread: float) -> None:
    """So p and the interval beside it never contradict each other."""
    scores = np.random.default_rng(3).normal(0.1, 0.2, (12, 3)) + spread * np.array([-1, 0, 1])
    estimate = estimate_mean(scores)
    assert estimate
    assert estimate.find_half_width(estimate.find_p()) == pytest.approx(abs(estimate.mean), rel=1e-9)
    assert (estimate.find_p() < 0.05) == (estimate.find_bounds()[0] > 0)


def test_seeds_that_disagree_widen_the_interval_and_equal_ones_do_not() -> None:
    scores = np.random.default_rng(3).normal(0.3, 0.2, 40)
    alone, same = find_interval(scores), find_interval(np.stack([scores] * 3, axis=1))
    apart = find_interval(np.stack([scores - 0.3, scores, scores + 0.3], axis=1))
    assert alone and same and apart
    assert same == pytest.approx(alone, abs=EXACT)
    assert apart[1] - apart[0] > 3 * (alone[1] - alone[0])


def test_undefined_images_are_left_out_and_one_image_has_no_interval() -> None:
    scores = np.random.default_rng(3).normal(0.3, 0.2, 9)
    assert find_interval(np.insert(scores, 4, NAN)) == find_interval(scores)
    assert find_interval(np.stack([scores, scores * NAN], axis=1)) == find_interval(scores)  # a seed without any number
    assert find_interval(np.array([0.5, NAN])) is None
    assert find_interval(np.array([[0.5, 0.6, 0.7]])) is None
    assert find_interval(np.empty((0, 2))) is None


def test_equal_scores_are_certain() -> None:
    estimates = [estimate_mean(np.full(4, score)) for score in (0.5, 0.0)]
    assert [estimate and estimate.find_p() for estimate in estimates] == [0, 1]
    assert find_interval(np.full(4, 0.5)) == (0.5, 0.5)


COVERED = 600
MISSED = 4 * float(np.sqrt(0.05 * 0.95 / COVERED))
"""Four standard deviations of a share of .05 among COVERED draws."""


@pytest.mark.parametrize(
    ("images", "seeds", "spread"), [(8, 1, 0), (30, 1, 0), (8, 2, 0.3), (40, 2, 1), (8, 3, 1), (40, 3, 0.3), (40, 3, 3)]
)
def test_intervals_cover_as_often_as_they_say(images: int, seeds: int, spread: float) -> None:
    """The deviation of seeds is `spread` times that of images; the bootstrap over both covered .80 to .90 here."""
    rng = np.random.default_rng(images * seeds)
    covered = 0
    for _ in range(COVERED):
        means = rng.normal(0, 1, (images, 1)) + rng.normal(0, spread, (1, seeds))
        low, high = find_interval(means + rng.normal(0, 0.3, (images, seeds))) or (NAN, NAN)
        covered += low <= 0 <= high
    assert covered / COVERED >= 0.95 - MISSED
    assert seeds > 1 or covered / COVERED <= 0.95 + MISSED


def draw_smooth_maps(count: int, seed: int, side: int = 26) -> NDArray[np.float64]:
    """Random maps [count, side, side] as smooth as a CNN's: their correlation falls to a half within four positions."""
    steps = np.fft.fftfreq(side)
    spectrum = np.exp(-2 * (np.pi * 4 * np.hypot.outer(steps, steps)) ** 2)
    noise = np.random.default_rng(seed).normal(size=(count, side, side))
    return np.fft.ifft2(np.fft.fft2(noise) * spectrum).real


@pytest.mark.parametrize("name", ["H", "G"])
def test_tests_err_as_rarely_as_they_say_on_smooth_maps(name: str) -> None:
    """Maps that know nothing of the target: p of the images errs in .05, of permuted positions in .4."""
    target, runs, images = make_target_map(name, 26), 200, 12
    maps = draw_smooth_maps(runs * images, seed=1)
    scores, _ = score_with_map_sums(maps, target)
    estimates = [estimate_mean(of_run) for of_run in scores.spc.reshape(runs, images)]
    mean_ranks = rank_maps(maps.reshape(runs * images, -1)).reshape(runs, images, 26, 26).mean(axis=1)
    limit = 0.05 + 4 * np.sqrt(0.05 * 0.95 / runs)
    assert np.mean([estimate.find_p() < 0.05 for estimate in estimates if estimate]) < limit
    assert (permuted_p(mean_ranks, target) < 0.05).mean() > 0.25


def maps_like(target: NDArray[np.float64], strength: float, seed: int, images: int = 6) -> NDArray[np.float32]:
    """The mean map of ranks that a run keeps, of images that show the target more or less."""
    drawn = np.random.default_rng(seed).normal(0, 1, (images, *target.shape)) + strength * target
    scores, sums = score_with_map_sums(drawn, target)
    return sums.means(scores)["ranks"]


def test_p_is_scipys_permutation_test() -> None:
    target = make_target_map("H", 5)
    ranks = np.stack([maps_like(target, strength, seed) for seed, strength in enumerate((0.0, 0.3, 0.6, 5.0))])
    goal = rank_maps(target.reshape(1, -1))[0]
    p_values = permuted_p(ranks, target)
    for image_ranks, p in zip(ranks, p_values, strict=True):
        flat = image_ranks.ravel().astype(float)
        reference = scipy.stats.permutation_test(
            (goal,), lambda drawn, flat=flat: flat @ drawn, permutation_type="pairings", alternative="greater",
            n_resamples=PERMUTATIONS, rng=np.random.default_rng(1),
        )  # fmt: skip
        assert p == pytest.approx(reference.pvalue, abs=noise(2))
    assert p_values[-1] == 1 / (1 + PERMUTATIONS)  # its resolution
    assert permuted_p(ranks, target).tolist() == p_values.tolist()


def test_p_of_a_tiny_map_is_the_share_of_all_permutations() -> None:
    target = np.array([[0.0, 1.0, 2.0], [2.0, 3.0, 5.0]])
    goal, ranks = rank_maps(target.reshape(1, -1))[0], maps_like(target, 0.4, 8)
    flat = ranks.ravel().astype(float)
    every = np.array([flat @ np.array(permuted) for permuted in permutations(goal)])
    exact = (every >= flat @ goal - 1e-6).mean()
    assert permuted_p(ranks[None], target)[0] == pytest.approx(exact, abs=noise(1))


def test_a_position_of_an_upsampled_map_is_a_block_of_pixels() -> None:
    target = make_target_map("H", 56)  # twice the grid of 28x28: blocks of 2x2
    coarse = np.random.default_rng(0).normal(0, 1, (4, 28, 28)) + 0.05 * make_target_map("H", 28)
    scores, sums = score_with_map_sums(np.kron(coarse, np.ones((2, 2))).astype(np.float64), target)
    ranks = sums.means(scores)["ranks"].astype(float)
    goal = rank_maps(target.reshape(1, -1)).reshape(28, 2, 28, 2).swapaxes(1, 2).reshape(784, 2, 2)
    cut = ranks.reshape(28, 2, 28, 2).swapaxes(1, 2).reshape(784, 2, 2)
    draw = np.random.default_rng(9)
    expected = np.mean([(cut * goal[draw.permutation(784)]).sum() >= (cut * goal).sum() for _ in range(4000)])
    assert 0.01 < expected < 0.99
    assert permuted_p(ranks[None], target)[0] == pytest.approx(expected, abs=noise(1 + PERMUTATIONS // 4000))


def test_p_is_uniform_where_nothing_is_known() -> None:
    target = make_target_map("G", 6)
    ranks = np.stack([maps_like(target, 0, seed) for seed in range(400)])
    assert scipy.stats.kstest(permuted_p(ranks, target), "uniform").pvalue > 0.01


def test_holm_is_its_definition() -> None:
    values = np.random.default_rng(0).uniform(0, 0.1, 20).tolist()
    order = sorted(values)
    expected = [max(min(1, (20 - k) * order[k]) for k in range(order.index(p) + 1)) for p in values]
    assert correct_holm(values) == pytest.approx(expected)
    assert correct_holm([]) == []
    assert correct_holm([0.5, 0.9]) == [1.0, 1.0]


@pytest.mark.parametrize("name", ["H", "G", "HS"])
def test_no_constant_is_better_than_the_median(name: str) -> None:
    target = make_target_map(name, 26)
    tried = [np.abs(target - level).mean() for level in np.linspace(0, 1, 1001)]
    assert constant_error(target).mean() <= min(tried) + EXACT
    assert constant_error(target).mean() == pytest.approx({"H": 0.2507, "G": 0.1951, "HS": 0.3080}[name], abs=1e-4)
