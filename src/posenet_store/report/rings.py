"""Scores by rings of distance to the border, pooled over seeds, with their intervals over images and seeds."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from posenet_store.report.records import SETTINGS, get_fields, group_by, list_varying, name_network
from posenet_store.report.scores import LIMITS, Bounds, ScoreArchive
from posenet_store.report.significance import estimate_mean
from posenet_store.report.text_table import Entry, Listing, format_interval, format_number
from posenet_store.sweep.labels import Labels
from posenet_store.sweep.results import Result

ALWAYS = ("target", "network")


@dataclass(frozen=True)
class RingMean:
    """The mean scores in one ring: from `outer` to `inner` pixels from the border, of `centre`, in the network's images.

    Images whose SPC is undefined there are counted and left out; a mean over none is None.
    """

    outer: float
    inner: float
    centre: float
    spc: float | None
    spc_bounds: Bounds
    mae: float | None
    mae_bounds: Bounds
    images: int
    undefined: int

    @property
    def distance(self) -> float:
        """The distance of the ring's middle to the border, in pixels."""
        return (self.outer + self.inner) / 2

    @property
    def way(self) -> tuple[float, float]:
        """The shares of the way from the edge to the centre between which the ring lies."""
        return self.outer / self.centre, self.inner / self.centre


def find_rings(results: Sequence[Result], archive: ScoreArchive) -> list[RingMean]:
    """Return the mean scores of cells that differ in their seeds, edge to centre; nothing if one lacks scores by ring."""
    scored = [scores for result in results if (scores := archive.rings(result.id)) is not None]
    if len(scored) < len(results) or len({(len(scores.spc), *scores.edges) for scores in scored}) != 1:
        return []
    edges = scored[0].edges.tolist()
    means = []
    for ring, (outer, inner) in enumerate(pairwise(edges)):
        spc, mae = (
            np.stack([getattr(scores, name)[:, ring] for scores in scored], axis=1, dtype=np.float64) for name in LIMITS
        )
        (spc_mean, spc_bounds), (mae_mean, mae_bounds) = _estimate(spc, "spc"), _estimate(mae, "mae")
        undefined = int((~np.isfinite(spc)).any(axis=1).sum())
        means.append(RingMean(outer, inner, edges[-1], spc_mean, spc_bounds, mae_mean, mae_bounds, len(spc), undefined))
    return means


def _estimate(table: NDArray[np.float64], score: str) -> tuple[float | None, Bounds]:
    """Return the mean of scores [images, seeds] over what is defined, and its 95 % interval within the score's limits."""
    if not np.isfinite(table).any():
        return None, None
    mean, estimate = float(np.nanmean(table)), estimate_mean(table)
    if estimate is None:
        return mean, None
    (low, high), (least, most) = estimate.find_bounds(), LIMITS[score]
    return mean, (max(low, least), min(high, most))


def name_at_any_size(labels: Labels, pixels: int) -> str:
    """Return a network's name for people without the side of its images, which is not always in it.

    >>> labels = Labels("vgg16-random0-448px-padding-none", "vgg16", "photos", "random", "none", "4417", "aab3")
    >>> name_at_any_size(labels, 448)
    'vgg16-random0 (untrained, no padding)'
    """
    return name_network(replace(labels, network=labels.network.replace(f"-{pixels}px", "", 1)))


def group_seeds(results: Sequence[Result]) -> Iterator[list[Result]]:
    """Yield results that differ in their seeds only, in groups."""
    yield from group_by(results, lambda result: tuple((get_fields(result) | {"seed": None}).values())).values()


def list_rings(results: Sequence[Result], archive: ScoreArchive) -> Listing:
    """Return a row for each ring of each head, seeds pooled; a field is a column where it varies."""
    varying = (
        [name for name in list_varying(results) if name not in (*ALWAYS, "seed", "held_out", *SETTINGS)] if results else []
    )
    rows: list[list[Entry]] = []
    records = []
    for group in group_seeds(results):
        fields = get_fields(group[0])
        for ring in find_rings(group, archive):
            names = [group[0].cell.target, name_network(group[0].labels), *(str(fields[name]) for name in varying)]
            spc = (format_number(ring.spc), format_interval(ring.spc_bounds))
            mae = (format_number(ring.mae), format_interval(ring.mae_bounds))
            way = "-".join(f"{100 * share:.0f}" for share in ring.way)
            rows.append([*names, f"{way} %", f"{ring.outer:.0f}-{ring.inner:.0f}", spc, mae])
            records.append({name: fields[name] for name in (*ALWAYS, *varying)} | _flatten(ring))
    return Listing([*ALWAYS, *varying, "edge to centre", "pixels", "SPC", "MAE"], rows, records)


def _flatten(ring: RingMean) -> dict[str, float | int | None]:
    """Return everything as flat names and numbers."""
    (spc_low, spc_high), (mae_low, mae_high) = ring.spc_bounds or (None, None), ring.mae_bounds or (None, None)
    facts: dict[str, float | int | None] = dict(zip(("outer", "inner"), ring.way, strict=True))
    facts |= {"outer_pixels": ring.outer, "inner_pixels": ring.inner}
    facts |= {"spc": ring.spc, "spc_low": spc_low, "spc_high": spc_high, "mae": ring.mae, "mae_low": mae_low}
    return facts | {"mae_high": mae_high, "images": ring.images, "undefined": ring.undefined}
