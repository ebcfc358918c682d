"""The table of top-1 accuracies of a network and of the same network with something erased, on the same images."""

from collections.abc import Mapping

import numpy as np
from numpy import float64
from numpy.typing import NDArray

from posenet_store.heads.proportions import find_mcnemar_p, find_newcombe_bounds, find_wilson_bounds
from posenet_store.report.text_table import Entry, Listing, format_interval, format_number, format_p

REMARK = (
    "top-1 and its difference from the first row, with 95 % intervals over images (Wilson's, and Newcombe's of pairs). "
    "p: McNemar's exact test of the images on which the two networks differ."
)
Floats = NDArray[float64]
Share = tuple[float, tuple[float, float]] | None
"""A share of images, or a difference of two, with its interval; None without images."""


def list_accuracies(correct: Mapping[str, Floats]) -> Listing:
    """Return a row a network, by its label, from whether each image was right (1, 0, NaN for none); the first is compared."""
    base = next(iter(correct.values()))
    rows, records = list[list[Entry]](), []
    for label, of_images in correct.items():
        top1, difference, p = _find_top1(of_images), None, None
        if of_images is not base:
            difference, p = _compare(base, of_images)
        entries = [(format_number(part[0]), format_interval(part[1])) if part else "" for part in (top1, difference)]
        rows.append([label, *entries, format_p(p)])
        record = {"network": label, "images": int(np.isfinite(of_images).sum())}
        for name, part in (("top1", top1), ("difference", difference)):
            value, (low, high) = part or (None, (None, None))
            record |= {name: value, f"{name}_low": low, f"{name}_high": high}
        records.append(record | {"p": p})
    return Listing(["network", "top-1", "difference", "p"], rows, records)


def _find_top1(of_images: Floats) -> Share:
    """Return the share of images that were right."""
    known = of_images[np.isfinite(of_images)]
    return (float(known.mean()), find_wilson_bounds(int(known.sum()), len(known))) if len(known) else None


def _compare(first: Floats, second: Floats) -> tuple[Share, float | None]:
    """Return the second share minus the first, of images that both networks classified, and the p of no difference."""
    both = np.isfinite(first) & np.isfinite(second)
    if not both.any():
        return None, None
    before, after = first[both] == 1, second[both] == 1
    only = int((before & ~after).sum()), int((after & ~before).sum())
    bounds = find_newcombe_bounds(int((before & after).sum()), *only, int((~before & ~after).sum()))
    return (float(after.mean() - before.mean()), bounds), find_mcnemar_p(only[1], only[0])
