"""The sections of the benchmark of a GPU: each checks or measures one thing in a lab."""

import contextlib
import gc
import itertools
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from gpu_lab import LIMITS, Lab, compare, compare_taps, digest_data, read_arrays
from posenet_store.backbones.backbone import Backbone
from posenet_store.backbones.device import collect_device
from posenet_store.errors import BuildError, first_line
from posenet_store.extraction import commit
from posenet_store.extraction.build import build_store, plan_store
from posenet_store.extraction.forward import Forward, PendingBatch, allocate_arrays
from posenet_store.extraction.plan import estimate_build
from posenet_store.extraction.timing import StageTimer
from posenet_store.heads.device_moments import DeviceMomentAccumulator
from posenet_store.heads.protocols import RidgeProtocol
from posenet_store.heads.ridge import solve_ridge
from posenet_store.heads.tap_moments import TapMomentAccumulator
from posenet_store.specs import GRID
from posenet_store.threads import count_cpus


def check_environment(lab: Lab) -> None:
    """Say what there is, and how fast pixels and features travel."""
    lab.figures |= {key: str(value) for key, value in collect_device(lab.device).items()}
    lab.figures |= {"torch": torch.__version__, "CPU cores": count_cpus()}
    there = torch.empty(1 << 26, dtype=torch.uint8, device=lab.device)
    for pinned in (True, False) if lab.cuda else (False,):
        host = torch.empty(1 << 26, dtype=torch.uint8, pin_memory=pinned)
        name = "locked" if pinned else "pageable"
        lab.figures[f"to the host, {name} memory, GB/s"] = there.numel() / lab.measure(lambda: host.copy_(there)) / 1e9  # noqa: B023
        lab.figures[f"to the GPU, {name} memory, GB/s"] = there.numel() / lab.measure(lambda: there.copy_(host)) / 1e9  # noqa: B023


def check_features(lab: Lab) -> None:
    """Compare features in every precision with the CPU's in float32."""
    wrong = []
    for name in (lab.vgg, lab.small):
        exact = lab.load(name, device="cpu")
        pixels = lab.draw_pixels(min(lab.checked, 32), exact)
        expected = exact.features(pixels)
        for precision in lab.precisions:
            error = compare_taps(lab.load(name, precision).features(pixels), expected)
            lab.ratios[f"error_{precision}_{name}"] = error
            wrong += [f"{name} in {precision}: {error:.1e}"] if not error < LIMITS[precision] else []
    assert not wrong, wrong


def check_pipeline(lab: Lab) -> None:
    """Build with several batches in flight, a late GPU and buffers full of NaN: every row is that of a plain build."""
    network, compute = lab.load(lab.small), Forward._run_on_cuda
    expected, features, wrong = read_arrays(lab.build(network, "plain").path), Backbone.features, 0

    def compute_late(backbone: Backbone, pixels: Tensor) -> dict[str, Tensor]:
        lab.delay()
        return features(backbone, pixels)

    def copy_late(running: Forward, *batch: Any) -> PendingBatch:
        with torch.cuda.stream(running._copying):
            lab.delay()
        return compute(running, *batch)

    def allocate_poisoned(*words: Any, **options: Any) -> dict[str, Tensor]:
        return {name: array.fill_(torch.nan) for name, array in allocate_arrays(*words, **options).items()}

    patches = {"features": (Backbone, "features", compute_late), "copies": (Forward, "_run_on_cuda", copy_late)}
    for (name, patch), batch in itertools.product(patches.items(), (None, 5)):
        with mock.patch.object(*patch), mock.patch.object(commit, "allocate_arrays", allocate_poisoned):
            actual = read_arrays(lab.build(network, f"late {name} {batch}", batch_size=batch).path)
        error = compare_taps(actual, expected)
        lab.figures[f"late {name}, batch {batch or 'a block'}: error"] = error
        wrong += not error < LIMITS["float32"]
    lab.ratios["rows_wrong"] = wrong
    assert not wrong, "features were copied before they were computed, or rows were mixed"


