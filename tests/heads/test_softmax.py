"""Softmax heads against SciPy's minimum of the same loss."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import log_softmax

from posenet_store.heads import softmax
from posenet_store.heads.softmax import PENALTIES, fit_softmax, train_softmax


def draw(count: int = 90, classes: int = 3, channels: int = 5, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return features in clusters, one constant and one of another scale among them, and their labels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    features = rng.normal(0, 1, (count, channels)) + rng.normal(0, 1, (classes, channels))[labels]
    features[:, 1] = 7
    features[:, 2] = 1e6 + 1e4 * features[:, 2]
    return torch.from_numpy(features), torch.from_numpy(labels)


@pytest.mark.parametrize("penalty", [1e-3, 1e-1])
def test_a_head_is_the_minimum_of_its_loss(penalty: float) -> None:
    features, labels = draw()
    head = fit_softmax(features, labels, 3, penalty)
    values, truth = features.numpy(), labels.numpy()
    deviation = values.std(axis=0)
    standardised = (values - values.mean(axis=0)) / np.where(deviation > 0, deviation, 1)

    def loss(numbers: np.ndarray) -> float:
        weight, bias = numbers[:15].reshape(3, 5), numbers[15:]
        chances = log_softmax(standardised @ weight.T + bias, axis=1)
        return float(-chances[np.arange(len(truth)), truth].mean() + penalty / 2 * (weight**2).sum())

    best = minimize(loss, np.zeros(18), method="BFGS", options={"gtol": 1e-7})
    ours = loss(np.concatenate([head.weight.numpy().ravel(), head.bias.numpy()]))
    assert ours == pytest.approx(best.fun, abs=1e-8)
    # the minimum fixes weights (they have a penalty); SciPy's numerical gradient finds them to about 1e-5
    np.testing.assert_allclose(head.weight.numpy(), best.x[:15].reshape(3, 5), atol=2e-4)


def test_a_constant_feature_has_no_weight_and_scale_does_not_matter() -> None:
    features, labels = draw()
    head = fit_softmax(features, labels, 3, 1e-2)
    assert (head.weight[:, 1] == 0).all()
    scaled = fit_softmax(features * 1e-3, labels, 3, 1e-2)
    assert (scaled.classify(features * 1e-3) == head.classify(features)).all()


def test_the_penalty_of_the_fewest_errors_on_the_last_rows_is_taken() -> None:
    features, labels = draw(count=200, seed=1)
    errors = [
        int((fit_softmax(features[:170], labels[:170], 3, penalty).classify(features[170:]) != labels[170:]).sum())
        for penalty in PENALTIES
    ]
    best = max(penalty for penalty, count in zip(PENALTIES, errors, strict=True) if count == min(errors))
    torch.testing.assert_close(train_softmax(features, labels, 3).weight, fit_softmax(features, labels, 3, best).weight)


def test_a_small_head_is_trained_by_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[int] = []

    @contextmanager
    def record(count: int) -> Iterator[None]:
        threads.append(count)
        yield

    monkeypatch.setattr(softmax, "use_torch_threads", record)
    fit_softmax(torch.eye(4, dtype=torch.float64), torch.arange(4) % 2, 2, 1.0)
    assert threads == [1]
