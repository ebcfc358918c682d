"""A softmax head: multinomial logistic regression on standardised features, trained to convergence."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from posenet_store.heads.sizes import DEAD_DEVIATION
from posenet_store.threads import use_torch_threads

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""On half of the weights' squares, beside the mean cross-entropy; the one of the fewest errors on validation is taken."""
VALIDATION = 0.15
"""The share of the training rows, the last ones, on which the penalty is chosen."""
STEPS = 500
SMALL = 10_000_000
"""Products a step (rows by features by classes) below which one thread computes them: waiting for another takes longer."""


@dataclass(frozen=True)
class SoftmaxHead:
    """Trained `weight` [classes, C] and `bias` [classes] for features that are standardised by `mean` and `scale` [C]."""

    weight: Tensor
    bias: Tensor
    mean: Tensor
    scale: Tensor

    def classify(self, features: Tensor) -> Tensor:
        """Return the most probable class of each row of features [n, C]."""
        return F.linear((features - self.mean) * self.scale, self.weight, self.bias).argmax(dim=1)


def fit_softmax(features: Tensor, labels: Tensor, classes: int, penalty: float) -> SoftmaxHead:
    """Minimise the mean cross-entropy of float64 features [n, C] and labels [n], plus penalty / 2 times the weights' squares.

    The bias has no penalty, and a feature without variance no weight. The problem is convex: the start does not matter.
    """
    mean, deviation = features.mean(dim=0), features.std(dim=0, correction=0)
    live = deviation > DEAD_DEVIATION * (deviation**2 + mean**2).sqrt()
    scale = torch.where(live, 1 / deviation.where(live, torch.ones_like(deviation)), 0)
    standardised = (features - mean) * scale
    weight = torch.zeros(classes, features.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(classes, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=STEPS, tolerance_grad=1e-9, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def compute_loss() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(F.linear(standardised, weight, bias), labels) + penalty / 2 * (weight**2).sum()
        loss.backward()
        return loss

    small = standardised.numel() * classes < SMALL
    with use_torch_threads(1 if small else torch.get_num_threads()):
        optimizer.step(compute_loss)
    return SoftmaxHead(weight.detach(), bias.detach(), mean, scale)


def train_softmax(features: Tensor, labels: Tensor, classes: int, penalties: Sequence[float] = PENALTIES) -> SoftmaxHead:
    """Choose the penalty on the last rows, the larger of equals, then fit all rows."""
    first = len(features) - round(VALIDATION * len(features))

    def count_errors(penalty: float) -> int:
        head = fit_softmax(features[:first], labels[:first], classes, penalty)
        return int((head.classify(features[first:]) != labels[first:]).sum())

    penalty = min(sorted(penalties, reverse=True), key=count_errors)
    return fit_softmax(features, labels, classes, penalty)
