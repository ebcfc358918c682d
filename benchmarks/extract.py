"""How fast a store is built, beside the network alone and beside the report's extractor.

JPEG files in (500x400, dead leaves), sealed store out: native layout, zstd, float16. VGG-16 has HED's weights; ResNet-152 is
random, its batch statistics calibrated so that features are of a trained network's size.

build_vs_forward_vgg16      images/s of the build : of the bare eager forward pass of torchvision's network, convolutions only,
build_vs_forward_resnet152  same precision and batch, on pixels that are in memory (of three rounds the median)
build_vs_report             images/s of the ResNet-152 build : of the report's extractor as published: five passes, one a
                            prefix, a batch of one image, gradients recorded (features are compared and must agree)
build_vs_prefixes           the same, with the extractor spared the recording of gradients
bf16_vs_fp32                images/s of the VGG-16 build in bfloat16 : in float32
bf16_error                  root of the mean square of what that changes in the deepest tap : of the tap (features in float16)
outside_forward_share       processor time of the VGG-16 build with the pass replaced by its result : of the build (a share)
parts2_identical            1 if two parts in two processes make the same sealed store, byte for byte, as one
flat_memory                 peak memory of a build of 256 images : of 128
memory_vs_plan              peak memory of that build : what --plan says
simulated_gpu_*             a GPU of 5,000 images/s (a sleep, then VGG-16's features): images/s of the build on one core and on
                            two, the share of the processors that was busy, and the stage that binds

    python benchmarks/extract.py [--images 128] [--json]
"""

import multiprocessing
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from PIL import Image
from torch import Tensor, nn

from command import Figures, report_step, run
from posenet_store.backbones.backbone import Backbone
from posenet_store.backbones.load import load_backbone
from posenet_store.backbones.weights import load_weights
from posenet_store.extraction.build import BuildResult, build_store, plan_store
from posenet_store.extraction.plan import estimate_build
from posenet_store.files import sha256_file
from posenet_store.images.image_set import ImageSet
from posenet_store.images.sources import load_image_set
from posenet_store.images.synthetic import draw_dead_leaves
from posenet_store.resampling import resample_taps
from posenet_store.specs import BackboneSpec
from posenet_store.store.reader import open_store
from posenet_store.threads import count_cpus, limit_torch_to_one_thread

BATCH = 16
ROUNDS = 3
RATE = 5000


def photographs(folder: Path, count: int) -> Path:
    """Write `count` JPEG files: four dead-leaves images side by side, cut to 500x400."""
    folder.mkdir()
    leaves = [draw_dead_leaves(0, number) for number in range(64)]
    rng = np.random.default_rng(0)
    for number in range(count):
        a, b, c, d = (leaves[place] for place in rng.choice(len(leaves), 4, replace=False))
        Image.fromarray(np.block([[[a], [b]], [[c], [d]]])[:400, :500]).save(folder / f"{number:04d}.jpg", quality=90)
    return folder


def calibrated(path: Path, pixels: Tensor) -> str:
    """Write a random ResNet-152 whose batch normalisation knows the statistics of `pixels` float32 [B, 3, S, S]."""
    torch.manual_seed(0)
    module = torchvision.models.resnet152(weights=None)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = None  # the mean over all that it sees
        if isinstance(part, torchvision.models.resnet.Bottleneck):
            nn.init.constant_(part.bn3.weight, 0.2)  # as in trained networks, a block adds little to what it is given
    with torch.no_grad():
        module.train()(pixels)
    torch.save(module.state_dict(), path)
    return str(path)


def bare(name: str, weights: str) -> nn.Module:
    """torchvision's network up to the last tap, nothing of ours."""
    module: nn.Module = torchvision.models.get_model(name, weights=None)
    module.load_state_dict(dict(load_weights(weights, name).state or {}), strict=False)
    return module.eval().features if name == "vgg16" else nn.Sequential(*list(module.eval().children())[:-2])  # type: ignore[return-value]


