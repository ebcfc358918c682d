"""Is the order in which a store is read as good as a full shuffle? Batch statistics, and the heads that come out.

A store with 32 blocks of eight images (dead leaves through VGG-16, HED's weights), read in pools of one, two and four
blocks, against drawing every epoch's rows from all of them.

batch_variance_N  variance of a batch's mean feature over that of a full shuffle, pools of N blocks: 1 is as good
spc_gap_N         difference of the mean held-out SPC of H (report's recipe, 8 seeds of head and order) from a full
                  shuffle's, in standard deviations over the seeds: below 1 is within the spread

    python benchmarks/shuffle.py [--images 256] [--json]
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from command import report_step, run
from posenet_store.backbones.load import load_backbone
from posenet_store.extraction.build import build_store, plan_store
from posenet_store.heads.moments import compute_image_moments
from posenet_store.heads.protocols import GradientProtocol
from posenet_store.heads.targets import make_target_map
from posenet_store.heads.train_convolution import TrainingGroup
from posenet_store.heads.train_gram import train_in_gram_space
from posenet_store.images.sources import load_image_set
from posenet_store.specs import BackboneSpec
from posenet_store.store.batching import draw_epoch_pools
from posenet_store.store.reader import Reader, open_store
from posenet_store.sweep.inputs import parse_input
from posenet_store.sweep.score import Scorable, read_inputs, score_heads

BLOCK_ROWS, SEEDS, POOLS = 8, 8, (1, 2, 4)
PROTOCOL = GradientProtocol(min_steps=4000)
Order = Callable[[int, int], NDArray[np.int64]]


def make_orders(reader: Reader, rows: int) -> dict[str, Order]:
    """The order of (seed, epoch): of a full shuffle, and of pools of N blocks."""

    def pooled(blocks: int) -> Order:
        def order(seed: int, epoch: int) -> NDArray[np.int64]:
            pools = draw_epoch_pools(reader.bounds, reader.readable, (0, rows), blocks * BLOCK_ROWS, seed, epoch)
            return np.concatenate(pools)

        return order

    full: Order = lambda seed, epoch: np.random.default_rng([seed, epoch]).permutation(rows)  # noqa: E731
    return {"full": full} | {str(blocks): pooled(blocks) for blocks in POOLS}


def compute_batch_variance(order: Order, means: NDArray[np.float64]) -> float:
    """Variance of the mean feature of a batch, over the batches of 200 epochs."""
    drawn = [means[order(0, epoch)] for epoch in range(200)]
    size = PROTOCOL.batch_size
    return float(np.var([values[first : first + size].mean() for values in drawn for first in range(0, len(values), size)]))


def measure(images: int, root: Path) -> tuple[dict[str, float], dict[str, float]]:
    """Return ratios, and the scores behind them."""
    source, backbone = (
        load_image_set(f"synthetic:dead-leaves?n={images}"),
        load_backbone(BackboneSpec("vgg16", "hed", device="cpu")),
    )
    plan = plan_store(source, backbone, "aligned", "float32", block_rows=BLOCK_ROWS)
    report_step("build")
    reader = open_store(build_store(source, backbone, plan, root).path)
    rows = 3 * images // 4
    features, goal = parse_input("aligned", reader.spec), make_target_map("H", 26)
    targets = torch.from_numpy(goal.copy())[None]
    blocks = list(read_inputs(reader, features, 0, rows))
    moments = compute_image_moments(blocks, rows, 3, 0, targets)
    means = torch.cat(blocks).double().mean(dim=(1, 2, 3)).numpy()
    variances: dict[str, float] = {}
    scores: dict[str, list[float]] = {}
    for name, order in make_orders(reader, rows).items():
        report_step(f"{name} blocks a pool")
        variances[name] = compute_batch_variance(order, means)
        scores[name] = []
        for seed in range(SEEDS):

            def batches(epoch: int, order: Order = order, seed: int = seed) -> list[NDArray[np.int64]]:
                drawn = order(seed, epoch)
                return [drawn[first : first + PROTOCOL.batch_size] for first in range(0, rows, PROTOCOL.batch_size)]

            heads = train_in_gram_space(moments, batches, features.channels, TrainingGroup(3, 0, PROTOCOL, (seed,), targets))
            held_out = read_inputs(reader, features, rows, images)
            scores[name].append(float(np.nanmean(score_heads(held_out, [Scorable(heads, [goal])])[0][0].scores.spc)))
    spread = float(np.std(scores["full"], ddof=1))
    ratios = {f"batch_variance_{n}": variances[str(n)] / variances["full"] for n in POOLS}
    ratios |= {f"spc_gap_{n}": abs(float(np.mean(scores[str(n)]) - np.mean(scores["full"]))) / spread for n in POOLS}
    return ratios, {"SPC, full shuffle": float(np.mean(scores["full"])), "its spread over seeds": spread}


if __name__ == "__main__":
    run(__doc__, 256, measure)
