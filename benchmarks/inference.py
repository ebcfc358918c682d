"""How often do the tests err, and how often do the intervals cover, that come with position variance and erasure?

Smooth maps of known position are drawn many times: an image's channels are correlated, and some images have larger features.

level_KIND         share of the sets in which p of no position is below .05 where there is none
power_KIND_SHARE   the same where so small a share of the variance is position
cover_KIND_SHARE   share of the sets in which the interval of a stage's share holds the true one
bias_KIND_SHARE    mean estimate minus the truth, in standard errors of that mean over all sets
erased_KIND        share of the sets in which p of the mean SPC of H is below .05 on new images after H and V were erased
spc_KIND           largest of those mean SPC, either sign

    python benchmarks/inference.py [--images 60] [--sets 1000] [--json]
"""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from command import Figures, report_step, run
from posenet_store.heads.erasure import fit_eraser
from posenet_store.heads.metrics import score_maps
from posenet_store.heads.moments import Moments, compute_moments
from posenet_store.heads.position_variance import SpanMaps, estimate_position_shares, make_position_maps
from posenet_store.heads.protocols import RidgeProtocol
from posenet_store.heads.ridge import solve_ridge
from posenet_store.heads.targets import make_target_map
from posenet_store.report.significance import LEVEL, estimate_mean
from posenet_store.specs import GRID

SIDE, CHANNELS, SPANS, SETS, ERASED_SETS = 14, 6, 20, 1000, 100
KINDS = {"rough": 1.0, "smooth": 3.0}
"""Deviations of the Gaussian filter, in positions."""
SHARES = (0.0, 0.005, 0.05, 0.3)
Maps = NDArray[np.float64]


def draw_maps(draw: np.random.Generator, images: int, side: int, smooth: float, share: float) -> Maps:
    """Return maps [N, C, h, h] of which that share of the variance is position, x and |y| in equal parts."""
    point = gaussian_filter(np.eye(1, side**2).reshape(side, side), smooth, mode="wrap")
    noise = gaussian_filter(draw.normal(size=(images, CHANNELS, side, side)), (0, 0, smooth, smooth), mode="wrap")
    noise /= np.sqrt((point**2).sum())  # variance 1
    noise[:, 1:] = (noise[:, 1:] + noise[:, :1]) / np.sqrt(2)
    noise *= draw.gamma(4.0, 0.25, (images, 1, 1, 1)) / np.sqrt(1.25)  # its mean square is 1 + 1 / 4
    basis = make_position_maps(side, side)
    return np.asarray(np.sqrt(1 - share) * noise + np.sqrt(share / 2) * (basis[0] + basis[3]))


def sum_spans(maps: Maps) -> SpanMaps:
    """Return the sums of twenty spans of images."""
    parts = np.array_split(maps, SPANS)
    total, squares = ([(part**power).sum(axis=0) for part in parts] for power in (1, 2))
    return SpanMaps(np.array([float(len(part)) for part in parts]), np.stack(total), np.stack(squares).sum(axis=(2, 3)))


def measure_variance(images: int, kind: str, share: float, sets: int) -> Figures:
    """Return level or power of the test, cover and bias of one kind of maps."""
    draw = np.random.default_rng(0)
    values, covered, rejected = [], 0, 0
    for _ in range(sets):
        shares = estimate_position_shares(sum_spans(draw_maps(draw, images, SIDE, KINDS[kind], share)))
        mean = shares.average()
        values.append(mean.value[0])
        covered += bool(mean.low[0] <= share <= mean.high[0])
        rejected += shares.find_p() < LEVEL
    name = f"{kind}_{share:g}"
    bias = (np.mean(values) - share) / (np.std(values) / np.sqrt(sets))
    rate = {f"power_{name}" if share else f"level_{kind}": rejected / sets}
    return {**rate, f"cover_{name}": covered / sets, f"bias_{name}": float(bias)}


def _sum_moments(maps: Maps) -> Moments:
    moments = compute_moments([torch.from_numpy(maps)], 1, 0)
    if moments is None:
        raise ValueError("there is no image")
    return moments


def measure_erasure(images: int, kind: str, sets: int) -> Figures:
    """Return how often heads of erased features score otherwise than 0 on new images, and how far from it."""
    draw, rejected, scores = np.random.default_rng(0), 0, []
    goals = [torch.from_numpy(make_target_map(name, GRID).copy()) for name in ("H", "V")]
    for _ in range(sets):
        maps = draw_maps(draw, 2 * images, GRID, 2 * KINDS[kind], SHARES[-1])
        moments = _sum_moments(maps[:images])
        eraser = fit_eraser(moments, goals)
        (head,) = solve_ridge([eraser.erase_moments(moments)], goals[:1], RidgeProtocol(lambdas=(1e-6,)))
        weight, bias = eraser.compose(head.weight.flatten(), head.bias)
        predicted = np.einsum("c,nchw->nhw", weight.numpy(), maps[images:]) + float(bias)
        estimate = estimate_mean(score_maps(predicted, goals[0].numpy()).spc)
        if estimate is not None:
            rejected += estimate.find_p() < LEVEL
            scores.append(abs(estimate.mean))
    return {f"erased_{kind}": rejected / sets, f"spc_{kind}": max(scores)}


def measure(images: int, root: Path, sets: str) -> tuple[Figures, Figures]:
    """Return all rates, and how many sets they are from."""
    count = int(sets or SETS)
    rates: Figures = {}
    for kind in KINDS:
        for share in SHARES:
            report_step(f"{kind} maps, a share of {share:g}: {count} sets")
            rates |= measure_variance(images, kind, share, count)
        report_step(f"{kind} maps, erased")
        rates |= measure_erasure(images, kind, min(count, ERASED_SETS))
    return rates, {"sets": float(count), "images": float(images)}


if __name__ == "__main__":
    run(__doc__, 60, measure, sets=f"how many times maps are drawn; {SETS} by default")
