"""How often tests and intervals of scores err: SPC and MAE of one head, of two on the same images, and right answers."""

import numpy as np
from scipy.special import ndtri

from command import Figures
from inference_maps import SIDE, draw_noise, draw_predictions
from posenet_store.heads.metrics import rank_maps, score_maps
from posenet_store.heads.proportions import find_wilson_bounds
from posenet_store.heads.rings import RingWidths, cut_rings, score_rings
from posenet_store.heads.targets import TARGETS, make_target_map
from posenet_store.report.accuracy import Classified, compare_with_draws, list_accuracies
from posenet_store.report.compare import find_difference
from posenet_store.report.html.findings import Evidence, choose_claims
from posenet_store.report.scores import MeanScore
from posenet_store.report.significance import (
    LEVEL,
    Chance,
    MeanEstimate,
    constant_error,
    correct_holm,
    estimate_mean,
    permuted_p,
)

TRUTH = 20_000
"""Images from which the true mean is taken: its error is a tenth of that of 120 images."""
WEAK, STRONG = 0.15, 1.0
"""Deviations of position in those of an image's map."""
PERMUTED_SETS = 200
H = make_target_map("H", SIDE)


def covers(estimate: MeanEstimate | None, truth: float) -> bool:
    """Return whether an interval holds the true mean."""
    if estimate is None:
        return False
    low, high = estimate.find_bounds()
    return low <= truth <= high


def measure_spc_level(kind: str, images: int, sets: int) -> Figures:
    """Return how often p of SPC, and p corrected for five targets, is small for maps that know nothing."""
    draw = np.random.default_rng(0)
    goals = rank_maps(np.stack([make_target_map(name, SIDE).ravel() for name in TARGETS]))
    errors, sets = np.zeros(len(TARGETS) + 1), 4 * sets
    for _ in range(sets):
        spc = rank_maps(draw_noise(draw, (images,), kind).reshape(images, -1)) @ goals.T
        p = [estimate.find_p() for column in spc.T if (estimate := estimate_mean(column))]
        errors += [*(value < LEVEL for value in p), min(correct_holm(p)) < LEVEL]
    rates = dict(zip((*TARGETS, "holm"), (errors / sets).tolist(), strict=True))
    return {f"level_spc_{name}_{kind}_{images}": rates[name] for name in ("H", "G", "HS")} | {
        f"level_holm_{kind}_{images}": rates["holm"]
    }


def measure_permuted(kind: str, images: int, sets: int) -> Figures:
    """Return how often p of permuted positions is small for the mean of maps that know nothing."""
    draw = np.random.default_rng(0)
    count = min(sets, PERMUTED_SETS)
    ranks = [
        rank_maps(draw_noise(draw, (images,), kind).reshape(images, -1)).mean(axis=0).reshape(SIDE, SIDE) for _ in range(count)
    ]
    return {f"level_permuted_{kind}_{images}": float((permuted_p(np.stack(ranks), H) < LEVEL).mean())}


def measure_scores(kind: str, images: int, sets: int) -> Figures:
    """Return power of p and cover of the intervals of SPC and MAE of a head that knows a little."""
    draw = np.random.default_rng(1)
    truth = score_maps(draw_predictions(draw, TRUTH, kind, [WEAK])[0], H)
    rejected, covered = 0, np.zeros(2)
    for _ in range(sets):
        scores = score_maps(draw_predictions(draw, images, kind, [WEAK])[0], H)
        estimates = estimate_mean(scores.spc), estimate_mean(scores.mae)
        rejected += estimates[0] is not None and estimates[0].find_p() < LEVEL
        covered += [covers(estimates[0], float(truth.spc.mean())), covers(estimates[1], float(truth.mae.mean()))]
    rates = {"power_spc": rejected / sets, "cover_spc": covered[0] / sets, "cover_mae": covered[1] / sets}
    figures: Figures = {f"{name}_{kind}_{images}": float(rate) for name, rate in rates.items()}
    return figures | {f"effect_spc_{kind}": float(truth.spc.mean())}


