"""How often do the tests err, and how often do the intervals cover?

Smooth maps of known position are drawn many times, in sets of 30 and of 120 images, and what the page and the commands show is
computed from each set by the functions that they use.
A level is the share of the sets in which p is below .05 where there is nothing to find, power the same where there is
something, cover the share in which a 95 % interval holds the true value. Names end with the kind of maps, rough or smooth, and
the images.

level_spc_NAME           SPC of a target by heads that know nothing
level_holm_NAME          any of five targets, corrected by Holm's procedure
level_permuted_NAME      the same by Edgington's test of permuted positions, of which nothing is concluded
power_spc_NAME           SPC of H by a head that knows a little (`effect_spc_*` is its mean SPC)
cover_spc_NAME           interval of that SPC
cover_mae_NAME           interval of its MAE
level_seeds_NAME         SPC over images and three seeds, which differ by their noise (alike) or by their position too (apart)
cover_seeds_NAME         interval over images and three seeds
level_difference_NAME    difference in SPC of two heads on the same images
power_difference_NAME    the same where one knows twice as much (`effect_difference_*` is their true difference)
cover_difference_NAME    interval of the differences in SPC and MAE
level_claim_NAME         any claim on three targets that features know more than pixels, which know as much
cover_rings_NAME         intervals of SPC and MAE within rings, mean of seven rings
level_variance_NAME      no position in any channel
power_variance_NAME      the same where so small a share of the variance is position
cover_variance_NAME      interval of a stage's share of position
bias_variance_NAME       mean estimate of it minus the truth
cover_directions_NAME    interval of the share of the best direction, as it was fitted
level_erasure_NAME       change of SPC by an erasure of features without position
power_erasure_NAME       the same where a twentieth of the variance is position
cover_erasure_NAME       interval of the change
spc_before_erasure_NAME  mean SPC of H on new images
spc_after_erasure_NAME   the same after H and V were erased by what other images say, of heads that new images train
cover_folds_NAME         interval of a cross-validated error
cover_alone_NAME         interval of what a stage explains alone
cover_unique_NAME        interval of what it adds to all others
cover_shared_NAME        interval of the difference
level_unique_NAME        a stage without position seems to add some (one-sided: half of .05)
power_unique_NAME        a stage with as much position as another adds some
level_mcnemar_NAME       McNemar's test of two networks of top-1 .8 that agree on nine of ten images or more
power_mcnemar_NAME       the same if one has .7
cover_top1_NAME          intervals of top-1 and of differences
level_draws_NAME         the comparison with five random draws, of an erasure that is one more draw (ten times the images)
power_draws_NAME         the same of an erasure that costs .1 or .2 more of top-1
cover_draws_NAME         interval of that cost
cover_places_NAME        interval of an accuracy of pooled features: true accuracies .11, .5 and .95

    python benchmarks/inference.py [--sets 2000] [--json]
"""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from pathlib import Path

import inference_scores as scores
import inference_sums as sums
from command import Figures, report_step, run
from inference_maps import KINDS
from posenet_store.threads import count_cpus

SETS, SIZES = 1000, (30, 120)
OF_MAPS = (
    sums.measure_variance,
    scores.measure_spc_level,
    scores.measure_permuted,
    scores.measure_scores,
    scores.measure_seeds,
    scores.measure_differences,
    scores.measure_claims,
    scores.measure_rings,
    sums.measure_directions,
    sums.measure_erasure,
    sums.measure_folds,
    sums.measure_stages,
)
OF_COUNTS = (scores.measure_accuracies, scores.measure_draws, scores.measure_places)


def list_jobs(sets: int) -> dict[str, Callable[[], Figures]]:
    """Return what is simulated, by its name: the longest first, so that two processes end together."""
    jobs: dict[str, Callable[[], Figures]] = {}
    for images in sorted(SIZES, reverse=True):
        for measure in OF_MAPS:
            for kind in KINDS:
                jobs[f"{measure.__name__} {kind}, {images} images"] = partial(measure, kind, images, sets)
        jobs |= {f"{measure.__name__} {images} images": partial(measure, images, sets) for measure in OF_COUNTS}
    return jobs


def measure(images: int, root: Path, sets: str) -> tuple[Figures, Figures]:
    """Return all rates, and how many sets they are from."""
    count = int(sets or SETS)
    jobs, rates = list_jobs(count), Figures()
    with ProcessPoolExecutor(count_cpus()) as pool:
        futures = {pool.submit(job): name for name, job in jobs.items()}
        for number, future in enumerate(as_completed(futures), 1):
            report_step(f"{number} of {len(jobs)}: {futures[future].removeprefix('measure_')}")
            rates |= future.result()
    return dict(sorted(rates.items())), {"sets": float(count), "sets of solved heads": float(min(count, sums.SOLVED_SETS))}


if __name__ == "__main__":
    run(__doc__, max(SIZES), measure, sets=f"how many times maps are drawn; {SETS} by default")
