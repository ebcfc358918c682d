"""The table of top-1 accuracies of a network and of the same network with something erased, on the same images."""

from collections.abc import Mapping

import numpy as np
from numpy import float64
from numpy.typing import NDArray

from posenet_store.report.significance import estimate_mean
from posenet_store.report.text_table import Entry, Listing, format_interval, format_number, format_p

REMARK = (
    "top-1 and its difference from the first row, with 95 % intervals over images (t). p: McNemar's exact test of the images "
    "on which the two networks differ."
)


def list_accuracies(correct: Mapping[str, NDArray[float64]]) -> Listing:
    """Return a row a network, by its label, from whether each image was right (1, 0, NaN for none); the first is compared."""
    base = next(iter(correct.values()))
    rows, records = list[list[Entry]](), []
    for label, of_images in correct.items():
        difference = None if of_images is base else of_images - base
        top1, changes = _summarise(of_images), None if difference is None else _summarise(difference)
        p = None if difference is None else find_mcnemar_p(int((difference > 0).sum()), int((difference < 0).sum()))
        entries = [(format_number(part[0]), format_interval(part[1])) if part else "" for part in (top1, changes)]
        rows.append([label, *entries, format_p(p)])
        record = {"network": label, "images": int(np.isfinite(of_images).sum())}
        for name, part in (("top1", top1), ("difference", changes)):
            value, bounds = part or (None, None)
            low, high = bounds or (None, None)
            record |= {name: value, f"{name}_low": low, f"{name}_high": high}
        records.append(record | {"p": p})
    return Listing(["network", "top-1", "difference", "p"], rows, records)


def _summarise(values: NDArray[float64]) -> tuple[float | None, tuple[float, float] | None]:
    """Return a mean over images with its interval, None where there is none."""
    known = values[np.isfinite(values)]
    estimate = estimate_mean(known)
    return (float(known.mean()) if len(known) else None), (estimate.find_bounds() if estimate else None)


def find_mcnemar_p(better: int, worse: int) -> float:
    """Return the two-sided exact p of so many images that only the one and only the other network had right.

    >>> find_mcnemar_p(0, 0), find_mcnemar_p(0, 5)
    (1.0, 0.0625)
    """
    from scipy.special import bdtr

    return min(1.0, 2 * float(bdtr(min(better, worse), better + worse, 0.5))) if better + worse else 1.0
