"""Where a mean SPC is known to mislead: each caution is one short sentence."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posenet_store.heads.metrics import rank_maps
from posenet_store.report.records import Record
from posenet_store.report.scores import MeanScore, ScoreArchive
from posenet_store.report.significance import constant_error
from posenet_store.report.text_table import short
from posenet_store.sweep.cell import make_cell_target

FEW = 10
HIGH = 0.3
"""From this SPC on a reader takes a map to be like the target."""
FLAT = 0.1
"""A mean map that spans less of the target's range is nearly one grey."""
SATURATED = 0.1
"""By so much more must a mean map agree in order (Spearman) than in proportion (Pearson)."""


def cautions(records: Sequence[Record], test: str, value: MeanScore, kept: ScoreArchive) -> list[str]:
    """Return what to mind of the mean over cells that differ in their seeds, on one test."""
    said = []
    if any(record["fit"].get("diverged") or record["scores"][test]["nonfinite"] for record in records):
        said.append("a head ran away in training")
    if value.undefined and value.images > 1:
        said.append(f"{value.undefined} of {value.images} maps are constant, without a rank order, and left out")
    if 1 < value.images < FEW:
        said.append(f"only {value.images} images")
    target = make_cell_target(records[0]["cell"])
    best = float(constant_error(target).mean())
    if value.spc is not None and value.spc >= HIGH:
        if value.mae is not None and value.mae > best:
            said.append(f"the order is right, the values are not: MAE {short(value.mae)}, the best constant has {short(best)}")
        said += _of_mean_map(kept.mean(records, f"mean/{test}"), target)
    return said


def _of_mean_map(values: NDArray[Any] | None, target: NDArray[np.float64]) -> list[str]:
    """What only the map itself tells: that it is flat, or saturates."""
    if values is None or values.shape != target.shape or not np.isfinite(values).all() or np.ptp(values) == 0:
        return []
    span = float(np.ptp(values) / np.ptp(target))
    if span < FLAT:
        return [f"the mean map spans {span:.0%} of the target's range: SPC ranks small differences"]
    order = float(rank_maps(values.reshape(1, -1))[0] @ rank_maps(target.reshape(1, -1))[0])
    proportion = float(np.corrcoef(values.ravel(), target.ravel())[0, 1])
    return ["the mean map saturates: SPC does not see it"] if order - proportion > SATURATED else []