@torch.inference_mode()
def forward_rate(module: nn.Module, count: int) -> float:
    """Images/s of the bare pass."""
    pixels = torch.randn(BATCH, 3, 224, 224)
    module(pixels)
    began = time.perf_counter()
    passes = max(1, count // BATCH)
    for _ in range(passes):
        module(pixels)
    return passes * BATCH / (time.perf_counter() - began)


def built(images: ImageSet, backbone: Backbone, root: Path, **options: Any) -> BuildResult:
    """Build a store as the command does."""
    return build_store(images, backbone, plan_store(images, backbone, "native", "float16"), root, batch_size=BATCH, **options)


def beside(name: str, weights: str, images: ImageSet, root: Path) -> tuple[BuildResult, float]:
    """Build three times, each between two runs of the bare pass; return the build of median ratio and its pass's images/s."""
    module, backbone = bare(name, weights), load_backbone(BackboneSpec(name, weights, device="cpu"))
    rounds = []
    for number in range(ROUNDS):
        before = forward_rate(module, len(images) // 2)
        outcome = built(images, backbone, root / str(number))
        rounds.append((outcome, 2 / (1 / before + 1 / forward_rate(module, len(images) // 2))))
    return sorted(rounds, key=lambda one: one[0].speed["images_per_s"] / one[1])[ROUNDS // 2]


def report_rate(weights: str, images: ImageSet, store: Path, count: int, gradients: bool = True) -> float:
    """Images/s of the report's extractor: each prefix of the network runs from the start, on one image at a time.

    As published it asks for no inference mode, so torch keeps every activation for a gradient that is never taken.
    """
    layers = list(bare("resnet152", weights).children())
    reader, spec = open_store(store), load_backbone(BackboneSpec("resnet152", weights, device="cpu"))
    spent = 0.0
    for row in range(count):
        began = time.perf_counter()
        pixels = images.read(reader.plan.order[row], 224)
        inputs = spec.inputs(torch.from_numpy(pixels[None].copy())).contiguous()
        with torch.set_grad_enabled(gradients):
            features = [nn.Sequential(*layers[:stop])(inputs) for stop in (4, 5, 6, 7, 8)]
            for value in features:
                F.interpolate(value[None], (3, 28, 28), mode="trilinear")
        spent += time.perf_counter() - began
        for tap, found in zip(reader.spec.taps, features, strict=True):
            value = found.detach()
            error = torch.from_numpy(reader.read(tap.name, row, row + 1)).float() - value
            # float16 rounds to 3e-4; 152 random layers make 1e-3 of float32's rounding, folded or not
            assert error.square().mean() < (2e-3**2) * value.square().mean(), tap.name
    return count / spent


def error_of(changed: Path, exact: Path) -> float:
    """How much the deepest tap of one store differs from another's, as a share of its own size."""
    one, other = (
        torch.from_numpy(reader.read("f5", 0, reader.spec.rows)).float() for reader in map(open_store, (changed, exact))
    )
    return float(((one - other).square().mean() / other.square().mean()).sqrt())


@dataclass(frozen=True)
class Precomputed(Backbone):
    """A network whose result is there already, after a sleep of `pause` seconds an image."""

    result: Mapping[str, Tensor] = field(default_factory=dict, hash=False)
    pause: float = 0.0

    def features(self, images: Tensor) -> dict[str, Tensor]:
        """Return the first features there are."""
        time.sleep(self.pause * len(images))
        return {name: values[: len(images)] for name, values in self.result.items()}


def precomputed(backbone: Backbone, images: ImageSet, pause: float = 0.0) -> Precomputed:
    """Compute one batch now."""
    pixels = np.stack([images.read(index, 224) for index in range(BATCH)])
    return Precomputed(**vars(backbone), result=backbone.features(torch.from_numpy(pixels)), pause=pause)


def processor_seconds(outcome: BuildResult) -> float:
    """Seconds of all processors together that a build took."""
    return float(outcome.speed["processors"] * outcome.seconds * count_cpus())


def in_process(work: Callable[..., Any], *words: Any) -> Any:
    """Do `work(*words)` in a fresh process and return what it returns."""
    spawn = multiprocessing.get_context("spawn")
    with spawn.Pool(1) as pool:
        return pool.apply(work, words)


def one_part(photos: Path, weights: str, root: Path, part: tuple[int, int]) -> str:
    """Build a part of a store with blocks of one batch; two of these run at once."""
    images, backbone = load_image_set(str(photos)).take(64), load_backbone(BackboneSpec("resnet152", weights, device="cpu"))
    plan = plan_store(images, backbone, "native", "float16", BATCH)
    return str(build_store(images, backbone, plan, root, batch_size=BATCH, part=part).path)


def contents(store: Path) -> dict[str, str]:
    """Digests of a sealed store's data and records; plan and manifest carry times and commands."""
    told_apart = ("plan.json", "manifest.json")
    files = {path.relative_to(store).as_posix(): path for path in store.rglob("*") if path.is_file()}
    store_id = str(open_store(store).manifest["store_id"])
    return {name: sha256_file(path) for name, path in files.items() if name not in told_apart} | {"id": store_id}


def parts_are_identical(photos: Path, weights: str, root: Path) -> bool:
    """One process against two at once."""
    whole = Path(in_process(one_part, photos, weights, root / "whole", (1, 1)))
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        parts = pool.starmap(one_part, [(photos, weights, root / "parts", (number, 2)) for number in (1, 2)])
    return contents(whole) == contents(Path(parts[0]))


def peak_of(photos: Path, count: int, root: Path) -> int:
    """Peak bytes of a process that builds."""
    outcome = built(
        load_image_set(str(photos)).take(count),
        load_backbone(BackboneSpec("vgg16", "hed", "report", "cpu", "bfloat16")),
        root,
    )
    return int(outcome.speed["peak_memory"])


def planned_memory(photos: Path) -> int:
    """Bytes that a plan says."""
    images, backbone = load_image_set(str(photos)), load_backbone(BackboneSpec("vgg16", "hed", "report", "cpu", "bfloat16"))
    return estimate_build(images, backbone, plan_store(images, backbone, "native", "float16"), BATCH).memory


def simulated(photos: Path, cores: int, root: Path) -> dict[str, Any]:
    """Build with a GPU that is not there: what it would have done (arrays, extremes, cast) is done beforehand."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    torch.set_num_threads(cores)
    images = load_image_set(str(photos))
    network = precomputed(load_backbone(BackboneSpec("vgg16", "hed", device="cpu")), images, 1 / RATE)
    plan = plan_store(images, network, "native", "float16")
    ready = {name: values.half().contiguous() for name, values in resample_taps(network.result, plan.spec.arrays).items()}
    with (
        mock.patch(
            "posenet_store.extraction.forward.resample_taps",
            lambda taps, _: {n: v[: len(taps["f1"])] for n, v in ready.items()},
        ),
        mock.patch("posenet_store.extraction.forward._find_extremes", lambda *_: torch.zeros(2)),
    ):
        return dict(build_store(images, network, plan, root, batch_size=BATCH).speed)


def measured(count: int, root: Path) -> tuple[Figures, Figures]:
    """Return ratios, and the figures behind them."""
    photos = photographs(root / "photos", 2 * count)
    images = load_image_set(str(photos)).take(count)
    vgg = load_backbone(BackboneSpec("vgg16", "hed", device="cpu"))
    some = torch.from_numpy(np.stack([images.read(index, 224) for index in range(BATCH)]))
    resnet152 = calibrated(
        root / "resnet152.pth", load_backbone(BackboneSpec("resnet18", "random:0", device="cpu")).inputs(some)
    )
    report_step("VGG-16: builds and the bare pass")
    first, vgg_forward = beside("vgg16", "hed", images, root / "vgg")
    report_step("bfloat16")
    lower = built(images, load_backbone(BackboneSpec("vgg16", "hed", "report", "cpu", "bfloat16")), root / "bfloat16")
    report_step("ResNet-152: builds and the bare pass")
    second, resnet_forward = beside("resnet152", resnet152, images, root / "resnet")
    report_step("the report's extractor")
    report = report_rate(resnet152, images, second.path, 16)
    prefixes = report_rate(resnet152, images, second.path, 16, gradients=False)
    report_step("what is outside the network")
    with limit_torch_to_one_thread():  # its second would wait for the first, and that would count as work
        outside = built(images, precomputed(vgg, images), root / "outside")
    rate = {name: float(one.speed["images_per_s"]) for name, one in (("vgg", first), ("bf16", lower), ("resnet", second))}
    report_step("memory")
    planned = in_process(planned_memory, photos)
    small, large = (in_process(peak_of, photos, some, root / f"memory{some}") for some in (count, 2 * count))
    report_step("a simulated GPU")
    gpu = {cores: in_process(simulated, photos, cores, root / f"gpu{cores}") for cores in (1, 2)}
    ratios: Figures = {
        "build_vs_forward_vgg16": rate["vgg"] / vgg_forward,
        "build_vs_forward_resnet152": rate["resnet"] / resnet_forward,
        "build_vs_report": rate["resnet"] / report,
        "build_vs_prefixes": rate["resnet"] / prefixes,
        "bf16_vs_fp32": rate["bf16"] / rate["vgg"],
        "bf16_error": error_of(lower.path, first.path),
        "outside_forward_share": processor_seconds(outside) / processor_seconds(first),
        "parts2_identical": float(parts_are_identical(photos, resnet152, root)),
        "flat_memory": large / small,
        "memory_vs_plan": large / planned,
        "simulated_gpu_images_per_s_1core": gpu[1]["images_per_s"],
        "simulated_gpu_images_per_s_2cores": gpu[2]["images_per_s"],
        "simulated_gpu_processors_busy": gpu[2]["processors"],
        "simulated_gpu_bound_by": gpu[2]["bound_by"],
    }
    facts: Figures = {f"build, images/s, {name}": value for name, value in rate.items()}
    facts |= {"forward, images/s, vgg": vgg_forward, "forward, images/s, resnet": resnet_forward, "report, images/s": report}
    facts |= {f"vgg build, {stage}, s": value for stage, value in first.speed["stages"].items()}
    facts |= {f"{cores} cores, 5,000/s: {stage}, s": v for cores, speed in gpu.items() for stage, v in speed["stages"].items()}
    return ratios, facts | {"peak MB": large / 1e6, "planned MB": planned / 1e6}


if __name__ == "__main__":
    torch.set_num_threads(count_cpus())
    run(__doc__, 128, measured)
