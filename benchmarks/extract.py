"""How fast a store is built, beside the network alone and beside the report's extractor.

JPEG files in (500x400, dead leaves), sealed store out: native layout, zstd, float16. VGG-16 has HED's weights; ResNet-152 is
random, its batch statistics calibrated so that features are of a trained network's size.

build_vs_forward_vgg16      images/s of the build : of the bare eager forward pass of torchvision's network, convolutions only,
build_vs_forward_resnet152  same precision and batch, on pixels that are in memory (of three rounds the median)
build_vs_report             images/s of the ResNet-152 build : of the report's extractor as published: five passes, one a
                            prefix, a batch of one image, gradients recorded (features are compared and must agree)
build_vs_prefixes           the same, with the extractor spared the recording of gradients
bf16_vs_fp32                images/s of the VGG-16 build in bfloat16 : in float32, on a CPU with instructions for it
bf16_error                  root of the mean square of what that changes in the deepest tap : of the tap (features in float16)
outside_forward_share       CPU time of the VGG-16 build with the pass replaced by its result : of the build (least of three)
parts2_identical            1 if two parts in two processes make the same sealed store, byte for byte, as one
flat_memory                 peak memory of a build of 256 images : of 128, the pass replaced by its result
memory_vs_plan              peak memory of a build : what --plan says
moments_vs_build            seconds in which a VGG-16 build sums moments (`--moments`) : of all its other work, in one run
simulated_gpu_*             a GPU of 5,000 images/s (a sleep; VGG-16's features and their statistics are in host memory, as if
                            copied there): images/s of the build on one core and on two (the best of four), two against one,
                            what sixteen would feed by Amdahl's law, the share of the CPU that was busy, the stage that binds

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
from posenet_store.extraction import commit
from posenet_store.extraction.build import BuildResult, build_store, plan_store
from posenet_store.extraction.forward import Forward, PendingBatch
from posenet_store.extraction.plan import estimate_build
from posenet_store.files import sha256_file
from posenet_store.images.image_set import ImageSet
from posenet_store.images.sources import load_image_set
from posenet_store.images.synthetic import draw_dead_leaves
from posenet_store.parallel.machine import has_bfloat16_instructions
from posenet_store.resampling import resample_taps
from posenet_store.specs import BackboneSpec
from posenet_store.store import writer
from posenet_store.store.catalogue import StoreInfo
from posenet_store.store.feature_statistics import compute_statistics
from posenet_store.store.plan import find_folder
from posenet_store.store.reader import open_store
from posenet_store.sweep.build_sums import BuildSums
from posenet_store.threads import count_cpus, limit_torch_to_one_thread

BATCH = 16
ROUNDS = 3
FEEDINGS = 4
RATE = 5000
SECONDS = 120
"""After which no further round of a network begins."""


def write_photographs(folder: Path, count: int) -> Path:
    """Write `count` JPEG files: four dead-leaves images side by side, cut to 500x400."""
    folder.mkdir()
    leaves = [draw_dead_leaves(0, number) for number in range(64)]
    rng = np.random.default_rng(0)
    for number in range(count):
        a, b, c, d = (leaves[index] for index in rng.choice(len(leaves), 4, replace=False))
        Image.fromarray(np.block([[[a], [b]], [[c], [d]]])[:400, :500]).save(folder / f"{number:04d}.jpg", quality=90)
    return folder


def calibrate(path: Path, pixels: Tensor) -> str:
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


def load(name: str, weights: str, precision: str = "float32") -> Backbone:
    """Load a network on the CPU."""
    return load_backbone(BackboneSpec(name, weights, "report", "cpu", precision))


def load_bare(name: str, weights: str) -> nn.Module:
    """Load torchvision's network up to the last tap, nothing of ours."""
    module: nn.Module = torchvision.models.get_model(name, weights=None)
    module.load_state_dict(dict(load_weights(weights, name).state or {}), strict=False)
    return module.eval().features if name == "vgg16" else nn.Sequential(*list(module.eval().children())[:-2])  # type: ignore[return-value]


