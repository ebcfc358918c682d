"""Exact readouts against scipy, numpy and themselves, on features that are hard on purpose."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.linalg import lstsq
from torch import Tensor

from posenet_store.errors import PosenetStoreError, UsageError
from posenet_store.ridge import Moments, accumulate, readouts, squared_error
from posenet_store.targets import target_map

LAMBDAS = (1e-10, 1e-6, 1e-3, 1e-1)


def features(images: int = 12, channels: int = 4, seed: int = 0) -> Tensor:
    return torch.randn(images, channels, 28, 28, generator=torch.Generator().manual_seed(seed)).relu()


def goal(name: str, kernel: int, padding: int = 0) -> Tensor:
    return torch.from_numpy(target_map(name, 28 + 2 * padding - kernel + 1).copy())


def moments(inputs: Tensor, kernel: int = 3, padding: int = 0, shift: Tensor | None = None) -> Moments:
    found = accumulate(inputs.split(5), kernel, padding, shift)
    assert found is not None
    return found


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
    (found,) = readouts(moments(inputs, kernel, padding), None, [target], [1e-14])
    expected = lstsq(design(inputs, kernel, padding), np.tile(target.numpy().ravel(), len(inputs)))[0]
    solution = np.append(found.weight.numpy().ravel(), found.bias.item())
    np.testing.assert_allclose(solution, expected, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("penalty", [1e-4, 1e-1, 10.0])
def test_a_penalty_is_ridge_on_standardised_features(penalty: float) -> None:
    inputs, target = features(), goal("V", 3)
    (found,) = readouts(moments(inputs), None, [target], [penalty])
    rows = design(inputs, 3, 0)[:, :-1]
    standard = (rows - rows.mean(0)) / rows.std(0)
    y = np.tile(target.numpy().ravel(), len(inputs))
    normal = standard.T @ standard / len(rows) + penalty * np.eye(rows.shape[1])
    expected = np.linalg.solve(normal, standard.T @ (y - y.mean()) / len(rows)) / rows.std(0)
    np.testing.assert_allclose(found.weight.numpy().ravel(), expected, rtol=1e-9)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 2.6e8])
@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_scale_and_offset_of_the_features_change_no_prediction(scale: float, offset: float) -> None:
    # offset is in units of the scale; float64 sums about a shift keep 1e-6 even with a mean of 1000 deviations
    inputs, target = features(), goal("H", 3)
    moved = (inputs.double() + offset) * scale
    (plain,) = readouts(moments(inputs), None, [target], [1e-6])
    (hard,) = readouts(moments(moved), None, [target], [1e-6])
    expected = predictions(inputs, plain.weight, plain.bias)
    torch.testing.assert_close(predictions(moved, hard.weight, hard.bias), expected, rtol=0, atol=2e-6)


def test_dead_and_collinear_channels_are_harmless() -> None:
    inputs, target = features(), goal("H", 3)
    (plain,) = readouts(moments(inputs), None, [target], [1e-9])
    dead = torch.full_like(inputs[:, :1], 7.25)
    hard = torch.cat([inputs, torch.zeros_like(dead), dead, inputs[:, :1] * 3], dim=1)
    (found,) = readouts(moments(hard), None, [target], [1e-9])
    assert torch.count_nonzero(found.weight[4:6]) == 0
    assert torch.isfinite(found.weight).all()
    expected = predictions(inputs, plain.weight, plain.bias)
    torch.testing.assert_close(predictions(hard, found.weight, found.bias), expected, rtol=0, atol=1e-6)


def test_only_constant_features_give_the_constant_predictor() -> None:
    (found,) = readouts(moments(torch.full((3, 2, 28, 28), 4.0)), None, [goal("G", 3)], LAMBDAS)
    assert torch.count_nonzero(found.weight) == 0
    assert found.bias.item() == pytest.approx(goal("G", 3).mean().item(), rel=1e-12)


def test_the_error_from_moments_is_the_error_on_the_images() -> None:
    fitting, held, target = features(seed=0), features(seed=1) * 50 + 3, goal("VS", 3)
    fit = moments(fitting)
    (found,) = readouts(fit, None, [target], [1e-4])
    direct = ((predictions(held, found.weight, found.bias) - target) ** 2).mean().item()
    from_moments = squared_error(moments(held, shift=fit.shift), found.weight.flatten(), found.bias, target.flatten())
    assert from_moments == pytest.approx(direct, rel=1e-9)


def test_the_penalty_is_the_best_on_validation_and_the_fit_uses_all_images() -> None:
    # 3 images, 1,352 unknowns a batch of noise: little penalty overfits, so the choice must matter
    fitting, validation, target = features(3, 60, seed=2), features(3, 60, seed=3), goal("H", 3)
    fit = moments(fitting)
    held = moments(validation, shift=fit.shift)
    (found,) = readouts(fit, held, [target], LAMBDAS)
    errors = {p: readouts(fit, None, [target], [p])[0] for p in LAMBDAS}
    best = min(LAMBDAS, key=lambda p: squared_error(held, errors[p].weight.flatten(), errors[p].bias, target.flatten()))
    assert found.penalty == best != min(LAMBDAS)
    (everything,) = readouts(moments(torch.cat([fitting, validation])), None, [target], [best])
    torch.testing.assert_close(found.weight, everything.weight, rtol=1e-7, atol=1e-12)


def test_one_stream_serves_every_target_alike() -> None:
    fit = moments(features())
    together = readouts(fit, None, [goal(name, 3) for name in ("H", "V", "G")], LAMBDAS)
    (alone,) = readouts(fit, None, [goal("V", 3)], LAMBDAS)
    assert torch.equal(together[1].weight, alone.weight)


def test_blocks_may_be_cut_anywhere() -> None:
    inputs, target = features(11), goal("H", 3)
    (whole,) = readouts(moments(inputs), None, [target], [1e-6])
    pieces = accumulate(inputs.split(1), 3, 0)
    assert pieces is not None
    (cut,) = readouts(pieces, None, [target], [1e-6])
    torch.testing.assert_close(whole.weight, cut.weight, rtol=1e-8, atol=1e-12)


def test_nan_features_are_an_error_not_a_result() -> None:
    inputs = features()
    inputs[2, 1, 5, 5] = float("nan")
    with pytest.raises(PosenetStoreError, match="NaN or infinite"):
        accumulate([inputs], 3, 0)


def test_too_many_unknowns_are_refused_with_a_way_out() -> None:
    with pytest.raises(UsageError, match="use kernel 1"):
        accumulate([torch.zeros(1, 700, 28, 28)], 3, 0)


def test_no_image_is_no_moments() -> None:
    assert accumulate([], 3, 0) is None
