"""Conjugate gradients against the exact solver, scipy and themselves, on features that are hard on purpose."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.linalg import lstsq
from scipy.sparse.linalg import cg
from torch import Tensor

from posenet_store.errors import PosenetStoreError
from posenet_store.heads import conjugate_gradients as iterative
from posenet_store.heads.conjugate_gradients import conjugate_gradients, solve_by_conjugate_gradients
from posenet_store.heads.moments import compute_moments
from posenet_store.heads.protocols import RidgeProtocol
from posenet_store.heads.ridge import RidgeHead, solve_ridge
from posenet_store.heads.targets import make_target_map

LAMBDAS = (1e-4, 1e-2, 1.0)
NAMES = ("H", "G")


def features(images: int = 12, channels: int = 4, seed: int = 0) -> Tensor:
    return torch.randn(images, channels, 28, 28, generator=torch.Generator().manual_seed(seed)).relu()


def goals(kernel: int = 3, padding: int = 0) -> Tensor:
    return torch.stack([torch.from_numpy(make_target_map(name, 28 + 2 * padding - kernel + 1).copy()) for name in NAMES])


def solved(
    groups: Sequence[Tensor], protocol: RidgeProtocol, kernel: int = 3, padding: int = 0, block: int = 5
) -> list[RidgeHead]:
    return solve_by_conjugate_gradients(
        lambda group: groups[group].split(block), len(groups), (kernel, padding), goals(kernel, padding), protocol
    )


def exactly(groups: Sequence[Tensor], protocol: RidgeProtocol, kernel: int = 3, padding: int = 0) -> list[RidgeHead]:
    moments = [compute_moments([images], kernel, padding) for images in groups]
    return solve_ridge([group for group in moments if group], list(goals(kernel, padding)), protocol)


def maps(inputs: Tensor, head: RidgeHead, padding: int = 0) -> Tensor:
    return F.conv2d(inputs.double(), head.weight[None], head.bias.reshape(1), padding=padding)[:, 0]


@pytest.fixture
def strict(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand times below what is compared: a residual bounds an error only up to the condition of the problem."""
    monkeypatch.setattr(iterative, "TOLERANCE", 1e-11)