@torch.inference_mode()
def measure_forward(module: nn.Module, count: int) -> float:
    """Return images/s of the bare pass."""
    pixels = torch.randn(BATCH, 3, 224, 224)
    module(pixels)
    began = time.perf_counter()
    passes = max(1, count // BATCH)
    for _ in range(passes):
        module(pixels)
    return passes * BATCH / (time.perf_counter() - began)


def build(images: ImageSet, backbone: Backbone, root: Path, **options: Any) -> BuildResult:
    """Build a store as the command does."""
    return build_store(images, backbone, plan_store(images, backbone, "native", "float16"), root, batch_size=BATCH, **options)


def compare_with_pass(name: str, weights: str, images: ImageSet, root: Path) -> tuple[BuildResult, float]:
    """Build three times, each between two runs of the bare pass; return the build of median ratio and its pass's images/s.

    On a machine that others use it stops earlier, so that the benchmark ends in time.
    """
    module, backbone, started = load_bare(name, weights), load(name, weights), time.monotonic()
    rounds: list[tuple[BuildResult, float]] = []
    for number in range(ROUNDS):
        if time.monotonic() - started > SECONDS:
            break
        report_step(f"{name}: build {number + 1} of {ROUNDS}, between two runs of the bare pass")
        before = measure_forward(module, len(images) // 4)
        outcome = build(images, backbone, root / str(number))
        rounds.append((outcome, 2 / (1 / before + 1 / measure_forward(module, len(images) // 4))))
    return sorted(rounds, key=lambda pair: pair[0].speed["images_per_s"] / pair[1])[len(rounds) // 2]


def measure_report(weights: str, images: ImageSet, store: Path, count: int, gradients: bool = True) -> float:
    """Return images/s of the report's extractor: each prefix of the network runs from the start, on one image at a time.

    As published it asks for no inference mode, so torch keeps every activation for a gradient that is never taken.
    """
    layers = list(load_bare("resnet152", weights).children())
    reader, network = open_store(store), load("resnet152", weights)
    seconds = 0.0
    for row in range(count):
        began = time.perf_counter()
        pixels = images.read(reader.plan.order[row], 224)
        inputs = network.inputs(torch.from_numpy(pixels[None].copy())).contiguous()
        with torch.set_grad_enabled(gradients):
            features = [nn.Sequential(*layers[:stop])(inputs) for stop in (4, 5, 6, 7, 8)]
            for value in features:
                F.interpolate(value[None], (3, 28, 28), mode="trilinear")
        seconds += time.perf_counter() - began
        for tap, feature in zip(reader.spec.taps, features, strict=True):
            value = feature.detach()
            error = torch.from_numpy(reader.read(tap.name, row, row + 1)).float() - value
            # float16 rounds to 3e-4; 152 random layers make 1e-3 of float32's rounding, folded or not
            assert error.square().mean() < (2e-3**2) * value.square().mean(), tap.name
    return count / seconds


def compare_bfloat16(images: ImageSet, exact: BuildResult, root: Path) -> Figures:
    """Return speed and error of a build in bfloat16, nothing on a CPU that would have to emulate it."""
    if not has_bfloat16_instructions():
        return {}
    outcome = build(images, load("vgg16", "hed", "bfloat16"), root)
    changed, expected = (
        torch.from_numpy(reader.read("f5", 0, reader.spec.rows)).float()
        for reader in map(open_store, (outcome.path, exact.path))
    )
    return {
        "bf16_vs_fp32": outcome.speed["images_per_s"] / exact.speed["images_per_s"],
        "bf16_error": float(((changed - expected).square().mean() / expected.square().mean()).sqrt()),
    }


def measure_moments(images: ImageSet, root: Path) -> Figures:
    """Return the seconds of summing moments while a store is built, and of everything else."""
    backbone = load("vgg16", "hed")
    plan = plan_store(images, backbone, "native", "float16")
    info = StoreInfo(find_folder(root, plan.spec), plan.spec, True, len(plan.bounds), 0, 0, 0)
    began = time.perf_counter()
    with BuildSums(info, root) as sums:
        outcome = build(images, backbone, root, follow=sums.add)
        sums.finish(outcome.path, outcome.written, lambda done, total: None)
    rest = outcome.seconds - outcome.speed["stages"]["moments"]
    return {"moments": time.perf_counter() - began - rest, "rest": rest}


@dataclass(frozen=True)
class Precomputed(Backbone):
    """A network whose result is there already."""

    result: Mapping[str, Tensor] = field(default_factory=dict, hash=False)

    def features(self, images: Tensor, tokens: bool = False) -> dict[str, Tensor]:
        """Return the first features there are."""
        return {name: values[: len(images)] for name, values in self.result.items()}


def precompute(backbone: Backbone, images: ImageSet) -> Precomputed:
    """Compute one batch now."""
    pixels = np.stack([images.read(index, 224) for index in range(BATCH)])
    return Precomputed(**vars(backbone), result=backbone.features(torch.from_numpy(pixels)))


def count_cpu_seconds(outcome: BuildResult) -> float:
    """Return the seconds of all CPU cores together that a build took."""
    return float(outcome.speed["processors"] * outcome.seconds * count_cpus())


def measure_outside(images: ImageSet, root: Path) -> float:
    """Return the CPU seconds of a build whose pass is replaced by its result, the least of several."""
    with limit_torch_to_one_thread():  # its second would wait for the first, and that would count as work
        network = precompute(load("vgg16", "hed"), images)
        return min(count_cpu_seconds(build(images, network, root / f"outside{number}")) for number in range(ROUNDS))


def run_in_process(work: Callable[..., Any], *words: Any) -> Any:
    """Do `work(*words)` in a fresh process and return what it returns."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, words)


def build_one_part(photos: Path, root: Path, part: tuple[int, int]) -> str:
    """Build a part of a store with blocks of one batch; two of these run at once."""
    images, backbone = load_image_set(str(photos)).take(4 * BATCH), load("resnet18", "random:0")
    plan = plan_store(images, backbone, "native", "float16", BATCH)
    return str(build_store(images, backbone, plan, root, batch_size=BATCH, part=part).path)


def digest_files(store: Path) -> dict[str, str]:
    """Return digests of a sealed store's data and records; plan and manifest carry times and commands."""
    files = {path.relative_to(store).as_posix(): path for path in store.rglob("*") if path.is_file()}
    digests = {name: sha256_file(path) for name, path in files.items() if name not in ("plan.json", "manifest.json")}
    return digests | {"id": str(open_store(store).manifest["store_id"])}


def compare_parts(photos: Path, root: Path) -> bool:
    """Return whether two processes at once make the store of one."""
    single = Path(run_in_process(build_one_part, photos, root / "single", (1, 1)))
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        parts = pool.starmap(build_one_part, [(photos, root / "parts", (number, 2)) for number in (1, 2)])
    return digest_files(single) == digest_files(Path(parts[0]))


def measure_peak(photos: Path, count: int, replaced: bool, root: Path) -> int:
    """Return the peak memory of a process that builds, in bytes; `replaced`: the pass is replaced by its result."""
    images, network = load_image_set(str(photos)).take(count), load("vgg16", "hed")
    return int(build(images, precompute(network, images) if replaced else network, root).speed["peak_memory"])


def plan_memory(photos: Path, count: int) -> int:
    """Return the bytes that a plan says."""
    images, backbone = load_image_set(str(photos)).take(count), load("vgg16", "hed")
    return estimate_build(images, backbone, plan_store(images, backbone, "native", "float16"), BATCH).memory


def feed_simulated_gpu(photos: Path, cores: int, root: Path) -> dict[str, Any]:
    """Build with a GPU that is not there: what it would have done (features and statistics in buffers) is done beforehand."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    torch.set_num_threads(cores)
    images, network = load_image_set(str(photos)), load("vgg16", "hed")
    spec = plan_store(images, network, "native", "float16").spec
    arrays = resample_taps(precompute(network, images).result, spec.arrays)
    ready = {name: values.half().contiguous().repeat(spec.block_rows // BATCH, 1, 1, 1) for name, values in arrays.items()}
    statistics = compute_statistics({name: values.numpy() for name, values in ready.items()}, range(spec.block_rows))

    def run(forward: Forward, pixels: Tensor, valid: Tensor, targets: Mapping[str, Tensor]) -> PendingBatch:
        time.sleep(len(pixels) / RATE)
        return forward._make_pending(targets, torch.zeros(len(targets), 2))

    with (
        mock.patch.object(Forward, "_run_on_cpu", run),
        mock.patch.object(commit, "allocate_arrays", lambda *_: {name: values.clone() for name, values in ready.items()}),
        mock.patch.object(writer, "compute_statistics", lambda *_: statistics),
    ):
        speeds = [dict(build(images, network, root / str(number)).speed) for number in range(FEEDINGS)]
    return max(speeds, key=lambda speed: speed["images_per_s"])


def measure_feeding(photos: Path, root: Path) -> tuple[Figures, Figures]:
    """Return ratios and figures of a simulated GPU."""
    speeds = {}
    for cores in (1, 2):
        report_step(f"a simulated GPU, {cores} cores")
        speeds[cores] = run_in_process(feed_simulated_gpu, photos, cores, root / f"gpu{cores}")
    single, double = (float(speed["images_per_s"]) for speed in speeds.values())
    serial = max(0.0, 2 * single / double - 1)  # the share of the work that a second core does not speed up
    ratios: Figures = {
        "simulated_gpu_images_per_s_1core": single,
        "simulated_gpu_images_per_s_2cores": double,
        "simulated_gpu_2cores_vs_1": double / single,
        "simulated_gpu_images_per_s_16cores_expected": single / (serial + (1 - serial) / 16),
        "simulated_gpu_cpu_busy": speeds[2]["processors"],
        "simulated_gpu_bound_by": speeds[2]["bound_by"],
    }
    stages = {(cores, stage): v for cores, speed in speeds.items() for stage, v in speed["stages"].items()}
    return ratios, {f"{cores} cores, a GPU of 5,000/s: {stage}, s": value for (cores, stage), value in stages.items()}


def measure(count: int, root: Path) -> tuple[Figures, Figures]:
    """Return ratios, and the figures behind them."""
    report_step("photographs")
    photos = write_photographs(root / "photos", 2 * count)
    images = load_image_set(str(photos)).take(count)
    feeding, stages = measure_feeding(photos, root)
    first, vgg_forward = compare_with_pass("vgg16", "hed", images, root / "vgg")
    report_step("a build that sums moments")
    summing = measure_moments(images, root / "moments")
    report_step("bfloat16")
    bfloat16 = compare_bfloat16(images, first, root / "bfloat16")
    report_step("what is outside the network")
    outside = measure_outside(images, root)
    pixels = torch.from_numpy(np.stack([images.read(index, 224) for index in range(BATCH)]))
    weights = calibrate(root / "resnet152.pth", load("resnet18", "random:0").inputs(pixels))
    second, resnet_forward = compare_with_pass("resnet152", weights, images, root / "resnet")
    report_step("the report's extractor")
    report = measure_report(weights, images, second.path, 8)
    prefixes = measure_report(weights, images, second.path, 8, gradients=False)
    report_step("memory")
    planned, peak = (
        run_in_process(plan_memory, photos, count),
        run_in_process(measure_peak, photos, count, False, root / "peak"),
    )
    small, large = (run_in_process(measure_peak, photos, n, True, root / f"flat{n}") for n in (count, 2 * count))
    report_step("two parts at once")
    vgg, resnet = (float(outcome.speed["images_per_s"]) for outcome in (first, second))
    ratios: Figures = {
        "build_vs_forward_vgg16": vgg / vgg_forward,
        "build_vs_forward_resnet152": resnet / resnet_forward,
        "build_vs_report": resnet / report,
        "build_vs_prefixes": resnet / prefixes,
        "outside_forward_share": outside / count_cpu_seconds(first),
        "parts2_identical": float(compare_parts(photos, root)),
        "flat_memory": large / small,
        "memory_vs_plan": peak / planned,
        "moments_vs_build": float(summing["moments"]) / float(summing["rest"]),
    }
    facts: Figures = {"build, images/s, vgg": vgg, "build, images/s, resnet": resnet, "report, images/s": report}
    facts |= {f"vgg build with moments, {name}, s": seconds for name, seconds in summing.items()}
    facts |= {"forward, images/s, vgg": vgg_forward, "forward, images/s, resnet": resnet_forward}
    facts |= {
        "outside the network, CPU ms an image": 1000 * outside / count,
        "peak MB": peak / 1e6,
        "planned MB": planned / 1e6,
    }
    facts |= {f"vgg build, {stage}, s": value for stage, value in first.speed["stages"].items()}
    return ratios | bfloat16 | feeding, facts | stages


if __name__ == "__main__":
    torch.set_num_threads(count_cpus())
    run(__doc__, 128, measure)
