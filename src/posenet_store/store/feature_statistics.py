"""Statistics of stored features: of rows, pooled over blocks."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

SQUARED_SAFELY = 1e15  # the squares of a row of larger values might overflow float32


def compute_statistics(values: NDArray[Any], rows: Sequence[int]) -> dict[str, float]:
    """Return count, min, max, mean, mean square and zero fraction of `rows`; each row is summed in float32.

    >>> compute_statistics(np.float32([[0.0], [2.0], [9.0]]), rows=[0, 1])["mean"]
    1.0
    """
    return pool_statistics([compute_row_statistics(values[row]) for row in rows])


def compute_row_statistics(stored: NDArray[Any]) -> dict[str, float]:
    """Return the same of one row; numpy's sums are pairwise on any number of threads, so records are the same everywhere."""
    import torch  # converts float16 many times faster; pooling, all that readers need, does without

    values = torch.from_numpy(stored).to(torch.float32).numpy()
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
    """Pool the statistics of disjoint parts; an empty part counts nothing.

    >>> zero, two = ({"count": 1, "min": v, "max": v, "mean": v, "mean_square": v * v, "zeros": 0.0} for v in (0, 2))
    >>> pool_statistics([zero, two])["mean_square"], pool_statistics([])
    (2.0, {'count': 0})
    """
    held = [part for part in parts if part["count"]]
    count = sum(part["count"] for part in held)
    if not held:
        return {"count": 0}
    means = {key: sum(p[key] * p["count"] for p in held) / count for key in ("mean", "mean_square", "zeros")}
    return {"count": count, "min": min(p["min"] for p in held), "max": max(p["max"] for p in held), **means}


def compute_deviation(part: Mapping[str, float]) -> float:
    """Return the standard deviation of a part.

    >>> compute_deviation({"mean": 1.0, "mean_square": 2.0})
    1.0
    """
    return math.sqrt(max(0.0, part["mean_square"] - part["mean"] ** 2))
