"""How often do the tests err, and how often do the intervals cover, that come with position variance and erasure?

Smooth maps of known position are drawn many times: an image's channels are correlated, and some images have larger features.

level_KIND         share of the sets in which p of no position is below .05 where there is none
power_KIND_SHARE   the same where so small a share of the variance is position
cover_KIND_SHARE   share of the sets in which the interval of a stage's share holds the true one
bias_KIND_SHARE    mean estimate minus the truth
spc_KIND_before    mean SPC of H on new images
spc_KIND_after     the same after H and V were erased by what other images say, of heads trained on images that are new too
level_draws        share of the sets in which p of one more draw is below .05 where the erasure is one: top-1 of five draws
power_draws_COST   the same where the erasure costs so much more of top-1 than a draw
cover_draws_COST   share of the sets in which the interval of the difference from the draws holds that cost

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
from posenet_store.report.accuracy import compare_with_draws
from posenet_store.report.significance import LEVEL
from posenet_store.specs import GRID

SIDE, CHANNELS, SPANS, SETS, ERASED_SETS = 14, 6, 20, 1000, 100
KINDS = {"rough": 1.0, "smooth": 3.0}
"""Deviations of the Gaussian filter, in positions."""
SHARES = (0.0, 0.005, 0.05, 0.3)
COSTS = (0.0, 0.1, 0.2)
"""Of top-1."""
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
    rate = {f"power_{name}" if share else f"level_{kind}": rejected / sets}
    return {**rate, f"cover_{name}": covered / sets, f"bias_{name}": float(np.mean(values) - share)}


def _sum_moments(maps: Maps) -> Moments:
    moments = compute_moments([torch.from_numpy(maps)], 1, 0)
    if moments is None:
        raise ValueError("there is no image")
    return moments


def measure_erasure(images: int, kind: str, sets: int) -> Figures:
    """Return the SPC of H on new images: of heads before an erasure, and of heads that other erased images train anew."""
    draw, scores = np.random.default_rng(0), []
    goals = [torch.from_numpy(make_target_map(name, GRID).copy()) for name in ("H", "V")]
    ridge = RidgeProtocol(lambdas=(1e-6,))
    for _ in range(sets):
        maps = draw_maps(draw, 3 * images, GRID, 2 * KINDS[kind], SHARES[-1])
        erasing, training = _sum_moments(maps[:images]), _sum_moments(maps[images : 2 * images])
        eraser = fit_eraser(erasing, goals)
        (before,), (again,) = (solve_ridge([m], goals[:1], ridge) for m in (training, eraser.erase_moments(training)))
        heads = (before.weight.flatten(), before.bias), eraser.compose(again.weight.flatten(), again.bias)
        predicted = [np.einsum("c,nchw->nhw", weight.numpy(), maps[2 * images :]) + float(bias) for weight, bias in heads]
        scores.append([np.nanmean(score_maps(maps_of_head, goals[0].numpy()).spc) for maps_of_head in predicted])
    return dict(zip((f"spc_{kind}_before", f"spc_{kind}_after"), np.mean(scores, axis=0).tolist(), strict=True))


def measure_draws(images: int, cost: float, sets: int) -> Figures:
    """Return level or power, and cover, of the comparison of an erasure's top-1 with five draws', on ten times the images.

    Top-1 of draws is normal about .6 with a deviation of .03, and some images are easier than others.
    """
    draw, rejected, covered = np.random.default_rng(0), 0, 0
    for _ in range(sets):
        rates = draw.normal(0.6, 0.03, 6) - cost * (np.arange(6) == 0) + draw.normal(0, 0.2, (10 * images, 1))
        right = (draw.random(rates.shape) < rates).astype(float)
        compared = compare_with_draws(right[:, 0], right[:, 1:])
        rejected += compared["p_draws"] < LEVEL
        covered += compared["from_draws_low"] <= -cost <= compared["from_draws_high"]
    rate = {f"power_draws_{cost:g}" if cost else "level_draws": rejected / sets}
    return {**rate, f"cover_draws_{cost:g}": covered / sets}


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
    for cost in COSTS:
        report_step(f"top-1 of draws, an erasure that costs {cost:g}")
        rates |= measure_draws(images, cost, count)
    return rates, {"sets": float(count), "images": float(images)}


if __name__ == "__main__":
    run(__doc__, 60, measure, sets=f"how many times maps are drawn; {SETS} by default")