def check_bytes(lab: Lab) -> None:
    """Build again, in parts, and interrupted: the same features to the last bit."""
    network = lab.load(lab.vgg)
    expected = digest_data(lab.build(network, "once").path)

    def interrupt(count: int) -> None:
        raise KeyboardInterrupt

    images, rows = lab.images.take(lab.checked), 16
    plan = plan_store(images, network, "native", "float32", rows)
    with contextlib.suppress(KeyboardInterrupt):
        seen = itertools.count()
        build_store(images, network, plan, lab.root / "resumed", advance=lambda n: interrupt(n) if next(seen) > 1 else None)
    for part in ((2, 2), (1, 2)):
        parts = lab.build(network, "parts", part=part).path
    stores = {"again": lab.build(network, "again").path, "resumed": lab.build(network, "resumed").path, "parts": parts}
    differing = [name for name, path in stores.items() if digest_data(path) != expected]
    lab.ratios["bytes_differ"] = len(differing)
    pixels = lab.draw_pixels(16, network)
    half, batch = network.features(pixels[:8]), network.features(pixels)
    lab.figures["half a batch: error"] = compare_taps(half, {name: value[:8] for name, value in batch.items()})
    assert not differing, differing


def launch_batches(lab: Lab, network: Backbone, batches: int, size: int) -> Iterator[PendingBatch]:
    """Launch batches as a build does, the next one before a batch is waited for; yield each once it is on the host."""
    shapes = {tap.name: tap.shape for tap in network.taps}
    running, valid = Forward(network, shapes, StageTimer()), torch.ones(size, dtype=torch.bool)
    pixels, waiting = lab.draw_pixels(size, network), list[list[PendingBatch]]()
    buffers = [allocate_arrays(shapes, size, "float16", pinned=lab.cuda) for _ in range(2)]
    for number in range(batches + 1):
        waiting += [running.launch(pixels, valid, buffers[number % 2])] if number < batches else []
        if number:
            for pending in waiting.pop(0):
                pending.wait()
                yield pending


def check_overlap(lab: Lab) -> None:
    """Measure how much of the copying happens while the next batch is computed, from CUDA events."""
    if not lab.cuda:
        return
    events = [pending.events for pending in launch_batches(lab, lab.load(lab.vgg), 8, lab.batches[0])][1:]  # without set-up
    origin = events[0][0]
    times = [[origin.elapsed_time(event) for event in batch] for batch in events]
    overlap = sum(
        max(0.0, min(copied, computed) - max(copying, started))
        for _, _, copying, copied in times for started, computed, _, _ in times
    )  # fmt: skip
    total = sum(copied - copying for _, _, copying, copied in times[:-1])  # behind the last one nothing is computed
    lab.ratios["copy_overlap"] = overlap / total
    lab.figures |= {"a copy, ms": total / (len(times) - 1), "a batch, ms": times[-1][1] / len(times)}
    assert overlap > 0.5 * total, "copies do not overlap with computing"


def check_waiting(lab: Lab) -> None:
    """Count the calls that wait for the GPU in a launch, and what waiting for a batch takes of a CPU core."""
    if not lab.cuda:
        return
    network, size = lab.load(lab.vgg), lab.batches[1]
    list(launch_batches(lab, network, 2, size))
    shapes = {tap.name: tap.shape for tap in network.taps}
    running, targets = Forward(network, shapes, StageTimer()), allocate_arrays(shapes, size, "float16", pinned=True)
    pixels, valid = lab.draw_pixels(size, network), torch.ones(size, dtype=torch.bool)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        pending = running.launch(pixels, valid, targets)
        torch.cuda.set_sync_debug_mode("default")
    lab.ratios["waits_in_launch"] = len(caught)
    began, cpu = time.perf_counter(), time.thread_time()
    for batch in pending:
        batch.wait()
    lab.ratios["cpu_while_waiting"] = (time.thread_time() - cpu) / (time.perf_counter() - began)
    assert not caught, str(caught[0].message)


