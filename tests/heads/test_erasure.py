"""Erasing targets against the definition of LEACE, and against a reference in numpy."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from posenet_store.heads.erasure import Eraser, fit_eraser
from posenet_store.heads.moments import Moments, compute_moments
from posenet_store.heads.protocols import RidgeProtocol
from posenet_store.heads.ridge import solve_ridge
from posenet_store.heads.targets import make_target_map

HARD = ("plain", "dead", "collinear", "scale of 1e8", "constant")


def make_target(name: str) -> Tensor:
    return torch.from_numpy(make_target_map(name, 28).copy())


def draw_features(kind: str = "plain", images: int = 8, channels: int = 12) -> Tensor:
    """Rectified noise in which each channel holds some of H, V and G."""
    draw = torch.Generator().manual_seed(3)
    maps = torch.stack([make_target(name) for name in ("H", "V", "G")])
    mixing = torch.randn(channels, 3, generator=draw, dtype=torch.float64)
    noise = torch.randn(images, channels, 28, 28, generator=draw, dtype=torch.float64)
    features = (noise + torch.einsum("ck,khw->chw", mixing, maps)).relu()
    if kind == "dead":
        features[:, 0], features[:, 5] = 0, 7.25
    elif kind == "collinear":
        features[:, 1], features[:, 2] = 3 * features[:, 0], features[:, 4] + features[:, 5]
    elif kind == "scale of 1e8":
        features = features * torch.logspace(-8, 8, channels, dtype=torch.float64)[:, None, None]
    elif kind == "constant":
        features = features.mean((2, 3), keepdim=True).expand_as(features).clone()
    return features


def summed(features: Tensor) -> Moments:
    moments = compute_moments([features], 1, 0)
    assert moments is not None
    return moments


def flatten(features: Tensor) -> Tensor:
    return features.transpose(0, 1).flatten(1).T  # [samples, D]


def erase(features: Tensor, names: Sequence[str] = ("H", "V")) -> tuple[Eraser, Tensor]:
    eraser = fit_eraser(summed(features), [make_target(name) for name in names])
    return eraser, eraser.erase(flatten(features))


@pytest.mark.parametrize("kind", HARD)
def test_no_linear_head_does_better_than_a_constant(kind: str) -> None:
    """The definition: no covariance with any target is left, to 1e-10 of what there was (Theorem 3.1)."""
    features = draw_features(kind)
    eraser, erased = erase(features)
    targets = torch.stack([make_target(name).flatten().repeat(len(features)) for name in ("H", "V")], dim=1)
    targets = targets - targets.mean(0)
    before, after = flatten(features).T @ targets, erased.T @ targets
    size = (flatten(features) ** 2).sum(0).sqrt()[:, None] * (targets**2).sum(0).sqrt()
    assert (after.abs() <= 1e-10 * before.abs().max(1, keepdim=True).values + 1e-13 * size).all()
    assert eraser.rank == (0 if kind == "constant" else 2)
    assert torch.equal(erased[:, 5], flatten(features)[:, 5]) or kind != "dead"


def reference(x: NDArray[np.float64], z: NDArray[np.float64]) -> NDArray[np.float64]:
    """LEACE as its Theorem 4.3 is written, with a symmetric whitening from an eigendecomposition."""
    centred, goals = x - x.mean(0), z - z.mean(0)
    values, vectors = np.linalg.eigh(centred.T @ centred / len(x))
    live = values > 1e-12 * values.max()
    whitening = vectors[:, live] / np.sqrt(values[live]) @ vectors[:, live].T
    unwhitening = vectors[:, live] * np.sqrt(values[live]) @ vectors[:, live].T
    left, singular, _ = np.linalg.svd(whitening @ (centred.T @ goals / len(x)), full_matrices=False)
    basis = left[:, singular > 1e-9 * singular.max()]
    return np.asarray(x - centred @ whitening.T @ basis @ basis.T @ unwhitening.T)


@pytest.mark.parametrize("kind", ["plain", "collinear"])
def test_it_is_leace_as_published(kind: str) -> None:
    features = draw_features(kind)
    _, erased = erase(features)
    z = torch.stack([make_target(name).flatten().repeat(len(features)) for name in ("H", "V")], dim=1)
    np.testing.assert_allclose(erased.numpy(), reference(flatten(features).numpy(), z.numpy()), rtol=0, atol=1e-8)


def test_no_other_erasure_moves_features_less() -> None:
    """Any other affine map without covariance is that one and something of what is left: a hundred of them move more."""
    features = draw_features()
    eraser, erased = erase(features)
    before, draw = flatten(features), torch.Generator().manual_seed(0)
    least = float(((erased - before) ** 2).mean())
    for _ in range(100):
        change = torch.randn(12, 12, generator=draw, dtype=torch.float64) * 0.01
        other = erased + (erased - eraser.mean) @ change.T
        assert float(((other - before) ** 2).mean()) > least


@pytest.mark.parametrize("kind", HARD)
def test_moments_of_erased_features_are_theirs(kind: str) -> None:
    features = draw_features(kind)
    eraser, erased = erase(features)
    maps = erased.T.reshape(12, len(features), 28, 28).transpose(0, 1)
    ours, theirs = eraser.erase_moments(summed(features)), summed(maps)
    theirs = theirs.shift_to(ours.shift)
    before = summed(features)
    scale = (before.second.diagonal() + before.count * before.shift**2).sqrt()
    assert ((ours.second - theirs.second).abs() <= 1e-9 * torch.outer(scale, scale)).all()
    assert ((ours.position - theirs.position).abs() <= 1e-9 * scale[:, None] * before.images).all()


def test_a_composed_head_predicts_what_the_head_of_erased_features_does() -> None:
    features = draw_features("dead")
    eraser, erased = erase(features)
    (head,) = solve_ridge([eraser.erase_moments(summed(features))], [make_target("G")], RidgeProtocol(lambdas=(1e-6,)))
    weight, bias = eraser.compose(head.weight.flatten(), head.bias)
    expected = erased @ head.weight.flatten() + head.bias
    np.testing.assert_allclose(flatten(features) @ weight + bias, expected, rtol=0, atol=1e-10)


def test_targets_that_depend_on_each_other_are_erased_once() -> None:
    target = make_target("H")
    assert fit_eraser(summed(draw_features()), [target, 1 - target, make_target("V")]).rank == 2
