"""Optimisers for many heads at once: each head has its own learning rate and weight decay and is independent of the others.

torch's optimisers have one learning rate for all rows of a parameter; here rows are heads. NumPy, in place: a step on a few
thousand numbers takes ten calls, and torch's calls would cost five times as much as the arithmetic.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Adam:
    """`torch.optim.Adam` (betas .9 and .999, eps 1e-8, decay added to the gradient) on the rows of `parameters` [n, D].

    `rates` and `decays` are [n]. `parameters` must be float64 and is updated in place. Instead of running means there are
    sums, 10 and 1,000 times as large; the step includes the factors, which saves three passes over the arrays.
    """

    def __init__(self, parameters: Array, rates: Array, decays: Array) -> None:
        self._parameters, self._rates, self._decays = parameters, rates[:, None], decays[:, None]
        self._sum, self._squares, self._scratch = (np.zeros_like(parameters) for _ in range(3))
        self._steps = 0

    def step(self, gradient: Array, factor: float) -> None:
        """Take one step at `factor` times the rates; `gradient` [n, D] is used as scratch space."""
        self._steps += 1
        scratch, root = (
            self._scratch,
            np.sqrt((1 - 0.999**self._steps) / 0.001),
        )  # turns the sum into the corrected mean
        np.multiply(self._parameters, self._decays, out=scratch)
        np.add(gradient, scratch, out=gradient)
        np.multiply(self._sum, 0.9, out=self._sum)
        np.add(self._sum, gradient, out=self._sum)
        np.multiply(self._squares, 0.999, out=self._squares)
        np.multiply(gradient, gradient, out=gradient)
        np.add(self._squares, gradient, out=self._squares)
        np.sqrt(self._squares, out=scratch)
        np.add(scratch, 1e-8 * root, out=scratch)
        np.divide(self._sum, scratch, out=scratch)
        np.multiply(scratch, self._rates * (factor * root * 0.1 / (1 - 0.9**self._steps)), out=scratch)
        np.subtract(self._parameters, scratch, out=self._parameters)


class SGD:
    """`torch.optim.SGD` with momentum (no dampening, no Nesterov, decay added to the gradient) on rows, as `Adam`."""

    def __init__(self, parameters: Array, rates: Array, decays: Array, momentum: float) -> None:
        self._parameters, self._rates, self._decays = parameters, rates[:, None], decays[:, None]
        self._momentum, self._velocity, self._scratch = momentum, np.zeros_like(parameters), np.zeros_like(parameters)

    def step(self, gradient: Array, factor: float) -> None:
        """Take one step at `factor` times the rates."""
        velocity, scratch = self._velocity, self._scratch
        np.multiply(self._parameters, self._decays, out=scratch)
        np.multiply(velocity, self._momentum, out=velocity)
        np.add(velocity, gradient, out=velocity)
        np.add(velocity, scratch, out=velocity)
        np.multiply(velocity, self._rates * factor, out=scratch)
        np.subtract(self._parameters, scratch, out=self._parameters)


def make_optimizer(name: str, parameters: Array, rates: Array, decays: Array, momentum: float) -> Adam | SGD:
    """Return the optimiser `name` ("adam" or "sgd") for the rows of `parameters`; Adam ignores `momentum`."""
    return Adam(parameters, rates, decays) if name == "adam" else SGD(parameters, rates, decays, momentum)


def fill_per_head(values: Any, heads: int, default: float) -> Array:
    """Return one value per head: `values`, or the default for all heads if there are none.

    >>> fill_per_head((), 2, 0.1).tolist(), fill_per_head((1, 2), 2, 0.1).tolist()
    ([0.1, 0.1], [1.0, 2.0])
    """
    return np.asarray(values, dtype=np.float64) if len(values) else np.full(heads, default)