def check_memory(lab: Lab) -> None:
    """Limit the GPU's memory: the batch is halved and the features stay right; at the end a sentence, no other error."""
    if not lab.cuda:
        return
    network, total = lab.load(lab.vgg), torch.cuda.mem_get_info(lab.device)[1]
    shapes, pixels = {tap.name: tap.shape for tap in network.taps}, lab.draw_pixels(64, network)
    expected, wrong = {name: value.cpu() for name, value in network.features(pixels).items()}, []
    try:
        for gigabytes in (3.0, 1.5, 1.0, 0.7, 0.5, 0.3, 0.15):
            gc.collect()
            torch.cuda.empty_cache()
            torch.cuda.set_per_process_memory_fraction(gigabytes * 1e9 / total, lab.device.index or 0)
            running, targets = Forward(network, shapes, StageTimer()), allocate_arrays(shapes, 64, "float32", pinned=True)
            try:
                for batch in running.launch(pixels, torch.ones(64, dtype=torch.bool), targets):
                    batch.wait()
                error, left = compare_taps(targets, expected), running.limit or 64
                lab.figures[f"{gigabytes} GB: batch, error"] = f"{left}, {error:.1e}"
                lab.ratios |= {"memory_halved": left / 64} if gigabytes == 1.0 else {}
                wrong += [f"{gigabytes} GB: {error:.1e}"] if not error < LIMITS["float32"] else []
            except BuildError as error:
                lab.figures[f"{gigabytes} GB: batch, error"] = first_line(error)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, lab.device.index or 0)
    assert not wrong, wrong


def measure_passes(lab: Lab) -> None:
    """Measure images/s of the networks alone, by precision, batch and order of memory."""
    inputs = Backbone.inputs
    for name in (lab.vgg, lab.deep):
        for precision in lab.precisions:
            network = lab.load(name, precision)
            for batch in lab.batches:
                pixels = lab.draw_pixels(batch, network).to(lab.device)
                rate = batch / lab.measure(lambda: network.features(pixels))  # noqa: B023
                lab.figures[f"{name}, {precision}, batch {batch}: images/s"] = rate
            network.module.to(memory_format=torch.contiguous_format)
            with mock.patch.object(Backbone, "inputs", lambda *words: inputs(*words).contiguous()):
                first = batch / lab.measure(lambda: network.features(pixels))  # noqa: B023
            lab.figures[f"{name}, {precision}, channels first: images/s"] = first
            lab.ratios |= {f"channels_first_vs_last_{name}": first / rate} if precision == "float32" else {}
            if precision != "float32":
                exact = lab.figures[f"{name}, float32, batch {batch}: images/s"]
                lab.ratios[f"{precision}_vs_float32_{name}"] = rate / float(exact)
        if lab.cuda:
            lab.figures[f"{name}: GB of the GPU"] = torch.cuda.max_memory_reserved(lab.device) / 1e9
            torch.cuda.empty_cache()


def measure_builds(lab: Lab) -> None:
    """Build stores from JPEG files in every layout: images/s, the stage that binds, images/s of a CPU core, the plan."""
    for layout, precision in (("native", "float32"), ("native", "bfloat16"), ("readout", "float32"), ("aligned", "float32")):
        network, name = lab.load(lab.vgg, precision), f"{layout}, {precision}"
        dtype = "float16" if network.weights == "hed" else "float32"
        rows = 256 if layout == "aligned" else 64
        expected = estimate_build(lab.images, network, plan_store(lab.images, network, layout, dtype, rows), rows)
        speed = lab.build(network, f"speed {name}", layout, dtype, images=lab.images, rows=rows).speed
        pixels = lab.draw_pixels(min(rows, len(lab.images)), network).to(lab.device)
        alone = len(pixels) / lab.measure(lambda: network.features(pixels))  # noqa: B023
        rate, cores = float(speed["images_per_s"]), speed["processors"] * count_cpus()
        lab.ratios[f"build_vs_forward_{layout}_{precision}"] = rate / alone
        lab.ratios[f"plan_seconds_{layout}_{precision}"] = speed["seconds"] / expected.seconds
        lab.figures |= {f"{name}: images/s": rate, f"{name}: bound by": speed["bound_by"], f"{name}: CPU cores busy": cores}
        lab.figures |= {f"{name}: images/s a CPU core": rate / max(cores, 1e-9), f"{name}: peak GB": speed["peak_memory"] / 1e9}
        lab.figures |= {f"{name}: {stage}, s": seconds for stage, seconds in speed["stages"].items()}
        lab.figures[f"{name}: planned GB"] = expected.memory / 1e9


