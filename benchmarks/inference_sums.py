"""How often tests and intervals err that come from second moments: position variance, erasure, cross-validation, stages."""

from functools import reduce
from operator import add

import numpy as np
import torch

from command import Figures
from inference_maps import SIDE, Maps, draw_features, predict, sum_moments
from posenet_store.heads.erasure import fit_eraser
from posenet_store.heads.metrics import score_maps
from posenet_store.heads.moments import Moments
from posenet_store.heads.position_directions import estimate_directions, fit_directions, project_spans
from posenet_store.heads.position_variance import SpanMaps, estimate_position_shares
from posenet_store.heads.protocols import RidgeProtocol
from posenet_store.heads.ridge import compute_mean_squared_error, solve_ridge
from posenet_store.heads.targets import make_target_map
from posenet_store.report.compare import find_difference
from posenet_store.report.significance import LEVEL
from posenet_store.report.stage_shares import split_shares

SPANS, TRUTH = 20, 2_000
SHARES = {"none": 0.0, "half_percent": 0.005, "five_percent": 0.05, "thirty_percent": 0.3}
SOLVED_SETS = 300
GOALS = [torch.from_numpy(make_target_map(name, SIDE).copy()) for name in ("H", "V")]
H = make_target_map("H", SIDE)


def sum_spans(features: Maps) -> SpanMaps:
    """Return the sums of twenty spans of images."""
    parts = np.array_split(features, SPANS)
    total, squares = ([(part**power).sum(axis=0) for part in parts] for power in (1, 2))
    return SpanMaps(np.array([float(len(part)) for part in parts]), np.stack(total), np.stack(squares).sum(axis=(2, 3)))