@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize(("kernel", "padding"), [(1, 0), (3, 0), (3, 1), (5, 2)])
@pytest.mark.parametrize("folds", [0, 3])
def test_it_is_the_exact_solver(kernel: int, padding: int, folds: int) -> None:
    inputs, protocol = features(14), RidgeProtocol(LAMBDAS, folds=folds, iterations=500)
    groups = inputs.split([5, 5, 4] if folds else [10, 4])
    ours, exact = solved(groups, protocol, kernel, padding), exactly(groups, protocol, kernel, padding)
    for solution, other in zip(ours, exact, strict=True):
        assert {name: solution.facts[name] for name in other.facts} == pytest.approx(other.facts, rel=1e-6)
        assert solution.facts["residual"] < 1e-11
        torch.testing.assert_close(solution.weight, other.weight, rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(maps(inputs, solution, padding), maps(inputs, other, padding), rtol=1e-6, atol=1e-9)


@pytest.mark.usefixtures("strict")
def test_with_hardly_a_penalty_it_is_scipys_least_squares() -> None:
    inputs = features()
    rows = F.unfold(inputs.double(), 3).transpose(1, 2).reshape(-1, 36).numpy()
    design = np.hstack([rows, np.ones((len(rows), 1))])
    for head, goal in zip(solved([inputs], RidgeProtocol((1e-13,), iterations=500)), goals(), strict=True):
        expected = lstsq(design, np.tile(goal.numpy().ravel(), len(inputs)))[0]
        solution = np.append(head.weight.numpy().ravel(), head.bias.item())
        np.testing.assert_allclose(solution, expected, rtol=1e-6, atol=1e-9)


def test_all_penalties_at_once_are_scipys_conjugate_gradients_one_by_one() -> None:
    generator = torch.Generator().manual_seed(0)
    halves = [torch.randn(40, 30, generator=generator, dtype=torch.float64) for _ in range(2)]
    matrices = [half @ half.T / 30 for half in halves]  # of rank 30: singular but for the penalty
    right = torch.randn(2, 40, generator=generator, dtype=torch.float64)
    shifts = torch.tensor([[1e-3, 1e-1, 10.0], [1.0, 1e1, 1e3]], dtype=torch.float64)
    calls = []

    def apply(vectors: Tensor, systems: list[int]) -> Tensor:
        calls.append(systems)
        return torch.stack([matrices[system] @ vector for system, vector in zip(systems, vectors, strict=True)])

    solutions, residuals, steps = conjugate_gradients(apply, right, shifts, 400)
    assert residuals.max() <= iterative.TOLERANCE
    assert steps == len(calls) < 400
    assert calls[-1] != [0, 1]  # what has converged is left out
    for system, matrix in enumerate(matrices):
        for number, shift in enumerate(shifts[system]):
            shifted = matrix + shift * torch.eye(40, dtype=torch.float64)
            expected, failed = cg(shifted.numpy(), right[system].numpy(), rtol=1e-9, maxiter=2000)
            assert not failed
            residual = right[system] - shifted @ solutions[system, number]
            assert residual.norm() / right[system].norm() < 2 * iterative.TOLERANCE
            np.testing.assert_allclose(
                solutions[system, number].numpy(), expected, rtol=0, atol=1e-6 * float(right.norm() / shift)
            )


@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize("scale", [1e-6, 2.6e8])
@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_scale_and_offset_of_the_features_change_no_prediction(scale: float, offset: float) -> None:
    inputs, protocol = features(), RidgeProtocol((1e-3,), iterations=500)
    moved = (inputs.double() + offset) * scale
    for plain, hard in zip(solved([inputs], protocol), solved([moved], protocol), strict=True):
        torch.testing.assert_close(maps(moved, hard), maps(inputs, plain), rtol=0, atol=2e-6)


@pytest.mark.usefixtures("strict")
def test_dead_and_collinear_channels_are_harmless() -> None:
    inputs, protocol = features(), RidgeProtocol((1e-7,), iterations=500)
    dead = torch.full_like(inputs[:, :1], 7.25)
    hard = torch.cat([inputs, torch.zeros_like(dead), dead, inputs[:, :1] * 3], dim=1)
    for plain, head in zip(solved([inputs], protocol), solved([hard], protocol), strict=True):
        assert torch.count_nonzero(head.weight[4:6]) == 0
        torch.testing.assert_close(maps(hard, head), maps(inputs, plain), rtol=0, atol=1e-6)


def test_only_constant_features_give_the_constant_predictor() -> None:
    for head, goal in zip(solved([torch.full((3, 2, 28, 28), 4.0)], RidgeProtocol()), goals(), strict=True):
        assert torch.count_nonzero(head.weight) == 0
        assert head.bias.item() == pytest.approx(goal.mean().item(), rel=1e-12)
        assert head.facts["iterations"] == 0
        assert "unconverged" not in head.facts


def test_blocks_may_be_cut_anywhere() -> None:
    groups = features(11).split([8, 3])
    for uncut, cut in zip(
        solved(groups, RidgeProtocol(LAMBDAS), block=11), solved(groups, RidgeProtocol(LAMBDAS), block=3), strict=True
    ):
        torch.testing.assert_close(uncut.weight, cut.weight, rtol=1e-9, atol=1e-12)
        assert uncut.facts == pytest.approx(cut.facts, rel=1e-6)


def test_a_head_that_does_not_converge_says_so() -> None:
    groups = features(8, 30).split([6, 2])
    for head in solved(groups, RidgeProtocol((1e-6,), iterations=3)):
        assert head.facts["unconverged"] == 1
        assert head.facts["iterations"] == 6  # to choose, and to refit
        assert head.facts["residual"] > iterative.TOLERANCE
        assert torch.isfinite(head.weight).all()
    for head in solved(groups, RidgeProtocol((10.0,), iterations=200)):
        assert "unconverged" not in head.facts
        assert head.facts["iterations"] < 200


def test_nan_features_are_an_error_not_a_result() -> None:
    inputs = features()
    inputs[2, 1, 5, 5] = float("nan")
    with pytest.raises(PosenetStoreError, match="NaN or infinite"):
        solved([inputs], RidgeProtocol())
