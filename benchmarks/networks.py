"""How fast a CNN of timm runs once it is prepared for a build, beside timm's own, of which it is a copy.

Batches of 8 images of 224x224 pixels in memory, random weights, float32; both networks stop behind the last stage, use channels
last, and take turns. Preparation folds batch normalisation into the convolutions; how far the results differ by that is
printed, too, as a share of the greatest value.

prepared_vs_timm_NAME   passes/s of the prepared network : of timm's own (the best of all rounds)

    python benchmarks/networks.py [--images 8] [--json]
"""

import time
from copy import deepcopy
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor

from command import report_step, run
from posenet_store.backbones.inference import prepare_network

NAMES = ("tf_efficientnet_lite0", "mobilenetv3_large_100", "resnet50", "regnety_004")
ROUNDS = 12


def time_pass(network: Any, images: Tensor) -> float:
    """Return the seconds of one pass."""
    began = time.perf_counter()
    network.forward_features(images)
    return time.perf_counter() - began


@torch.inference_mode()
def measured(count: int, _: Path) -> tuple[dict[str, float], dict[str, float]]:
    """Return ratios, and the greatest difference of the last stage as a share of its greatest value."""
    ratios, figures = {}, {}
    images = torch.randn(count, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    images = images.to(memory_format=torch.channels_last)
    for name in NAMES:
        report_step(name)
        torch.manual_seed(0)
        plain: Any = timm.create_model(name).eval().to(memory_format=torch.channels_last)
        prepared: Any = prepare_network(deepcopy(plain), [], "float32")
        expected = plain.forward_features(images)
        error = (prepared.forward_features(images) - expected).abs().max() / expected.abs().max()
        figures[f"difference in millionths, {name}"] = 1e6 * float(error)
        times = [(time_pass(prepared, images), time_pass(plain, images)) for _ in range(ROUNDS)]
        ratios[f"prepared_vs_timm_{name}"] = min(own for _, own in times) / min(ours for ours, _ in times)
    return ratios, figures


if __name__ == "__main__":
    run(__doc__, 8, measured)