def measure_variance(kind: str, images: int, sets: int) -> Figures:
    """Return level or power of the test, cover and bias of a stage's share of position."""
    rates = Figures()
    for name, share in SHARES.items():
        draw = np.random.default_rng(0)
        values, covered, rejected = list[float](), 0, 0
        for _ in range(count := sets // 4 if share else 2 * sets):  # a level must be known to a third of a percent
            shares = estimate_position_shares(sum_spans(draw_features(draw, images, kind, share)))
            mean = shares.average()
            values.append(float(mean.value[0]))
            covered += bool(mean.low[0] <= share <= mean.high[0])
            rejected += shares.find_p() < LEVEL
        rates[f"power_variance_{name}_{kind}_{images}" if share else f"level_variance_{kind}_{images}"] = rejected / count
        rates[f"cover_variance_{name}_{kind}_{images}"] = covered / count
        rates[f"bias_variance_{name}_{kind}_{images}"] = float(np.mean(values) - share)
    return rates


def measure_directions(kind: str, images: int, sets: int) -> Figures:
    """Return cover of the interval of the best direction's share, for the directions as they were fitted."""
    draw, covered, sets = np.random.default_rng(1), 0, min(sets, SOLVED_SETS)
    share = SHARES["five_percent"]
    truth = [sum_moments(part) for part in np.array_split(draw_features(draw, TRUTH, kind, share), SPANS)]
    truth = [moments.shift_to(truth[0].shift) for moments in truth]
    for _ in range(sets):
        spans = [sum_moments(part) for part in np.array_split(draw_features(draw, images, kind, share), SPANS)]
        spans = [moments.shift_to(spans[0].shift) for moments in spans]
        estimates = estimate_directions(spans)
        fitted = [fit_directions(half)[:, :1] for half in (spans[::2], spans[1::2])]
        true = np.mean([estimate_position_shares(project_spans(truth, direction)).shares[0, 0] for direction in fitted])
        covered += bool(estimates.low[0] <= true <= estimates.high[0])
    return {f"cover_directions_{kind}_{images}": covered / sets}


def measure_erasure(kind: str, images: int, sets: int) -> Figures:
    """Return level, power and cover of the change of SPC of H by an erasure, of heads that other images train and test."""
    ridge, rates = RidgeProtocol(lambdas=(1e-6,)), Figures()
    for name in ("none", "five_percent"):
        draw, spc, counts, share = np.random.default_rng(2), list[list[float]](), np.zeros(2), SHARES[name]
        fresh = draw_features(draw, TRUTH, kind, share)
        for _ in range(count := min(sets, SOLVED_SETS) if share else sets):
            erasing, training, test = (draw_features(draw, images, kind, share) for _ in range(3))
            eraser, moments = fit_eraser(sum_moments(erasing), GOALS), sum_moments(training)
            (before,), (again,) = (solve_ridge([m], GOALS[:1], ridge) for m in (moments, eraser.erase_moments(moments)))
            heads = (before.weight, before.bias), eraser.compose(again.weight.flatten(), again.bias)
            first, second = (score_maps(predict(test, *head), H).spc for head in heads)
            change = find_difference(first, second, more_is_better=True)
            counts[0] += change.p is not None and change.p < LEVEL
            if share and change.low is not None and change.high is not None:
                spc.append([float(score_maps(predict(fresh, *head), H).spc.mean()) for head in heads])
                counts[1] += change.low <= spc[-1][1] - spc[-1][0] <= change.high
        rates[f"{'power' if share else 'level'}_erasure_{kind}_{images}"] = float(counts[0]) / count
    rates[f"cover_erasure_{kind}_{images}"] = float(counts[1]) / count
    before_after = zip(("before", "after"), np.mean(spc, axis=0).tolist(), strict=True)
    return rates | {f"spc_{name}_erasure_{kind}_{images}": value for name, value in before_after}


def measure_folds(kind: str, images: int, sets: int) -> Figures:
    """Return cover of the interval of a cross-validated error: of the mean error of the folds' heads on new images."""
    draw, covered, sets = np.random.default_rng(3), 0, min(sets, SOLVED_SETS)
    protocol, share = RidgeProtocol(folds=4), SHARES["five_percent"]
    fresh = sum_moments(draw_features(draw, TRUTH, kind, share))
    for _ in range(sets):
        folds = [sum_moments(part) for part in np.array_split(draw_features(draw, images, kind, share), protocol.folds)]
        facts = solve_ridge(folds, GOALS[:1], protocol)[0].facts
        refit = RidgeProtocol(lambdas=(facts["penalty"],), validation=0)
        rest = [reduce(add, folds[:number] + folds[number + 1 :]) for number in range(len(folds))]
        heads = [solve_ridge([moments], GOALS[:1], refit)[0] for moments in rest]
        true = np.mean([compute_mean_squared_error(fresh, h.weight.flatten(), h.bias, GOALS[0].flatten()) for h in heads])
        covered += bool(facts["cv_low"] <= true <= facts["cv_high"])
    return {f"cover_folds_{kind}_{images}": covered / sets}


STAGES = {"f1": [0, 1], "f2": [2, 3], "f3": [4, 5]}
"""Channels of three stages; the last one has no position."""


def measure_stages(kind: str, images: int, sets: int) -> Figures:
    """Return how often a stage without position seems to add some, and power and cover of shares of stages."""
    draw, sets, counts = np.random.default_rng(4), min(sets, SOLVED_SETS), np.zeros(5)

    def draw_stages(count: int) -> Maps:
        features = draw_features(draw, count, kind, SHARES["five_percent"])
        features[:, STAGES["f3"]] = draw_features(draw, count, kind, 0.0)[:, STAGES["f3"]]
        return features

    inputs = [frozenset[str](), *(frozenset({stage}) for stage in STAGES), *(frozenset(STAGES) - {stage} for stage in STAGES)]
    fresh = draw_stages(TRUTH)
    for _ in range(sets):
        training, test = sum_moments(draw_stages(100)), draw_stages(images)
        heads = {taps: _solve_stages(training, sorted(taps or STAGES)) for taps in inputs}
        shares, true = (
            split_shares({taps: score_maps(predict(features, *head), H).explained for taps, head in heads.items()})
            for features in (test, fresh)
        )
        for stage, share in shares.items():
            for number, name in enumerate(("alone", "unique", "shared")):
                low, high = getattr(share, name).bounds
                counts[number] += low <= getattr(true[stage], name).value <= high
        counts[3:] += [shares[stage].unique.bounds[0] > 0 for stage in ("f3", "f1")]  # type: ignore[index]  # many images
    rates = dict(zip(("cover_alone", "cover_unique", "cover_shared"), (counts[:3] / sets / len(STAGES)).tolist(), strict=True))
    rates |= dict(zip(("level_unique", "power_unique"), (counts[3:] / sets).tolist(), strict=True))
    return {f"{name}_{kind}_{images}": rate for name, rate in rates.items()}


def _solve_stages(moments: Moments, stages: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return an exact head of all channels that reads some stages only."""
    channels = torch.tensor([channel for stage in stages for channel in STAGES[stage]])
    head = solve_ridge([moments.select(channels)], GOALS[:1], RidgeProtocol(lambdas=(1e-6,)))[0]
    weight = torch.zeros(len(moments.shift), dtype=torch.float64)
    weight[channels] = head.weight.flatten()
    return weight, head.bias
