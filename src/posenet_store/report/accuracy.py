"""The table of top-1 accuracies of a network and of the same network with something erased, on the same images."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np
from numpy import float64
from numpy.typing import NDArray

from posenet_store.heads.proportions import find_mcnemar_p, find_newcombe_bounds, find_wilson_bounds
from posenet_store.report.records import group_by
from posenet_store.report.significance import LEVEL, estimate_mean
from posenet_store.report.text_table import Entry, Listing, format_interval, format_number, format_p

REMARK = (
    "top-1 and its difference from the first row, with 95 % intervals over images (Wilson's, and Newcombe's of pairs). "
    "p: McNemar's exact test of the images on which the two networks differ."
)
REMARK_ON_DRAWS = (
    " Mean of draws: random directions, as many at the same stages, with intervals and p over images and draws (t). From "
    "draws: the difference from that mean, with the p of being one more draw on these images (t)."
)
Floats = NDArray[float64]
Share = tuple[float, tuple[float, float] | None] | None
"""A share of images, or a difference of two, with its interval if there is one; None without images."""


@dataclass(frozen=True)
class Classified:
    """A network by its label, and whether each image was right: 1, 0, NaN for none.

    `erased`, `stages` and `dimensions` are what is erased where, and how much; nothing in the network as it is. Random
    directions are `drawn`.
    """

    label: str
    correct: Floats
    erased: str = ""
    stages: tuple[str, ...] = ()
    dimensions: tuple[int, ...] = ()
    drawn: bool = False


def list_accuracies(networks: Sequence[Classified]) -> Listing:
    """Return a row a network, compared with the first one, and a row for the mean of several random draws at the same stages.

    Other networks of which as much is erased at these stages are compared with that mean too.
    """
    base, drawn = networks[0].correct, [network for network in networks if network.drawn]
    groups = group_by(drawn, lambda network: (network.stages, network.dimensions))
    draws = {
        erased: np.stack([network.correct for network in group], axis=1) for erased, group in groups.items() if len(group) > 1
    }
    records = []
    for network in networks:
        table = None if network.drawn else draws.get((network.stages, network.dimensions))
        records.append(_describe_network(network, base) | ({} if table is None else compare_with_draws(network.correct, table)))
    records += [_describe_draws(stages, table, base) for (stages, _), table in draws.items()]
    numbers = ("top1", "difference", "p", *(("from_draws", "p_draws") if draws else ()))
    rows = [[str(record["network"]), *(_format(record, name) for name in numbers)] for record in records]
    return Listing(["network", "top-1", "difference", "p", *(("from draws", "p") if draws else ())], rows, records)


def _describe_network(network: Classified, base: Floats) -> dict[str, Any]:
    """Return the record of a network: its top-1, and the difference from the first network."""
    difference, p = (None, None) if network.correct is base else _compare(base, network.correct)
    record: dict[str, Any] = {"network": network.label, "erased": network.erased, "stages": "+".join(network.stages)}
    record["images"] = int(np.isfinite(network.correct).sum())
    return record | _name_bounds("top1", _find_top1(network.correct)) | _name_bounds("difference", difference) | {"p": p}


def _describe_draws(stages: Sequence[str], table: Floats, base: Floats) -> dict[str, Any]:
    """Return the record of the mean of random draws [images, draws]; `deviation` is that of top-1 between draws."""
    table, base = (values[np.isfinite(table).all(axis=1) & np.isfinite(base)] for values in (table, base))
    (images, count), top1, changes = table.shape, estimate_mean(table), estimate_mean(table - base[:, None])
    record: dict[str, Any] = {"network": f"mean of {count} draws, {'+'.join(stages)}"}
    record |= {"erased": "mean of draws", "stages": "+".join(stages), "images": images}
    for name, estimate, least in (("top1", top1, 0.0), ("difference", changes, -1.0)):
        record |= _name_bounds(name, (estimate.mean, _clip(estimate.find_bounds(), least)) if estimate else None)
    deviation = float(table.mean(axis=0).std(ddof=1)) if images else None
    return record | {"p": changes.find_p() if changes else None, "draws": count, "deviation": deviation}


def compare_with_draws(correct: Floats, table: Floats) -> dict[str, Any]:
    """Return the difference of a network from random draws [images, draws], and the p that it is one more draw.

    Student's t of one case and a sample (Crawford and Howell, The Clinical Neuropsychologist 12, 1998): the top-1 of the
    draws scatter as much as their directions do on these images, and so would that of one more draw.
    """
    from scipy.special import stdtr, stdtrit

    known, count = np.isfinite(correct) & np.isfinite(table).all(axis=1), table.shape[1]
    if not known.any():
        return {}
    tops = table[known].mean(axis=0)
    difference, scatter = float(correct[known].mean() - tops.mean()), float(tops.std(ddof=1)) * sqrt(1 + 1 / count)
    half = -float(stdtrit(count - 1, LEVEL / 2)) * scatter
    p = 2 * float(stdtr(count - 1, -abs(difference) / scatter)) if scatter else float(difference == 0)
    return _name_bounds("from_draws", (difference, _clip((difference - half, difference + half), -1.0))) | {"p_draws": p}


def _clip(bounds: tuple[float, float], least: float) -> tuple[float, float]:
    """Return the bounds of a share, from 0, or of a difference of two, from -1, as far as there can be one: up to 1."""
    return max(bounds[0], least), min(bounds[1], 1.0)


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


def _name_bounds(name: str, share: Share) -> dict[str, float | None]:
    """Return a share and its bounds by their names in a record."""
    value, bounds = share or (None, None)
    low, high = bounds or (None, None)
    return {name: value, f"{name}_low": low, f"{name}_high": high}


def _format(record: dict[str, Any], name: str) -> Entry:
    """Return a number of a record with its interval; nothing where there is none."""
    value, low, high = (record.get(key) for key in (name, f"{name}_low", f"{name}_high"))
    if name.startswith("p"):
        return format_p(value)
    bounds = None if low is None or high is None else (low, high)
    return "" if value is None else (format_number(value), format_interval(bounds))
