"""What does a head cost in a sweep, compared with the report's training loop and with the best plain loop?

5,019 images (nine tenths of --images), aligned features [15, 28, 28], Adam, 15 epochs, batches of 4, kernel 3, five targets.
The features are those of a small untrained zero-padded network (timing does not depend on them; its heads do find position).

report_5        the report's loop, seconds a head : ours, five heads (reading, moments and steps)
report_15       the same : ours, fifteen heads (three seeds)
report_15_warm  the same : ours, fifteen heads, the moments kept from before
inmemory_15     features in memory, one plain torch loop a head, no DataLoader : ours, fifteen heads
heads60_vs_5    ours, 60 heads : ours, 5 heads (cost, not speed: 1 would be free)
ridge_vs_adam   exact ridge of five targets with ten penalties : one Adam head of the plain loop in memory
workers2_vs_1   a sweep of four passes of all channels on two worker processes : on one, each with one CPU core (speed)
workers2_vs_machine  the same two : one worker that has both cores
scheduling_share   of that sweep on two workers, from the first pass's start to the last one's end: the share of the workers'
                time that was spent in no pass (hand-over, waiting, an uneven end; their start is a figure of its own)
plan_seconds    to plan the grid of a long week, without its cost: three networks, all 31 subsets of
                their stages, four kernels, four paddings, five targets, three learning rates, five seeds

The loops are run for two epochs and counted 7.5 times; the loop of the report draws its target from an image file for
every item, as published.

    python benchmarks/sweep.py [--images 5577] [--json]
"""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from command import report_step, run
from posenet_store.backbones.backbone import Backbone
from posenet_store.backbones.measure import measure_taps
from posenet_store.backbones.weights import compute_state_digest
from posenet_store.extraction.build import build_store, plan_store
from posenet_store.heads.protocols import GradientProtocol, RidgeProtocol
from posenet_store.heads.targets import TARGETS, make_target_map
from posenet_store.images.image_set import ImageSet
from posenet_store.specs import Preprocess
from posenet_store.store.catalogue import list_stores
from posenet_store.store.reader import Reader, open_store
from posenet_store.sweep.grouping import FittedHeads
from posenet_store.sweep.inputs import parse_input
from posenet_store.sweep.moment_cache import MomentCache
from posenet_store.sweep.plan import Pass, plan_sweep
from posenet_store.sweep.results import PassResult
from posenet_store.sweep.run import run_sweep
from posenet_store.sweep.run_pass import fit_heads, make_scorable
from posenet_store.sweep.score import read_inputs, score_heads
from posenet_store.sweep.spec import SweepSpec
from posenet_store.threads import count_cpus

EPOCHS, LOOP_EPOCHS = 15, 2
RESIZED = transforms.Compose([transforms.Resize((26, 26)), transforms.ToTensor()])
SPEC = SweepSpec(title="bench", train=("noise",), tests=(), holdout=0.1, targets=TARGETS, seeds=(0,))


def make_network(seed: int, channels: tuple[int, ...]) -> Backbone:
    """Return a small random network of five stages with zero padding: position leaks into it from the border."""
    torch.manual_seed(seed)
    pairs = zip((3, *channels), channels, strict=False)
    stages = [nn.Sequential(nn.Conv2d(i, o, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)) for i, o in pairs]
    module = nn.Sequential(*stages).eval().requires_grad_(False)
    taps, _ = measure_taps(module, [str(stage) for stage in range(len(channels))], 64)
    preprocess = Preprocess(64, 1 / 255, (0.5,) * 3, (0.25,) * 3)
    digest = compute_state_digest(module.state_dict())
    device = torch.device("cpu")
    return Backbone("small", f"random{seed}", digest, "report", taps, preprocess, module, device, weights_kind="random")


def make_noise(images: int) -> ImageSet:
    """Return smooth random images, made when read."""
    names = tuple(f"{number:05d}" for number in range(images))

    def read(index: int, size: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
        pixels = np.random.default_rng(index).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        return np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR))

    return ImageSet("noise", names, names, read)


