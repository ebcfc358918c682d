"""The table of position variance: a row a stage or a channel, for people and for programs."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from posenet_store.heads.position_variance import SHARES, Estimates
from posenet_store.report.records import name_network
from posenet_store.report.significance import correct_holm
from posenet_store.report.text_table import Entry, Listing, format_interval, format_number, format_p, join_entry
from posenet_store.sweep.variance_results import StageVariance, StoreVariance

REMARK = (
    "position: mean share of the channels' variance that is position, without bias [95 % interval over images]; of it x and y "
    "(which side), |x| and |y| (how far from the middle), and the rest. directions: independent ones with more than a tenth "
    "[if all had their lower, or upper, bounds]."
)


def _split_share(estimates: Estimates, *index: int) -> tuple[float | None, tuple[float, float] | None]:
    """Return a share and its interval within 0 and 1, None for NaN."""
    value, low, high = (float(bound[index]) for bound in (estimates.value, estimates.low, estimates.high))
    return (None, None) if np.isnan(value) else (value, (min(max(low, 0.0), 1.0), min(max(high, 0.0), 1.0)))


def _format_shares(estimates: Estimates, *index: int) -> list[Entry]:
    """Return an entry a share, the first with its interval."""
    value, bounds = _split_share(estimates, *index, 0)
    parts: list[Entry] = [(format_number(_split_share(estimates, *index, part)[0]),) for part in range(1, len(SHARES))]
    return [(format_number(value), format_interval(bounds)), *parts]


def _record_shares(estimates: Estimates, *index: int) -> dict[str, float | None]:
    """Return the shares and their bounds by name."""
    record: dict[str, float | None] = {}
    for number, name in enumerate(SHARES):
        value, bounds = _split_share(estimates, *index, number)
        low, high = bounds or (None, None)
        record |= {name: value, f"{name}_low": low, f"{name}_high": high}
    return record


def format_share(stage: StageVariance) -> str:
    """Return a stage's share of position with its interval."""
    return join_entry(_format_shares(stage.shares)[0])


def describe_store(variance: StoreVariance) -> str:
    """Return a table's title: the network, the images, and the largest p of no position, corrected for the stages."""
    p = max(correct_holm([stage.p for stage in variance.stages]))
    title = f"{name_network(variance.labels)} on {variance.labels.images}: {variance.images} images"
    return f"{title}; p of no position {'' if p < 0.0001 else 'up to '}{format_p(p)}"


def _format_stage(stage: StageVariance) -> list[Entry]:
    count, low, high = stage.count_directions()
    return [stage.name, "x".join(map(str, stage.size)), *_format_shares(stage.shares), (str(count), f"[{low}, {high}]")]


def _list_records(variances: Sequence[StoreVariance]) -> Iterator[dict[str, Any]]:
    corrected = iter(correct_holm([stage.p for variance in variances for stage in variance.stages]))
    for variance in variances:
        about = {"network": variance.labels.network, "images": variance.labels.images, "count": variance.images}
        for stage in variance.stages:
            size = {"height": stage.size[0], "width": stage.size[1], "channels": len(stage.channels.value), "live": stage.live}
            directions = zip(("", "_low", "_high"), stage.count_directions(), strict=True)
            yield {
                **about,
                "stage": stage.name,
                **size,
                **_record_shares(stage.shares),
                **{f"directions{suffix}": count for suffix, count in directions},
                "p": stage.p,
                "p_corrected": next(corrected),
            }


def list_stages(variances: Sequence[StoreVariance]) -> Listing:
    """Return the table of stages; of several stores the first column is the network."""
    head = ["network", "stage", "size", *SHARES, "directions"]
    rows = [[name_network(variance.labels), *_format_stage(stage)] for variance in variances for stage in variance.stages]
    first = 1 if len(variances) == 1 else 0
    return Listing(head[first:], [row[first:] for row in rows], list(_list_records(variances)))


def list_channels(variances: Sequence[StoreVariance]) -> Listing:
    """Return the table of channels, of each stage the largest share first."""
    rows, records = list[list[Entry]](), list[dict[str, Any]]()
    for variance in variances:
        for stage in variance.stages:
            about = {"network": variance.labels.network, "images": variance.labels.images, "stage": stage.name}
            for channel in np.argsort(-stage.channels.value[:, 0], kind="stable").tolist():
                records.append(about | {"channel": channel} | _record_shares(stage.channels, channel))
                rows.append([f"{stage.name}:{channel}", *_format_shares(stage.channels, channel)])
    return Listing(["channel", *SHARES], rows, records)
