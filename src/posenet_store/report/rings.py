"""Scores by rings of distance to the border, pooled over seeds, with their intervals over images and seeds."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from posenet_store.report.records import SETTINGS, get_fields, group_by, list_varying, name_network
from posenet_store.report.scores import LIMITS, Bounds, ScoreArchive
from posenet_store.report.significance import estimate_mean
from posenet_store.report.text_table import Entry, Listing, format_interval, format_number
from posenet_store.sweep.results import Result

ALWAYS = ("target", "network")


@dataclass(frozen=True)
class RingMean:
    """The mean scores in one ring: from `outer` to `inner` of the way from the edge to the centre.

    `distance` is that of its middle from the border, in pixels of the network's images. Images whose SPC is undefined there
    are counted and left out; a mean over none is None.
    """

    outer: float
    inner: float
    distance: float
    spc: float | None
    spc_bounds: Bounds
    mae: float | None
    mae_bounds: Bounds
    images: int
    undefined: int


def find_rings(results: Sequence[Result], archive: ScoreArchive) -> list[RingMean]:
    """Return the mean scores of cells that differ in their seeds, edge to centre; nothing if one lacks scores by ring."""
    scored = [scores for result in results if (scores := archive.rings(result.id)) is not None]
    if len(scored) < len(results) or len({scores.spc.shape for scores in scored}) != 1:
        return []
    rings, pixels = scored[0].rings, scored[0].pixels
    means = []
    for ring in range(rings):
        spc, mae = (
            np.stack([getattr(scores, name)[:, ring] for scores in scored], axis=1, dtype=np.float64) for name in LIMITS
        )
        (spc_mean, spc_bounds), (mae_mean, mae_bounds) = _estimate(spc, "spc"), _estimate(mae, "mae")
        undefined = int((~np.isfinite(spc)).any(axis=1).sum())
        middle = (ring + 0.5) / rings * pixels / 2
        means.append(
            RingMean(ring / rings, (ring + 1) / rings, middle, spc_mean, spc_bounds, mae_mean, mae_bounds, len(spc), undefined)
        )
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
            rows.append([*names, f"{100 * ring.outer:.0f}-{100 * ring.inner:.0f} %", spc, mae])
            records.append({name: fields[name] for name in (*ALWAYS, *varying)} | _flatten(ring))
    return Listing([*ALWAYS, *varying, "edge to centre", "SPC", "MAE"], rows, records)


def _flatten(ring: RingMean) -> dict[str, float | int | None]:
    """Return everything as flat names and numbers."""
    (spc_low, spc_high), (mae_low, mae_high) = ring.spc_bounds or (None, None), ring.mae_bounds or (None, None)
    facts: dict[str, float | int | None] = {"outer": ring.outer, "inner": ring.inner, "distance_pixels": ring.distance}
    facts |= {"spc": ring.spc, "spc_low": spc_low, "spc_high": spc_high, "mae": ring.mae, "mae_low": mae_low}
    return facts | {"mae_high": mae_high, "images": ring.images, "undefined": ring.undefined}