def build_noise_store(
    root: Path, images: int, seed: int = 0, layout: str = "aligned", channels: tuple[int, ...] = (16,) * 5
) -> Reader:
    """Build a store of noise."""
    source, backbone = make_noise(images), make_network(seed, channels)
    return open_store(build_store(source, backbone, plan_store(source, backbone, layout, "float16"), root).path)


class Report2020(Dataset[tuple[Tensor, Tensor]]):
    """The report's dataset, restated: features of an image; the target is opened and resized for every item, as published."""

    def __init__(self, features: Tensor, target: Path) -> None:
        self.features, self.target = features, target

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:
        return self.features[row], RESIZED(Image.open(self.target))[0]


def _time_loop(batches: Callable[[], object], epochs: int) -> float:
    """Return the seconds of the plain loop: one convolution, MSELoss, Adam."""
    conv, loss = nn.Conv2d(15, 1, 3), nn.MSELoss()
    adam = torch.optim.Adam(conv.parameters(), lr=1e-3, weight_decay=1e-4)
    began = time.perf_counter()
    for _ in range(epochs):
        for inputs, goal in batches():  # type: ignore[attr-defined]
            adam.zero_grad()
            loss(conv(inputs)[:, 0], goal).backward()
            adam.step()
    return time.perf_counter() - began


def time_loops(features: Tensor, root: Path) -> tuple[float, float]:
    """Return the seconds a head of the report's loop, and of the plain loop with everything in memory."""
    path = root / "target.png"
    Image.fromarray((make_target_map("H", 256) * 255).astype(np.uint8)).save(path)
    loader = DataLoader(Report2020(features, path), batch_size=4, shuffle=True)
    report = _time_loop(lambda: loader, LOOP_EPOCHS)
    target = torch.from_numpy(make_target_map("H", 26).astype(np.float32))

    def in_memory() -> object:
        order = torch.randperm(len(features))
        return ((features[rows], target.expand(len(rows), -1, -1)) for rows in order.split(4))

    plain = _time_loop(in_memory, LOOP_EPOCHS)
    return report * EPOCHS / LOOP_EPOCHS, plain * EPOCHS / LOOP_EPOCHS


def plan_single_pass(root: Path, reader: Reader, spec: SweepSpec) -> Pass:
    """Return the only pass of a sweep over one store."""
    entries = [entry for entry in list_stores(root)[0] if entry.spec.fingerprint == reader.spec.fingerprint]
    (task,) = plan_sweep(spec, entries, root).passes
    return task


def time_fit(reader: Reader, task: Pass, cache: MomentCache) -> tuple[float, list[FittedHeads]]:
    """Return the seconds to train a pass, and its heads."""
    began = time.perf_counter()
    heads = fit_heads(task, reader, cache)
    return time.perf_counter() - began, heads


def compute_spc(reader: Reader, task: Pass, heads: list[FittedHeads]) -> dict[str, float]:
    """Return the mean SPC on the held-out rows of each target's head."""
    source, start = parse_input(task.input, reader.spec), task.cells[0].train_rows
    ((*scored,),) = score_heads(read_inputs(reader, source, start, reader.spec.rows), [make_scorable(group) for group in heads])
    means = [float(np.nanmean(head.scores.spc)) for head in scored]
    return {cell.target: value for cell, value in zip(heads[0].group.cells, means, strict=True)}


def compute_idle_share(passes: Sequence[PassResult], workers: int) -> float:
    """Return the share of its workers' time, from the first pass's start to the last one's end, that a run spent in no pass."""
    span = max(task.began + task.seconds for task in passes) - min(task.began for task in passes)
    return 1 - sum(task.seconds for task in passes) / (workers * span)