def check_sums(lab: Lab) -> None:
    """Compare the second moments of taps, and the heads that are solved from them, on the device with those of the CPU."""
    taps, target = draw_taps(lab, 8), torch.rand(GRID, GRID, dtype=torch.float64)
    on_device, on_cpu = DeviceMomentAccumulator(lab.device, 1, 0), TapMomentAccumulator(corners=False)
    for sums in (on_device, on_cpu):
        sums.add(taps)
    actual, expected = on_device.moments(), on_cpu.moments()
    assert actual is not None and expected is not None
    lab.ratios["sums_error"] = error = compare(actual.shift_to(expected.shift).second, expected.second)
    groups = [expected, expected]
    (ours,), (theirs,) = (solve_ridge(groups, [target], RidgeProtocol(), device=device) for device in (str(lab.device), None))
    lab.ratios["heads_error"] = heads_error = compare(ours.weight, theirs.weight)
    assert error < 1e-9, error
    assert heads_error < 1e-4, heads_error


def draw_taps(lab: Lab, images: int) -> list[Tensor]:
    """Return two taps of random images, as a store holds them."""
    half = lab.channels // 2
    return [torch.rand(images, half, 14, 14).half(), torch.rand(images, lab.channels - half, GRID, GRID).half()]


def measure_sweeps(lab: Lab) -> None:
    """Measure the sums and the solution of exact heads on all channels, on the device and on all CPU cores."""
    taps, target, seconds = draw_taps(lab, 32), torch.rand(GRID, GRID, dtype=torch.float64), dict[str, float]()
    sums: dict[str, DeviceMomentAccumulator | TapMomentAccumulator] = {
        "device": DeviceMomentAccumulator(lab.device, 1, 0),
        "CPU": TapMomentAccumulator(corners=False),
    }
    for name, accumulator in sums.items():
        seconds[name] = lab.measure(lambda: accumulator.add(taps)) / 32  # noqa: B023
        lab.figures[f"sums on the {name}: ms an image"] = 1000 * seconds[name]
    lab.ratios["sums_vs_cpu"] = seconds["CPU"] / seconds["device"]
    groups = [moments for moments in [sums["CPU"].moments()] * 2 if moments is not None]
    for name, device in (("device", str(lab.device)), ("CPU", None)):
        began = time.perf_counter()
        solve_ridge(groups, [target], RidgeProtocol(), device=device)
        seconds[name] = time.perf_counter() - began
        lab.figures[f"heads solved on the {name}: s"] = seconds[name]
    lab.ratios["solve_vs_cpu"] = seconds["CPU"] / seconds["device"]


def measure_compiled(lab: Lab) -> None:
    """Compile a network: seconds, speed and what it changes."""
    plain, began = lab.load(lab.small, "bfloat16"), time.perf_counter()
    compiled = lab.load(lab.small, "bfloat16+compile")
    pixels = lab.draw_pixels(lab.batches[-1], plain).to(lab.device)
    lab.figures["compiling, s"] = time.perf_counter() - began
    error = compare_taps(compiled.features(pixels), plain.features(pixels))
    lab.figures["compiled: error"] = error
    eager = lab.measure(lambda: plain.features(pixels))
    lab.ratios["compiled_vs_eager"] = eager / lab.measure(lambda: compiled.features(pixels))
    assert error < LIMITS["bfloat16"], error


SECTIONS: dict[str, tuple[Callable[[Lab], None], float]] = {
    "environment": (check_environment, 5), "features": (check_features, 20), "pipeline": (check_pipeline, 15),
    "overlap": (check_overlap, 5), "bytes": (check_bytes, 15), "memory": (check_memory, 15), "waiting": (check_waiting, 5),
    "builds": (measure_builds, 60), "passes": (measure_passes, 50), "sums": (check_sums, 10), "sweeps": (measure_sweeps, 20),
    "compiled": (measure_compiled, 60),
}  # fmt: skip
"""Name -> what it does, and the seconds below which it is not started."""
