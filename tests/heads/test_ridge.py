"""Exact readouts against scipy, numpy and themselves, on features that are hard on purpose."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.linalg import lstsq
from scipy.stats import ttest_1samp
from torch import Tensor

from posenet_store.errors import PosenetStoreError
from posenet_store.heads.moments import Moments, compute_moments
from posenet_store.heads.protocols import RidgeProtocol
from posenet_store.heads.ridge import RidgeHead, compute_mean_squared_error, solve_ridge
from posenet_store.heads.targets import make_target_map
from tests.support.small import in_threads

LAMBDAS = (1e-10, 1e-6, 1e-3, 1e-1)


def features(images: int = 12, channels: int = 4, seed: int = 0) -> Tensor:
    return torch.randn(images, channels, 28, 28, generator=torch.Generator().manual_seed(seed)).relu()


def goal(name: str, kernel: int, padding: int = 0) -> Tensor:
    return torch.from_numpy(make_target_map(name, 28 + 2 * padding - kernel + 1).copy())


def moments(inputs: Tensor, kernel: int = 3, padding: int = 0) -> Moments:
    total = compute_moments(inputs.split(5), kernel, padding)
    assert total is not None
    return total


def solve(
    groups: Moments | Sequence[Moments], targets: Sequence[Tensor], lambdas: Sequence[float], folds: int = 0
) -> list[RidgeHead]:
    made = [groups] if isinstance(groups, Moments) else groups
    return solve_ridge(made, targets, RidgeProtocol(tuple(lambdas), folds=folds))


def design(inputs: Tensor, kernel: int, padding: int) -> NDArray[np.float64]:
    """All neighbourhoods as rows, with a constant column."""
    rows = F.unfold(inputs.double(), kernel, padding=padding).transpose(1, 2).reshape(-1, inputs.shape[1] * kernel**2)
    return np.hstack([rows.numpy(), np.ones((len(rows), 1))])


def predictions(inputs: Tensor, weight: Tensor, bias: Tensor, padding: int = 0) -> Tensor:
    return F.conv2d(inputs.double(), weight[None], bias.reshape(1), padding=padding)[:, 0]


@pytest.mark.parametrize(("kernel", "padding"), [(1, 0), (3, 0), (3, 1)])
@pytest.mark.parametrize("name", ["H", "G"])
def test_without_penalty_it_is_scipys_least_squares(kernel: int, padding: int, name: str) -> None:
    inputs, target = features(), goal(name, kernel, padding)
    (head,) = solve(moments(inputs, kernel, padding), [target], [1e-14])
    expected = lstsq(design(inputs, kernel, padding), np.tile(target.numpy().ravel(), len(inputs)))[0]
    solution = np.append(head.weight.numpy().ravel(), head.bias.item())
    np.testing.assert_allclose(solution, expected, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("penalty", [1e-4, 1e-1, 10.0])
def test_a_penalty_is_ridge_on_standardised_features(penalty: float) -> None:
    inputs, target = features(), goal("V", 3)
    (head,) = solve(moments(inputs), [target], [penalty])
    rows = design(inputs, 3, 0)[:, :-1]
    standard = (rows - rows.mean(0)) / rows.std(0)
    y = np.tile(target.numpy().ravel(), len(inputs))
    normal = standard.T @ standard / len(rows) + penalty * np.eye(rows.shape[1])
    expected = np.linalg.solve(normal, standard.T @ (y - y.mean()) / len(rows)) / rows.std(0)
    np.testing.assert_allclose(head.weight.numpy().ravel(), expected, rtol=1e-9)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 2.6e8])
@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_scale_and_offset_of_the_features_change_no_prediction(scale: float, offset: float) -> None:
    # offset is in units of the scale; float64 sums about a shift keep 1e-6 even with a mean of 1000 deviations
    inputs, target = features(), goal("H", 3)
    moved = (inputs.double() + offset) * scale
    (plain,) = solve(moments(inputs), [target], [1e-6])
    (hard,) = solve(moments(moved), [target], [1e-6])
    expected = predictions(inputs, plain.weight, plain.bias)
    torch.testing.assert_close(predictions(moved, hard.weight, hard.bias), expected, rtol=0, atol=2e-6)


def test_dead_and_collinear_channels_are_harmless() -> None:
    inputs, target = features(), goal("H", 3)
    (plain,) = solve(moments(inputs), [target], [1e-9])
    dead = torch.full_like(inputs[:, :1], 7.25)
    hard = torch.cat([inputs, torch.zeros_like(dead), dead, inputs[:, :1] * 3], dim=1)
    (head,) = solve(moments(hard), [target], [1e-9])
    assert torch.count_nonzero(head.weight[4:6]) == 0
    assert torch.isfinite(head.weight).all()
    expected = predictions(inputs, plain.weight, plain.bias)
    torch.testing.assert_close(predictions(hard, head.weight, head.bias), expected, rtol=0, atol=1e-6)


def test_only_constant_features_give_the_constant_predictor() -> None:
    (head,) = solve(moments(torch.full((3, 2, 28, 28), 4.0)), [goal("G", 3)], LAMBDAS)
    assert torch.count_nonzero(head.weight) == 0
    assert head.bias.item() == pytest.approx(goal("G", 3).mean().item(), rel=1e-12)


def test_the_error_from_moments_is_the_error_on_the_images() -> None:
    fitting, validation, target = features(seed=0), features(seed=1) * 50 + 3, goal("VS", 3)
    fit = moments(fitting)
    (head,) = solve(fit, [target], [1e-4])
    direct = ((predictions(validation, head.weight, head.bias) - target) ** 2).mean().item()
    from_moments = compute_mean_squared_error(moments(validation), head.weight.flatten(), head.bias, target.flatten())
    assert from_moments == pytest.approx(direct, rel=1e-9)


def test_the_penalty_is_the_best_on_validation_and_the_fit_uses_all_images() -> None:
    # 3 images, 1,352 unknowns a batch of noise: little penalty overfits, so the choice must matter
    fitting, validation, target = features(3, 60, seed=2), features(3, 60, seed=3), goal("H", 3)
    fit = moments(fitting)
    validation_moments = moments(validation)
    (head,) = solve([fit, validation_moments], [target], LAMBDAS)
    errors = {p: solve(fit, [target], [p])[0] for p in LAMBDAS}
    best = min(
        LAMBDAS,
        key=lambda p: compute_mean_squared_error(
            validation_moments, errors[p].weight.flatten(), errors[p].bias, target.flatten()
        ),
    )
    assert head.facts["penalty"] == best != min(LAMBDAS)
    (everything,) = solve(moments(torch.cat([fitting, validation])), [target], [best])
    torch.testing.assert_close(head.weight, everything.weight, rtol=1e-7, atol=1e-12)


def test_one_stream_serves_every_target_alike() -> None:
    fit = moments(features())
    together = solve(fit, [goal(name, 3) for name in ("H", "V", "G")], LAMBDAS)
    (alone,) = solve(fit, [goal("V", 3)], LAMBDAS)
    assert torch.equal(together[1].weight, alone.weight)


def test_blocks_may_be_cut_anywhere() -> None:
    inputs, target = features(11), goal("H", 3)
    (solution,) = solve(moments(inputs), [target], [1e-6])
    pieces = compute_moments(inputs.split(1), 3, 0)
    assert pieces is not None
    (cut,) = solve(pieces, [target], [1e-6])
    torch.testing.assert_close(solution.weight, cut.weight, rtol=1e-8, atol=1e-12)


def test_nan_features_are_an_error_not_a_result() -> None:
    inputs = features()
    inputs[2, 1, 5, 5] = float("nan")
    with pytest.raises(PosenetStoreError, match="NaN or infinite"):
        compute_moments([inputs], 3, 0)


def test_no_image_is_no_moments() -> None:
    assert compute_moments([], 3, 0) is None


@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_moments_of_disjoint_images_add_up_whatever_their_shifts(offset: float) -> None:
    inputs = features(9).double() + offset
    parts = [moments(inputs[:4]), moments(inputs[4:7] * 2), moments(inputs[7:])]
    expected = moments(torch.cat([inputs[:4], inputs[4:7] * 2, inputs[7:]])).shift_to(parts[0].shift)
    total = parts[0] + parts[1] + parts[2]
    assert total.images == 9
    torch.testing.assert_close(total.second, expected.second, rtol=1e-9, atol=1e-6)
    torch.testing.assert_close(total.position, expected.position, rtol=1e-9, atol=1e-6)


@pytest.mark.parametrize("channels", [4, 40])  # one tile, and six
def test_sums_are_the_same_to_the_last_bit_on_any_number_of_threads(channels: int) -> None:
    inputs = features(9, channels)
    alone, together = (in_threads(count, lambda: moments(inputs)) for count in (1, 7))
    assert torch.equal(together.second, alone.second)
    assert torch.equal(together.position, alone.position)


def test_folds_are_those_of_fitting_without_each_group_and_looking_at_it() -> None:
    """Compared with heads fitted without each group, their maps of its images, and the squared error of each image."""
    inputs, target = features(11, 30, seed=4), goal("G", 3)
    groups = inputs.split([3, 3, 3, 2])
    errors = torch.zeros(len(LAMBDAS), 4, dtype=torch.float64)
    for omitted, images in enumerate(groups):
        rest = moments(torch.cat([group for number, group in enumerate(groups) if number != omitted]))
        for step, penalty in enumerate(LAMBDAS):
            (fitted,) = solve(rest, [target], [penalty])
            errors[step, omitted] = (predictions(images, fitted.weight, fitted.bias) - target).square().mean()
    (head,) = solve([moments(group) for group in groups], [target], LAMBDAS, folds=4)
    means = errors @ torch.tensor([3.0, 3, 3, 2], dtype=torch.float64) / 11
    best = int(means.argmin())
    spread = ttest_1samp(errors[best].numpy(), 0).confidence_interval(0.95)
    half = (spread.high - spread.low) / 2 * (1 + 4 / 3) ** 0.5  # Nadeau and Bengio: 1/4 + 1/3 in place of 1/4
    assert head.facts["penalty"] == LAMBDAS[best] != min(LAMBDAS)
    assert head.facts["cv_error"] == pytest.approx(means[best].item(), rel=1e-6)
    assert head.facts["cv_high"] - head.facts["cv_error"] == pytest.approx(half, rel=1e-6)
    assert head.facts["cv_low"] == pytest.approx(max(0.0, head.facts["cv_error"] - half), rel=1e-6)
    assert head.facts["cv_explained"] == pytest.approx(1 - means[best].item() / target.var(correction=0).item(), rel=1e-6)
    (everything,) = solve(moments(inputs), [target], [LAMBDAS[best]])
    torch.testing.assert_close(head.weight, everything.weight, rtol=1e-7, atol=1e-12)


def test_what_cannot_be_explained_is_not_explained_out_of_fold() -> None:
    noise = torch.randn(12, 3, 28, 28, generator=torch.Generator().manual_seed(5))
    (head,) = solve([moments(images) for images in noise.split(3)], [goal("H", 3)], LAMBDAS, folds=4)
    assert -0.05 < head.facts["cv_explained"] < 0.02


BANDS = {"f1": torch.arange(3), "f2": torch.arange(3, 40)}


def draw_bands() -> Tensor:
    """Three channels that hold H beside 37 of noise, in few images of few numbers: noise needs another penalty."""
    inputs = torch.randn(4, 40, 28, 28, generator=torch.Generator().manual_seed(5)).relu()
    inputs[:, 3:] = inputs[:, 3:, :1, :1] + 0.1 * inputs[:, 3:, :, :1]  # smooth: chance explains much of a ramp
    inputs[:, :3] += 0.3 * goal("V", 1).float()
    return inputs


def test_a_penalty_a_band_is_that_of_the_normal_equations() -> None:
    """The head of the drawn weights solves (R + diag(penalties)) w = r of the standardised features; float64 on both sides."""
    inputs, target = draw_bands(), goal("V", 1)
    groups = [moments(part, 1) for part in inputs.split(2)]
    (head,) = solve_ridge(groups, [target], RidgeProtocol((1e-2, 1e-1), folds=2, bands=8), BANDS)
    rows = design(inputs, 1, 0)[:, :-1]
    standard = (rows - rows.mean(0)) / rows.std(0)
    goals = np.tile(target.numpy().ravel(), len(inputs))
    penalties = np.repeat([head.facts["penalty_f1"], head.facts["penalty_f2"]], [3, 37])
    system = standard.T @ standard / len(rows) + np.diag(penalties)
    expected = np.linalg.solve(system, standard.T @ (goals - goals.mean()) / len(rows)) / rows.std(0)
    np.testing.assert_allclose(head.weight.flatten(), expected, rtol=1e-8, atol=1e-12)


def test_bands_are_never_worse_than_one_penalty_and_equal_ones_are_that() -> None:
    groups, target = [moments(part, 1) for part in draw_bands().split(1)], goal("V", 1)
    (plain,) = solve_ridge(groups, [target], RidgeProtocol(folds=4))
    (banded,) = solve_ridge(groups, [target], RidgeProtocol(folds=4, bands=16), BANDS)
    assert banded.facts["cv_error"] < plain.facts["cv_error"]
    (single,) = solve_ridge(groups, [target], RidgeProtocol(folds=4, bands=16), {"f1": torch.arange(40)})
    assert torch.equal(single.weight, plain.weight)
    assert single.facts == plain.facts | {"penalty_f1": plain.facts["penalty"]}
