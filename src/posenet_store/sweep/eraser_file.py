"""Write what erases targets from the features of stages inside the running network, from the kept sums of a store."""

import json
from collections.abc import Sequence
from functools import reduce
from operator import add
from pathlib import Path

import torch
from safetensors.torch import save

from posenet_store.errors import unknown
from posenet_store.files import write_atomic
from posenet_store.heads.erasure import Eraser, draw_eraser, fit_eraser
from posenet_store.heads.targets import make_target_map
from posenet_store.specs import GRID
from posenet_store.store.reader import open_store
from posenet_store.sweep.variance import Show, load_tap_sums
from posenet_store.threads import limit_to_one_thread

TARGETS = ("H", "V")


def write_eraser(
    store: str | Path,
    out: Path,
    targets: Sequence[str] = TARGETS,
    stages: Sequence[str] = (),
    *,
    seed: int | None = None,
    keep_moments: bool = True,
    show: Show | None = None,
) -> dict[str, int]:
    """Write the eraser of targets at some stages of a store's network, by default all; return the erased dimensions by stage.

    Each stage's is fitted on the features of all images as they are stored. With a `seed` as many random directions are
    erased instead: the control. Raises UsageError for an unknown stage or target, and a store without all channels.
    """
    reader = open_store(store)
    names = [tap.name for tap in reader.spec.taps]
    for stage in stages:
        if stage not in names:
            raise unknown(f"stage of {reader.name}", stage, names)
    maps = [torch.from_numpy(make_target_map(target, GRID).copy()) for target in targets]
    erasers: dict[str, Eraser] = {}
    for name, spans in load_tap_sums(reader, keep_moments, show):
        if not stages or name in stages:
            with limit_to_one_thread():
                total = reduce(add, spans)
                fitted = fit_eraser(total, maps)
                erasers[name] = fitted if seed is None else draw_eraser(total, fitted.rank, seed)
    tensors = {f"{name}.{part}": value.contiguous() for name, eraser in erasers.items() for part, value in vars(eraser).items()}
    metadata = {
        "modules": json.dumps({tap.name: tap.module for tap in reader.spec.taps if tap.name in erasers}),
        "targets": json.dumps(list(targets) if seed is None else [f"random{seed}"]),
        "backbone": reader.spec.backbone,
        "weights_sha256": reader.spec.weights_sha256,
    }
    write_atomic(out, save(tensors, metadata))
    return {name: eraser.rank for name, eraser in erasers.items()}