def time_workers(root: Path) -> tuple[float, float, float, float]:
    """Return the speed of two workers over one with one CPU core, and over one with both; their idle share and start-up."""
    for seed in range(4):
        build_noise_store(root / "stores", 2400, seed, "native", (32, 64, 96, 128, 128))
    spec = replace(SPEC, inputs=("full",), kernels=(1,), protocols=("ridge",))
    plan = plan_sweep(spec, list_stores(root / "stores")[0], root / "stores", keep_moments=False)
    all_cores = os.sched_getaffinity(0)
    seconds = {}
    for count, cores in ((1, {min(all_cores)}), (1, all_cores), (2, all_cores)):
        os.sched_setaffinity(0, cores)  # workers inherit it
        when, began = time.time(), time.perf_counter()
        outcome = run_sweep(spec, plan, root / f"run{count}-{len(cores)}", scheduler="local", workers=count)
        seconds[count, len(cores)] = time.perf_counter() - began
    single, machine, two = seconds.values()
    return single / two, machine / two, compute_idle_share(outcome.passes, 2), min(done.began for done in outcome.passes) - when


def time_planning(root: Path) -> tuple[float, int]:
    """Return the seconds that planning a large grid over three of the stores below `root` takes, and its heads."""
    stores = list_stores(root)[0][:3]
    names = [tap.name for tap in stores[0].spec.taps]
    subsets = tuple("aligned:" + "+".join(subset) for size in range(1, 6) for subset in combinations(names, size))
    rates = tuple(GradientProtocol(learning_rate=rate) for rate in (1e-2, 1e-3, 1e-4))
    grid = replace(SPEC, inputs=subsets, kernels=(1, 3, 5, 7), paddings=(0, 1, 2, 3), seeds=tuple(range(5)), recipes=rates)
    began = time.perf_counter()
    plan = plan_sweep(grid, stores, root)
    return time.perf_counter() - began, len(plan.cells)


def measure(images: int, root: Path) -> tuple[dict[str, float], dict[str, float]]:
    """Return ratios, and the figures behind them."""
    reader = build_noise_store(root / "noise", images)
    source = parse_input("aligned", reader.spec)
    features = torch.cat(list(read_inputs(reader, source, 0, round(0.9 * images))))
    report_step("the report's loop and a plain loop")
    report, plain = time_loops(features, root)
    cache, none = MomentCache(root / "moments", reader.manifest["store_id"]), MomentCache(None, "")
    report_step("5, 15 and 60 heads")
    tasks = {n: plan_single_pass(root / "noise", reader, replace(SPEC, seeds=tuple(range(n // 5)))) for n in (5, 15, 60)}
    five, adam = time_fit(reader, tasks[5], none)
    fifteen, _ = time_fit(reader, tasks[15], cache)
    warm, _ = time_fit(reader, tasks[15], cache)
    sixty, _ = time_fit(reader, tasks[60], none)
    report_step("exact heads")
    lambdas = tuple(10.0**power for power in range(-9, 1))
    exact_spec = replace(SPEC, protocols=("ridge",), recipes=(RidgeProtocol(lambdas=lambdas),))
    ridge_task = plan_single_pass(root / "noise", reader, exact_spec)
    ridge, exact = time_fit(reader, ridge_task, none)
    report_step("one and two workers")
    faster, than_machine, share, start = time_workers(root / "workers")
    report_step("planning a large grid")
    planned_in, heads = time_planning(root / "workers" / "stores")
    ratios = {
        "report_5": report / (five / 5),
        "report_15": report / (fifteen / 15),
        "report_15_warm": report / (warm / 15),
        "inmemory_15": plain / (fifteen / 15),
        "heads60_vs_5": sixty / five,
        "ridge_vs_adam": ridge / plain,
        "workers2_vs_1": faster,
        "workers2_vs_machine": than_machine,
        "scheduling_share": share,
        "plan_seconds": planned_in,
    }
    seconds = {"report's loop, a head": report, "plain loop, a head": plain, "ours, 5 heads": five, "ours, 15 heads": fifteen}
    facts = seconds | {"ours, 15 heads, warm": warm, "ours, 60 heads": sixty, "ridge, 5 targets": ridge}
    facts |= {"two workers' start": start, "heads planned": heads}
    scores = compute_spc(reader, tasks[5], adam), compute_spc(reader, ridge_task, exact)
    facts |= {f"SPC {name}, {way}": spc[name] for way, spc in zip(("Adam", "ridge"), scores, strict=True) for name in TARGETS}
    return ratios, facts


if __name__ == "__main__":
    torch.set_num_threads(count_cpus())
    run(__doc__, 5577, measure)