def measure_seeds(kind: str, images: int, sets: int) -> Figures:
    """Return level and cover over images and three seeds, which read position alike, or each by another amount."""
    draw, rates = np.random.default_rng(2), Figures()
    for name, spread in (("alike", 0.0), ("apart", 0.3)):

        def score(count: int, mean: float, spread: float = spread) -> np.ndarray:
            strengths = (mean + spread * draw.normal(size=3)).tolist()
            return np.stack([score_maps(maps, H).spc for maps in draw_predictions(draw, count, kind, strengths)], axis=1)

        truth = float(np.mean([score(100, WEAK).mean() for _ in range(TRUTH // 100)]))
        errors, covered = 0, 0
        for _ in range(sets):
            nothing, little = estimate_mean(score(images, 0.0)), estimate_mean(score(images, WEAK))
            errors += nothing is not None and nothing.find_p() < LEVEL
            covered += covers(little, truth)
        rates |= {f"level_seeds_{name}_{kind}_{images}": errors / sets, f"cover_seeds_{name}_{kind}_{images}": covered / sets}
    return rates


def measure_differences(kind: str, images: int, sets: int) -> Figures:
    """Return level, power and cover of differences of two heads on the same images."""
    draw = np.random.default_rng(3)
    strengths = {"none": [WEAK, WEAK], "some": [WEAK, 2 * WEAK]}
    first, second = (score_maps(maps, H) for maps in draw_predictions(draw, TRUTH, kind, strengths["some"]))
    truth = [float((second.spc - first.spc).mean()), float((second.mae - first.mae).mean())]
    rejected, covered = dict.fromkeys(strengths, 0.0), np.zeros(2)
    for _ in range(sets):
        for name, values in strengths.items():
            before, after = (score_maps(maps, H) for maps in draw_predictions(draw, images, kind, values))
            spc, mae = find_difference(before.spc, after.spc, True), find_difference(before.mae, after.mae, False)
            rejected[name] += spc.p is not None and spc.p < LEVEL
            if name == "some":
                covered += [
                    d.low is not None and d.high is not None and d.low <= t <= d.high
                    for d, t in zip((spc, mae), truth, strict=True)
                ]
    rates = {"level_difference": rejected["none"], "power_difference": rejected["some"]}
    rates |= dict(zip(("cover_difference_spc", "cover_difference_mae"), covered.tolist(), strict=True))
    figures: Figures = {f"{name}_{kind}_{images}": count / sets for name, count in rates.items()}
    return figures | {f"effect_difference_{kind}": truth[0]}


def measure_claims(kind: str, images: int, sets: int) -> Figures:
    """Return how often the page claims that features which know no more than the pixels, which know much, hold position."""
    draw, claims = np.random.default_rng(4), 0
    constant = float(constant_error(H).mean())
    for _ in range(sets):
        evidence = []
        for _ in range(3):  # targets
            pixels, features = (score_maps(maps, H) for maps in draw_predictions(draw, images, kind, [STRONG, STRONG]))
            estimate = estimate_mean(features.spc)
            chance = Chance(estimate.find_p(), estimate.find_p()) if estimate else None
            value = MeanScore(float(features.spc.mean()), float(features.mae.mean()), images=images, chance=chance)
            evidence.append(Evidence("H", value, find_difference(pixels.spc, features.spc, True), constant))
        claims += any(choose_claims(evidence))
    return {f"level_claim_{kind}_{images}": claims / sets}


def measure_rings(kind: str, images: int, sets: int) -> Figures:
    """Return cover of the intervals of SPC and MAE within rings, their mean over seven rings."""
    draw, side = np.random.default_rng(5), 2 * SIDE
    target, rings = make_target_map("H", side), cut_rings(side, RingWidths(7).find_edges(224))

    def score(count: int) -> tuple[np.ndarray, np.ndarray]:
        scores = score_rings(draw_predictions(draw, count, kind, [WEAK], side)[0], target, rings)
        return scores.spc, scores.mae

    truth = [np.nanmean(table, axis=0) for table in score(TRUTH // 2)]
    covered, sets = np.zeros(2), max(1, sets // 5)  # each is seven intervals
    for _ in range(sets):
        for number, table in enumerate(score(images)):
            covered[number] += np.mean([covers(estimate_mean(ring), t) for ring, t in zip(table.T, truth[number], strict=True)])
    return dict(zip((f"cover_rings_{name}_{kind}_{images}" for name in ("spc", "mae")), (covered / sets).tolist(), strict=True))


def measure_accuracies(images: int, sets: int) -> Figures:
    """Return level, power and cover of top-1 and of differences, of answers that are correlated."""
    draw, rates = np.random.default_rng(6), Figures()
    for name, second in (("same", 0.8), ("worse", 0.7)):
        counts = np.zeros(3)
        for _ in range(sets):
            both = draw.normal(size=images)
            latent = np.sqrt(0.9) * both + np.sqrt(0.1) * draw.normal(size=(2, images))
            correct = [
                (of_network < ndtri(share)).astype(float) for of_network, share in zip(latent, (0.8, second), strict=True)
            ]
            base, other = list_accuracies([Classified("plain", correct[0]), Classified("erased", correct[1])]).records
            counts += [
                other["p"] < LEVEL,
                other["difference_low"] <= second - 0.8 <= other["difference_high"],
                base["top1_low"] <= 0.8 <= base["top1_high"],
            ]
        p, difference, top1 = (counts / sets).tolist()
        rates |= {f"{'level' if name == 'same' else 'power'}_mcnemar_{images}": p}
        rates |= {f"cover_top1_difference_{name}_{images}": difference, f"cover_top1_{name}_{images}": top1}
    return rates


def measure_draws(images: int, sets: int) -> Figures:
    """Return level, power and cover of the comparison of an erasure's top-1 with five draws', on ten times the images.

    Top-1 of draws is normal about .6 with a deviation of .03, and some images are easier than others.
    """
    rates = Figures()
    for name, cost in (("0", 0.0), ("10", 0.1), ("20", 0.2)):
        draw, counts = np.random.default_rng(8), np.zeros(2)
        for _ in range(sets):
            shares = draw.normal(0.6, 0.03, 6) - cost * (np.arange(6) == 0) + draw.normal(0, 0.2, (10 * images, 1))
            right = (draw.random(shares.shape) < shares).astype(float)
            compared = compare_with_draws(right[:, 0], right[:, 1:])
            counts += [compared["p_draws"] < LEVEL, compared["from_draws_low"] <= -cost <= compared["from_draws_high"]]
        p, cover = (counts / sets).tolist()
        rates |= {f"power_draws_{name}_{images}" if cost else f"level_draws_{images}": p, f"cover_draws_{name}_{images}": cover}
    return rates


def measure_places(images: int, sets: int) -> Figures:
    """Return cover of the interval of an accuracy of pooled features: at chance, at a half, and near 1."""
    draw = np.random.default_rng(7)
    rates = Figures()
    for share in (0.11, 0.5, 0.95):
        bounds = [find_wilson_bounds(int(right), images) for right in draw.binomial(images, share, sets)]
        rates[f"cover_places_{round(100 * share)}_{images}"] = sum(low <= share <= high for low, high in bounds) / sets
    return rates
