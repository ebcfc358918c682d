"""Compute the share of variance that is position, for every stage and channel of a store, from its kept sums."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from posenet_store.errors import UsageError
from posenet_store.heads.moments import Moments
from posenet_store.heads.position_directions import estimate_directions
from posenet_store.heads.position_variance import SpanMaps, estimate_position_shares
from posenet_store.heads.protocols import RidgeProtocol
from posenet_store.store.access import StoreFiles
from posenet_store.store.reader import Reader, open_store
from posenet_store.sweep.fit_ridge import NormalEquations
from posenet_store.sweep.grouping import MomentGroup
from posenet_store.sweep.inputs import FULL, Input, parse_input
from posenet_store.sweep.labels import Labels
from posenet_store.sweep.limits import Limits
from posenet_store.sweep.moment_cache import MomentCache
from posenet_store.sweep.training_inputs import TrainingInputs
from posenet_store.sweep.variance_results import StageVariance, StoreVariance

MIN_SPANS = 6
"""Spans of images that the estimates need: two halves of which one span can be left out."""
Show = Callable[[int, int], None]


def compute_variance(store: str | Path | Reader, keep_moments: bool = True, show: Show | None = None) -> StoreVariance:
    """Compute the shares of variance that are position in every stage of a store, on all its readable images.

    The sums that a sweep of 1x1 heads on all channels keeps are enough; what is not kept is summed in one scan, and kept in the
    folder `moments` beside a local store unless `keep_moments` is False. `show` gets the spans done and in all. Raises
    UsageError for a store without all channels or with too few images.
    """
    reader = store if isinstance(store, Reader) else open_store(store)
    stages, spans = list[StageVariance](), list[Moments]()
    for name, spans in load_tap_sums(reader, keep_moments, show):
        stages.append(_estimate_stage(name, spans))
    images = sum(moments.images for moments in spans)
    return StoreVariance(Labels.of(reader.spec), reader.name, images, len(spans), tuple(stages))


def load_tap_sums(reader: Reader, keep_moments: bool = True, show: Show | None = None) -> Iterator[tuple[str, list[Moments]]]:
    """Yield each tap with its sums over spans of a store's rows, which are kept, or summed in one scan.

    `show` gets the spans done and in all. Raises UsageError for a store without all channels or with too few images.
    """
    local = keep_moments and isinstance(reader.files, StoreFiles)
    folder = Path(str(reader.files)).parent / "moments" / reader.name if local else None
    cache = MomentCache(folder, reader.manifest["store_id"])
    for source in _list_sources(reader):
        spans = _load_sums(TrainingInputs(reader, source, reader.spec.rows), cache, show)
        yield from zip(source.arrays, map(list, zip(*spans, strict=True)), strict=True)


def _list_sources(reader: Reader) -> list[Input]:
    """Return all taps as one input, whose sums serve sweeps too, or one by one where they are too wide for sums of all."""
    source = parse_input(FULL, reader.spec)
    if Limits(memory=0).solves(source.channels, 1):
        return [source]
    return [parse_input(f"{FULL}:{tap.name}", reader.spec) for tap in reader.spec.taps]


def _load_sums(inputs: TrainingInputs, cache: MomentCache, show: Show | None) -> list[list[Moments]]:
    """Return the sums of every span that has images, an entry a tap; raises UsageError if there are too few."""
    group = MomentGroup((), None, inputs.source.channels, (1, 0))
    spans = [span for span in inputs.training.split() if inputs.count_images(span)]
    if len(spans) < MIN_SPANS:
        raise UsageError(f"{inputs.reader.name} has {inputs.images} readable images; position variance needs {MIN_SPANS}")
    sums, shift = list[list[Moments]](), None
    for _, (moments,) in NormalEquations((group,), RidgeProtocol()).sum_spans(inputs, spans, cache):
        shift = moments.shift if shift is None else shift
        sums.append(_split_taps(moments.shift_to(shift), inputs.source.widths))
        if show:
            show(len(sums), len(spans))
    return sums


def _split_taps(moments: Moments, widths: Sequence[int]) -> list[Moments]:
    """Return the moments of each tap's channels, with the sums of its maps."""
    rows = torch.arange(sum(widths)).split(list(widths))
    return [replace(moments.select(row), taps=(tap,)) for row, tap in zip(rows, moments.taps, strict=True)]


def _estimate_stage(name: str, spans: Sequence[Moments]) -> StageVariance:
    """Estimate what is said of a tap from its sums over spans of images."""
    maps = [moments.taps[0] for moments in spans]
    images = np.array([float(moments.images) for moments in spans])
    total, squares = (np.stack([getattr(tap, kind).numpy() for tap in maps]) for kind in ("total", "squares"))
    shares = estimate_position_shares(SpanMaps(images, total, squares))
    return StageVariance(
        name=name,
        size=(total.shape[2], total.shape[3]),
        live=int(shares.live.sum()),
        shares=shares.average(),
        channels=shares.of_channels(),
        directions=estimate_directions(spans),
        p=shares.find_p(),
    )
