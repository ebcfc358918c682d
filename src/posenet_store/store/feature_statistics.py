"""Compute statistics of stored features by row, and pool them over rows and blocks."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posenet_store.threads import map_on_threads

SQUARED_SAFELY = 1e15  # the squares of a row of larger values might overflow float32


def compute_statistics(values: NDArray[Any], rows: Sequence[int]) -> dict[str, float]:
    """Return count, min, max, mean, mean square and fraction of zeros of `rows`, computed on all CPU cores.

    >>> compute_statistics(np.float32([[0.0], [2.0], [9.0]]), rows=[0, 1])["mean"]
    1.0
    """
    return pool_statistics(map_on_threads(lambda row: compute_row_statistics(values[row]), rows))


def compute_row_statistics(row: NDArray[Any]) -> dict[str, float]:
    """Return the statistics of one row, summed in float32 unless squares might overflow.

    NumPy sums pairwise whatever the number of threads, so the records of a store are the same on every machine.
    """
    import torch  # converts float16 many times faster; pooling, all that readers need, does without

    values = torch.from_numpy(row).to(torch.float32).numpy()
    low, high = float(values.min()), float(values.max())
    safe = values if max(-low, high) < SQUARED_SAFELY else values.astype(np.float64)
    return {
        "count": values.size,
        "min": low,
        "max": high,
        "mean": float(safe.mean()),
        "mean_square": float(np.square(safe).mean()),
        "zeros": 1 - int(np.count_nonzero(values != 0)) / values.size,
    }


def pool_statistics(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Pool the statistics of disjoint parts; empty parts do not count.

    >>> zero, two = ({"count": 1, "min": v, "max": v, "mean": v, "mean_square": v * v, "zeros": 0.0} for v in (0, 2))
    >>> pool_statistics([zero, two])["mean_square"], pool_statistics([])
    (2.0, {'count': 0})
    """
    parts = [part for part in parts if part["count"]]
    if not parts:
        return {"count": 0}
    count = sum(part["count"] for part in parts)
    means = {key: sum(part[key] * part["count"] for part in parts) / count for key in ("mean", "mean_square", "zeros")}
    return {"count": count, "min": min(part["min"] for part in parts), "max": max(part["max"] for part in parts), **means}


def compute_deviation(part: Mapping[str, float]) -> float:
    """Return the standard deviation of a part.

    >>> compute_deviation({"mean": 1.0, "mean_square": 2.0})
    1.0
    """
    return math.sqrt(max(0.0, part["mean_square"] - part["mean"] ** 2))
