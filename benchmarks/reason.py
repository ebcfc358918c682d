"""The measured reason to exist: heads on a frozen VGG-16, with the backbone run for each of them, or once.

Three ways to do the same work in one run, on the same images and with the same batches: five heads (one a target), 15
epochs, batch 4, the report's recipe.

recompute        the official code's way: each head runs the network in each epoch, 75 passes
recompute_fused  the best way without a store: all heads share a pass an epoch, 15 passes
store            ours: build the store (1 pass), then train the five heads from it

    python benchmarks/reason.py [--images 8] [--json]
"""

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from command import report_step, run
from posenet_store.backbones.backbone import Backbone
from posenet_store.backbones.load import load_backbone
from posenet_store.extraction.build import build_store, plan_store
from posenet_store.heads.model import Heads
from posenet_store.heads.moments import compute_image_moments
from posenet_store.heads.protocols import GradientProtocol
from posenet_store.heads.targets import TARGETS, make_target_map
from posenet_store.heads.train_convolution import TrainingGroup, train_by_convolution
from posenet_store.heads.train_gram import train_in_gram_space
from posenet_store.images.image_set import ImageSet
from posenet_store.images.sources import load_image_set
from posenet_store.resampling import align_taps
from posenet_store.specs import BackboneSpec
from posenet_store.store.reader import Reader, open_store
from posenet_store.sweep.inputs import parse_input
from posenet_store.sweep.score import read_inputs

PROTOCOL = GradientProtocol()


def order(reader: Reader, epoch: int) -> list[np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """The batches of an epoch, as rows of the store: the same for all three ways."""
    rows = np.concatenate(reader.epoch(["aligned"], 0, reader.spec.rows, seed=0, epoch=epoch))
    return [rows[first : first + PROTOCOL.batch_size] for first in range(0, len(rows), PROTOCOL.batch_size)]


def forward(backbone: Backbone, images: ImageSet, reader: Reader, epoch: int) -> Iterator[Tensor]:
    """Decode and run the network batch by batch, as a training without a store does."""
    for rows in order(reader, epoch):
        pixels = np.stack([images.read(reader.plan.order[row], 224) for row in rows])
        taps = backbone.features(torch.from_numpy(pixels))
        yield align_taps([taps[tap.name] for tap in backbone.taps])


def group(names: tuple[str, ...]) -> TrainingGroup:
    """One head a target, seed 0."""
    return TrainingGroup(
        3, 0, PROTOCOL, (0,) * len(names), torch.stack([torch.from_numpy(make_target_map(n, 26).copy()) for n in names])
    )


def from_store(reader: Reader) -> Heads:
    """Read the store once and train the five heads."""
    heads = group(TARGETS)
    blocks = read_inputs(reader, parse_input("aligned", reader.spec), 0, reader.spec.rows)
    moments = compute_image_moments(blocks, reader.spec.rows, 3, 0, heads.targets)
    return train_in_gram_space(moments, lambda epoch: order(reader, epoch), 15, heads)


def measured(count: int, root: Path) -> tuple[dict[str, float], dict[str, float]]:
    """Run all three and return ratios and seconds; raises AssertionError if their heads differ."""
    images = load_image_set(f"synthetic:dead-leaves?n={count}")
    backbone = load_backbone(BackboneSpec("vgg16", "hed", device="cpu"))
    backbone.features(torch.zeros(4, 224, 224, 3, dtype=torch.uint8))
    report_step("the store, and heads from it")
    began = time.perf_counter()
    reader = open_store(
        build_store(images, backbone, plan_store(images, backbone, "aligned", "float32"), root, batch_size=4).path
    )
    built = time.perf_counter()
    ours = from_store(reader)
    swept = time.perf_counter()
    epochs = PROTOCOL.epochs
    report_step("the network once an epoch")
    (fused,) = train_by_convolution(lambda e: forward(backbone, images, reader, e), epochs, 15, [group(TARGETS)])
    shared = time.perf_counter()
    report_step("the network in every epoch of every head")
    for name in TARGETS:
        train_by_convolution(lambda e: forward(backbone, images, reader, e), epochs, 15, [group((name,))])
    ended = time.perf_counter()
    # Batches of other images round differently in the network; 15 epochs of Adam amplify it a little.
    torch.testing.assert_close(ours.weight, fused.weight, rtol=1e-3, atol=1e-6)
    seconds = {"build": built - began, "sweep": swept - built, "recompute_fused": shared - swept, "recompute": ended - shared}
    first, later = seconds["build"] + seconds["sweep"], seconds["sweep"]
    ratios = {
        "recompute_vs_first_sweep": seconds["recompute"] / first,
        "recompute_vs_later_sweep": seconds["recompute"] / later,
        "recompute_fused_vs_first_sweep": seconds["recompute_fused"] / first,
        "recompute_fused_vs_later_sweep": seconds["recompute_fused"] / later,
    }
    return ratios, {f"seconds, {name}": value for name, value in seconds.items()}


if __name__ == "__main__":
    run(__doc__, 8, measured)
