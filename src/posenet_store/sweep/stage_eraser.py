"""Fit what erases targets from the features of one stage, from the kept sums of a store."""

from collections.abc import Sequence
from functools import reduce
from operator import add

from posenet_store.backbones.erasing import ErasedNetwork, Erasers
from posenet_store.errors import unknown
from posenet_store.heads.erasure import fit_or_draw_eraser, seed_draw
from posenet_store.store.reader import Reader
from posenet_store.sweep.variance import Show, load_tap_sums


def fit_stage_eraser(
    reader: Reader,
    stage: str,
    targets: Sequence[str],
    seed: int | None = None,
    *,
    keep_moments: bool = True,
    show: Show | None = None,
) -> Erasers:
    """Return what erases targets at a stage, fitted on the features of all images of a store as they are stored.

    With a `seed` as many random directions are erased instead: the control. Raises UsageError for a stage or target that does
    not exist, and a store without all channels.
    """
    modules = {tap.name: tap.module for tap in reader.spec.taps}
    if stage not in modules:
        raise unknown(f"stage of {reader.name}", stage, modules)
    spans = next(spans for name, spans in load_tap_sums(reader, keep_moments, show) if name == stage)
    eraser = fit_or_draw_eraser(reduce(add, spans), targets, seed_draw(seed))
    return Erasers({stage: modules[stage]}, {stage: vars(eraser)}, ErasedNetwork.of(reader.spec), tuple(targets), seed)
