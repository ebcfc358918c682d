"""Warnings about mean scores that can mislead, each a short sentence."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posenet_store.heads.metrics import rank_maps
from posenet_store.report.scores import MeanScore, ScoreArchive
from posenet_store.report.significance import constant_error
from posenet_store.report.text_table import format_number
from posenet_store.sweep.cell import make_cell_target
from posenet_store.sweep.results import Result

FEW = 10
"""Fewer images make an interval that rests on the shape of their distribution."""
HIGH = 0.3
"""From this SPC on a reader takes a map to be like the target."""
FLAT = 0.1
"""A mean map that spans less of the target's range is nearly one grey."""
SATURATED = 0.1
"""By so much more must a mean map agree in order (Spearman) than in proportion (Pearson)."""


def list_warnings(results: Sequence[Result], test: str, value: MeanScore, archive: ScoreArchive) -> list[str]:
    """Return warnings about the mean over cells that differ in their seeds, on one test."""
    warnings = []
    if any(result.fit.get("diverged") or result.scores[test].nonfinite for result in results):
        warnings.append("a head diverged in training")
    if value.undefined and value.images > 1:
        warnings.append(f"{value.undefined} of {value.images} maps are constant, without a rank order, and left out")
    if 1 < value.images < FEW:
        warnings.append(f"only {value.images} images")
    if value.spc is not None and value.spc >= HIGH:
        target = make_cell_target(results[0].cell)
        best = float(constant_error(target).mean())
        if value.mae is not None and value.mae > best:
            mae, constant = format_number(value.mae), format_number(best)
            warnings.append(f"the order is right, the values are not: MAE {mae}, the best constant map has {constant}")
        warnings += _check_mean_map(archive.mean(results, f"mean/{test}"), target)
    return warnings


def _check_mean_map(values: NDArray[Any] | None, target: NDArray[np.float64]) -> list[str]:
    """Return the warnings that only the map itself gives: that it is flat, or saturates."""
    if values is None or values.shape != target.shape or not np.isfinite(values).all() or np.ptp(values) == 0:
        return []
    span = float(np.ptp(values) / np.ptp(target))
    if span < FLAT:
        return [f"the mean map spans {span:.0%} of the target's range: SPC ranks small differences"]
    ranks = rank_maps(np.stack([values.ravel(), target.ravel()]).astype(np.float64))
    order = float(ranks[0] @ ranks[1])
    proportion = float(np.corrcoef(values.ravel(), target.ravel())[0, 1])
    return ["the mean map saturates, which SPC does not show"] if order - proportion > SATURATED else []
