"""SPC and MAE against scipy and numpy, and what must be undefined instead of a number."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import spearmanr

from posenet_store.errors import UsageError
from posenet_store.files import canonical_json
from posenet_store.heads.metrics import CONSTANT_TOLERANCE, Scores, rank_maps, score_maps, score_with_map_sums
from posenet_store.heads.targets import TARGETS, make_target_map

RAMP = np.linspace(0, 1, 100).reshape(10, 10)
CONSTANTS = [0.0, 0.333, 0.5, -0.5, 1.0, 1e-3, 255.0, 1e4, -1e6]


def one(prediction: NDArray[np.float64], target: NDArray[np.float64]) -> tuple[float, float]:
    """Return the SPC and MAE of a single map."""
    scores = score_maps(prediction[None], target)
    return float(scores.spc[0]), float(scores.mae[0])


@settings(deadline=None, max_examples=200)
@given(data=st.data(), levels=st.integers(1, 6), height=st.integers(1, 6), width=st.integers(2, 6))
def test_scores_equal_scipy_and_numpy_with_many_ties(data: st.DataObject, levels: int, height: int, width: int) -> None:
    pixels = st.lists(st.integers(-levels, levels), min_size=height * width, max_size=height * width)
    predictions = np.array(data.draw(st.lists(pixels, min_size=1, max_size=4)), dtype=float).reshape(-1, height, width)
    target = np.array(data.draw(pixels), dtype=float).reshape(height, width)
    assume(np.ptp(target) > 0)
    scores = score_maps(predictions, target)
    for number, prediction in enumerate(predictions):
        assert scores.mae[number] == pytest.approx(np.mean(np.abs(prediction - target)), abs=1e-12)
        if np.ptp(prediction) == 0:
            assert math.isnan(scores.spc[number])
        else:
            assert scores.spc[number] == pytest.approx(spearmanr(prediction.ravel(), target.ravel()).statistic, abs=1e-12)


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("size", [26, 224])
def test_real_targets_score_as_scipy_says(name: str, size: int) -> None:
    rng = np.random.default_rng(0)
    target = make_target_map(name, size)
    predictions = np.stack([target + noise * rng.normal(size=target.shape) for noise in (0.1, 1.0, 10.0)])
    predictions[1] = predictions[1].round(1)
    scores = score_maps(predictions, target)
    expected = [spearmanr(prediction.ravel(), target.ravel()).statistic for prediction in predictions]
    assert np.abs(scores.spc - expected).max() < 1e-12
    assert np.abs(scores.mae - np.abs(predictions - target).mean(axis=(1, 2))).max() < 1e-12
    explained = [r2_score(target.ravel(), prediction.ravel()) for prediction in predictions]
    np.testing.assert_allclose(scores.explained, explained, rtol=1e-12, atol=1e-12)


def r2_score(truth: NDArray[np.float64], prediction: NDArray[np.float64]) -> float:
    """The coefficient of determination by its definition, 1 - residual / total sum of squares."""
    return 1 - float(((truth - prediction) ** 2).sum() / ((truth - truth.mean()) ** 2).sum())


def test_nothing_is_explained_by_the_mean_and_undefined_of_a_constant_target_or_a_map_that_is_not_finite() -> None:
    maps = np.stack([np.full_like(RAMP, 0.5), RAMP, np.full_like(RAMP, np.nan), np.full_like(RAMP, 1e200)])
    assert score_maps(maps, RAMP).explained.tolist() == pytest.approx([0, 1, math.nan, math.nan], nan_ok=True)
    assert np.isnan(score_maps(maps, np.full_like(RAMP, 0.5)).explained).all()


@pytest.mark.parametrize("name", TARGETS)
def test_a_perfect_map_scores_one_and_its_negative_minus_one(name: str) -> None:
    target = make_target_map(name, 28)
    spc, mae = one(target, target)
    assert spc == pytest.approx(1, abs=1e-12)
    assert mae == 0
    assert one(-target, target)[0] == pytest.approx(-1, abs=1e-12)


def test_spc_sees_the_order_only_and_mae_the_values() -> None:
    spc, mae = one(RAMP**3 + 5, RAMP)
    assert spc == pytest.approx(1, abs=1e-12)
    assert mae == pytest.approx(np.mean(np.abs(RAMP**3 + 5 - RAMP)), abs=1e-12)


def test_a_map_is_scored_alike_alone_and_among_others() -> None:
    predictions = np.random.default_rng(0).normal(size=(20, 10, 10))
    predictions[3] = 4
    predictions[5, 0, 0] = math.nan
    together = score_maps(predictions, RAMP)
    alone = [one(prediction, RAMP) for prediction in predictions]
    assert np.allclose(np.stack([together.spc, together.mae], axis=1), alone, rtol=0, atol=1e-14, equal_nan=True)


def test_scoring_does_not_change_its_arguments() -> None:
    predictions = np.random.default_rng(0).normal(size=(3, 10, 10))
    predictions[1] = math.inf
    before, target = predictions.copy(), RAMP.copy()
    score_maps(predictions, target)
    assert (predictions == before).all()
    assert (target == RAMP).all()


@pytest.mark.parametrize("value", CONSTANTS)
def test_a_constant_map_is_undefined(value: float) -> None:
    spc, mae = one(np.full((10, 10), value), RAMP)
    assert math.isnan(spc)
    assert mae == pytest.approx(np.abs(value - RAMP).mean(), rel=1e-12)


@pytest.mark.parametrize("value", CONSTANTS)
def test_a_constant_with_float32_noise_is_undefined(value: float) -> None:
    # The noise is a ramp itself: ranked, it would score a perfect 1.
    noisy = value + 1e-7 * max(abs(value), 1) * RAMP
    assert np.ptp(noisy) > 0
    assert math.isnan(one(noisy, RAMP)[0])


@pytest.mark.parametrize("value", [0.333, 0.5, 123.4])
@pytest.mark.parametrize("align_corners", [False, True])
def test_an_upsampled_constant_map_is_undefined(value: float, align_corners: bool) -> None:
    flat = torch.full((1, 1, 26, 26), value, dtype=torch.float32)
    up = F.interpolate(flat, size=(224, 224), mode="bilinear", align_corners=align_corners)
    for name in TARGETS:
        assert math.isnan(one(up[0, 0].numpy().astype(np.float64), make_target_map(name, 224, normalise=True))[0])


@pytest.mark.parametrize("value", [0.333, 0.5])
def test_a_sum_of_float32_products_that_should_be_constant_is_undefined(value: float) -> None:
    # A head of 15 channels and kernel 3 whose inputs cancel leaves noise of about 1e-7 of the terms.
    rng = np.random.default_rng(0)
    weights = rng.normal(size=135).astype(np.float32)
    summed = np.array([np.sum(rng.permutation(weights)) for _ in range(100)], dtype=np.float64).reshape(10, 10)
    assert np.ptp(summed) > 0
    assert math.isnan(one(summed - summed.mean() + value, RAMP)[0])


@pytest.mark.parametrize(
    ("offset", "target", "magnitude"),
    [
        (0.0, RAMP, 1.0),  # the target's range decides
        (0.5, RAMP, 1.0),
        (0.0, 255 * RAMP, 255.0),
        (0.0, RAMP - 1000, 1.0),  # its offset does not
        (1000.0, RAMP, 1000.0),  # the map's magnitude decides
        (-1000.0, RAMP, 1000.0),
    ],
)
@pytest.mark.parametrize(("factor", "defined"), [(0.98, False), (1.02, True)])
def test_the_tolerance_is_a_share_of_the_larger_of_range_and_magnitude(
    offset: float, target: NDArray[np.float64], magnitude: float, factor: float, defined: bool
) -> None:
    spc, _ = one(offset + factor * CONSTANT_TOLERANCE * magnitude * RAMP, target)
    assert math.isfinite(spc) == defined
    assert not defined or spc == pytest.approx(1, abs=1e-6)


def test_the_tolerance_lies_a_hundredfold_from_noise_and_from_the_least_real_step() -> None:
    assert 100 * 1e-7 <= CONSTANT_TOLERANCE <= 1 / 255 / 100


def test_one_pixel_a_grey_level_off_is_a_map() -> None:
    prediction = np.full((10, 10), 0.5)
    prediction[9, 9] += 1 / 255
    expected = spearmanr(prediction.ravel(), RAMP.ravel()).statistic
    assert one(prediction, RAMP)[0] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("scale", [1e8, 1e30, 1e300])
def test_a_huge_map_scores_as_a_small_one(scale: float) -> None:
    prediction = np.random.default_rng(0).integers(0, 9, (10, 10)).astype(float)
    spc, mae = one(prediction * scale, RAMP)
    assert spc == one(prediction, RAMP)[0]
    assert mae == pytest.approx(prediction.mean() * scale, rel=1e-6)


def test_a_map_at_the_limit_of_float64_is_scored_without_a_warning() -> None:
    # Training that diverges passes through such values before infinity; warnings are errors here.
    prediction = np.where(RAMP > 0.5, 1.7e308, -1.7e308)
    scores = score_maps(prediction[None], RAMP)
    assert scores.spc[0] == pytest.approx(spearmanr(np.sign(prediction).ravel(), RAMP.ravel()).statistic, abs=1e-12)
    assert scores.summary()["mae"] is None  # the sum overflows; infinity must not reach the mean


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("everywhere", [False, True])
def test_a_map_that_is_not_finite_is_counted_and_left_out(value: float, everywhere: bool) -> None:
    bad = np.full((10, 10), value) if everywhere else RAMP.copy()
    bad[4, 4] = value
    scores = score_maps(np.stack([RAMP, bad, RAMP + 1]), RAMP)
    assert np.isnan(scores.spc).tolist() == np.isnan(scores.mae).tolist() == [False, True, False]
    summary = scores.summary()
    assert summary == {
        "spc": pytest.approx(1),
        "mae": pytest.approx(0.5),
        "images": 3,
        "undefined": 1,
        "nonfinite": 1,
    }
    canonical_json(summary)  # which refuses NaN


def test_a_map_of_both_infinities_is_not_finite() -> None:
    bad = RAMP.copy()
    bad[0, :2] = [math.inf, -math.inf]
    assert score_maps(bad[None], RAMP).summary()["nonfinite"] == 1


def test_constant_maps_count_as_undefined_but_have_an_error() -> None:
    summary = score_maps(np.stack([RAMP, np.zeros((10, 10))]), RAMP).summary()
    assert summary == {"spc": pytest.approx(1), "mae": pytest.approx(0.25), "images": 2, "undefined": 1, "nonfinite": 0}


def test_a_mean_over_no_defined_spc_is_none() -> None:
    summary = score_maps(np.stack([np.zeros((10, 10)), np.ones((10, 10))]), RAMP).summary()
    assert summary == {"spc": None, "mae": pytest.approx(0.5), "images": 2, "undefined": 2, "nonfinite": 0}


def test_a_mean_over_no_finite_map_is_none() -> None:
    summary = score_maps(np.full((2, 10, 10), math.nan), RAMP).summary()
    assert summary == {"spc": None, "mae": None, "images": 2, "undefined": 2, "nonfinite": 2}


def test_a_summary_of_no_image_is_none() -> None:
    empty = np.empty(0)
    assert Scores(empty, empty, empty).summary() == {"spc": None, "mae": None, "images": 0, "undefined": 0, "nonfinite": 0}


def test_a_constant_target_leaves_spc_undefined() -> None:
    summary = score_maps(np.stack([RAMP, -RAMP]), np.full((10, 10), 0.25)).summary()
    assert (summary["spc"], summary["undefined"], summary["nonfinite"]) == (None, 2, 0)
    assert summary["mae"] == pytest.approx(np.mean([np.abs(RAMP - 0.25).mean(), np.abs(-RAMP - 0.25).mean()]))


def test_a_summary_holds_plain_numbers() -> None:
    assert {name: type(value) for name, value in score_maps(RAMP[None], RAMP).summary().items()} == {
        "spc": float,
        "mae": float,
        "images": int,
        "undefined": int,
        "nonfinite": int,
    }


def test_sums_are_those_of_every_image_and_give_the_mean_spc_of_any_permuted_target() -> None:
    rng = np.random.default_rng(4)
    maps = RAMP + rng.normal(0, 1, (9, 10, 10))
    maps[2], maps[5, 0, 0] = 0.5, np.nan  # constant; not finite
    scores, sums = score_with_map_sums(maps, RAMP)
    parts = score_with_map_sums(maps[:4], RAMP)[1] + score_with_map_sums(maps[4:], RAMP)[1]
    finite, defined = np.delete(maps, 5, axis=0), np.delete(maps, [2, 5], axis=0)
    for means in (sums.means(scores), parts.means(scores)):
        assert {name: mean.dtype for name, mean in means.items()} == dict.fromkeys(("mean", "error", "ranks"), np.float32)
        assert means["mean"] == pytest.approx(finite.mean(0), abs=1e-6)  # float32
        assert means["error"] == pytest.approx(np.abs(finite - RAMP).mean(0), abs=1e-6)
        assert means["error"].mean() == pytest.approx(np.nanmean(scores.mae), abs=1e-6)
    permuted = rng.permutation(RAMP.ravel())
    expected = np.mean([spearmanr(image_map.ravel(), permuted).statistic for image_map in defined])
    assert sums.means(scores)["ranks"].ravel() @ rank_maps(permuted[None])[0] == pytest.approx(expected, abs=1e-6)


def test_without_a_defined_image_there_is_no_map_of_ranks() -> None:
    scores, sums = score_with_map_sums(np.ones((2, 10, 10)), RAMP)
    assert set(sums.means(scores)) == {"mean", "error"}
    scores, sums = score_with_map_sums(np.full((2, 10, 10), np.inf), RAMP)
    assert sums.means(scores) == {}


def test_maps_of_another_size_than_the_target_are_refused() -> None:
    with pytest.raises(UsageError, match=r"\(2, 3, 3\)"):
        score_maps(np.zeros((2, 3, 3)), np.zeros((4, 4)))
