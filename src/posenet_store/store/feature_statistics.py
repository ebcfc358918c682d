"""Compute statistics of stored features by row, pool them over rows and blocks, and refuse values that a store can't hold."""

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posenet_store.errors import BuildError
from posenet_store.threads import map_on_threads

FIELDS = ("min", "max", "mean", "mean_square", "zeros")
SQUARED_SAFELY = 1e15  # the squares of a row of larger values might overflow float32
PIECE = (1 << 15) - 1
"""Values that torch converts on one thread; of more, each thread of a pool would start a team of threads."""
FLOAT16_MAX = 65504.0
NOT_FINITE = "are the weights intact? If the network computes in float16, it may overflow there: --precision bfloat16"


def check_range(name: str, low: float, high: float, dtype: str) -> None:
    """Raise BuildError that names the array and its extreme if a value is not finite or too large for the store's dtype.

    >>> check_range("f1", 0.0, 1.0, "float16")
    """
    if not (math.isfinite(low) and math.isfinite(high)):
        raise BuildError(f"tap {name} holds NaN or infinite features before any cast; {NOT_FINITE}")
    if dtype == "float16" and (largest := max(-low, high)) > FLOAT16_MAX:
        raise BuildError(
            f"tap {name} reaches {largest:.4g}, more than float16 holds ({FLOAT16_MAX:.0f}); build again with --dtype float32"
        )


def compute_statistics(
    arrays: Mapping[str, NDArray[Any]], rows: Sequence[int], pool: Executor | None = None
) -> dict[str, dict[str, float]]:
    """Return count, min, max, mean, mean square and fraction of zeros of each array's `rows`, computed on all CPU cores.

    >>> compute_statistics({"f1": np.float32([[0.0], [2.0], [9.0]])}, rows=[0, 1])["f1"]["mean"]
    1.0
    """

    def compute(row: int) -> dict[str, dict[str, float]]:
        return {name: compute_row_statistics(values[row]) for name, values in arrays.items()}

    parts = map_on_threads(compute, rows, pool=pool)
    return {name: pool_statistics([part[name] for part in parts]) for name in arrays}


def compute_row_statistics(row: NDArray[Any]) -> dict[str, float]:
    """Return the statistics of one row, summed in float32 unless squares might overflow.

    NumPy sums pairwise whatever the number of threads, so the records of a store are the same on every machine.
    """
    values = _convert_to_float32(row)
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


def _convert_to_float32(row: NDArray[Any]) -> NDArray[np.float32]:
    """Return a row's values [N] as float32, converted by the caller's thread alone.

    torch converts float16 many times faster than NumPy. Pooling, all that readers need, does without.
    """
    import torch

    values, source = torch.empty(row.size, dtype=torch.float32), torch.from_numpy(row).flatten()
    for target, piece in zip(values.split(PIECE), source.split(PIECE), strict=True):
        target.copy_(piece)
    return values.numpy()


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


def pool_rows(rows: NDArray[np.float64], count: int) -> dict[str, float]:
    """Pool rows of `count` values each, whose FIELDS are given, float64 [rows, 5].

    >>> pool_rows(np.array([[0.0, 2.0, 1.0, 2.0, 0.5]]), count=2)["mean_square"]
    2.0
    """
    return pool_statistics([{"count": count} | dict(zip(FIELDS, row, strict=True)) for row in rows.tolist()])


def compute_deviation(part: Mapping[str, float]) -> float:
    """Return the standard deviation of a part.

    >>> compute_deviation({"mean": 1.0, "mean_square": 2.0})
    1.0
    """
    return math.sqrt(max(0.0, part["mean_square"] - part["mean"] ** 2))
