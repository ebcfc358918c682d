"""What each stage explains of a target alone, what it adds to all others, and what it shares, with intervals over images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from posenet_store.report.records import group_alike_inputs, group_by, name_network, order_stage
from posenet_store.report.scores import Bounds, ScoreArchive
from posenet_store.report.significance import estimate_mean
from posenet_store.report.text_table import Entry, Listing, format_interval, format_number
from posenet_store.sweep.cell import HELD_OUT
from posenet_store.sweep.results import Result

Taps = frozenset[str]
"""The stages that a head reads; the empty set is all of them."""
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Share:
    """A share of a target's variance: its mean over held-out images, and its 95 % interval, None from a single image."""

    value: float
    bounds: Bounds


@dataclass(frozen=True)
class StageShares:
    """What a stage explains `alone`, its `unique` share (all stages minus all but it), and the difference, which is `shared`.

    Each is a difference between heads on the same `images`, so that it has one interval over images.
    """

    alone: Share
    unique: Share
    shared: Share
    images: int


def split_shares(explained: Mapping[Taps, Floats]) -> dict[str, StageShares]:
    """Return the shares of each stage, from what heads that read some stages explain of each held-out image, [n] each.

    Only stages with a head on them alone, and one on all stages but them, have shares; images that a head has no finite map of
    are left out.

    >>> of_images = {frozenset(): [0.75, 0.5], frozenset({"f1"}): [0.25, 0.25], frozenset({"f2"}): [0.5, 0.25]}
    >>> shares = split_shares({taps: np.array(values) for taps, values in of_images.items()})
    >>> {stage: (share.alone.value, share.unique.value) for stage, share in shares.items()}
    {'f1': (0.25, 0.25), 'f2': (0.375, 0.375)}
    """
    stages = list_split_stages(explained)
    shares = {}
    for stage in stages:
        alone = explained[frozenset({stage})]
        unique = explained[frozenset()] - explained[_leave_out(stage, explained)]
        known = np.isfinite(alone) & np.isfinite(unique)
        if known.any():
            alone, unique = alone[known], unique[known]
            shares[stage] = StageShares(_estimate(alone), _estimate(unique), _estimate(alone - unique), len(alone))
    return shares


def list_split_stages(inputs: Mapping[Taps, object]) -> list[str]:
    """Return the stages that are read alone, where all stages are read with and without them."""
    singles = {stage for taps in inputs if len(taps) == 1 for stage in taps}
    known = [stage for stage in singles if frozenset() in inputs and _leave_out(stage, inputs) in inputs]
    return sorted(known, key=order_stage)


def _leave_out(stage: str, inputs: Mapping[Taps, object]) -> Taps:
    """Return all single stages but one."""
    return frozenset(name for taps in inputs if len(taps) == 1 for name in taps) - {stage}


def _estimate(values: Floats) -> Share:
    estimate = estimate_mean(values)
    return Share(float(values.mean()), estimate.find_bounds() if estimate else None)


def find_stage_shares(results: Sequence[Result], archive: ScoreArchive) -> dict[tuple[str, str], dict[str, StageShares]]:
    """Return (target, network) -> stage -> shares, of exact heads: those with a penalty a stage come first."""
    exact = [r for r in results if r.cell.protocol.name == "ridge" and HELD_OUT in r.scores and not r.fit.get("erased")]
    groups = group_alike_inputs(exact, "input")
    for group in sorted(groups, key=lambda group: not vars(group[0].cell.protocol)["bands"]):
        shares = {}
        for key, heads in group_by(group, _find_key).items():
            by_taps = {frozenset(filter(None, head.cell.input.partition(":")[2].split("+"))): head for head in heads}
            if list_split_stages(by_taps):
                read = {taps: archive.array(head.id, f"explained/{HELD_OUT}") for taps, head in by_taps.items()}
                if of_stages := split_shares({taps: array for taps, array in read.items() if array is not None}):
                    shares[key[:2]] = of_stages
        if shares:
            return shares
    return {}


def _find_key(result: Result) -> tuple[str, str, str]:
    """Return target, network, and the held-out images."""
    return result.cell.target, name_network(result.labels), result.scores[HELD_OUT].images_sha256


def list_stage_shares(results: Sequence[Result], archive: ScoreArchive) -> Listing:
    """Return a row a target, network and stage."""
    rows, records = list[list[Entry]](), []
    for (target, network), of_stages in find_stage_shares(results, archive).items():
        for stage, shares in of_stages.items():
            parts = {"alone": shares.alone, "unique": shares.unique, "shared": shares.shared}
            entries = [(format_number(share.value), format_interval(share.bounds)) for share in parts.values()]
            rows.append([target, network, stage, *entries])
            record: dict[str, str | int | float | None] = {"target": target, "network": network, "stage": stage}
            for name, share in parts.items():
                low, high = share.bounds or (None, None)
                record |= {name: share.value, f"{name}_low": low, f"{name}_high": high}
            records.append(record | {"images": shares.images})
    return Listing(["target", "network", "stage", "alone", "unique", "shared"], rows, records)
