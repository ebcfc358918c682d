"""Is the cost of training linear? Seconds of one sweep's training at four sizes of each amount, the others fixed.

images_exponent    600 to 4,800 images: aligned features, five heads by the report's recipe, 15 epochs; reading, moments, steps
epochs_exponent    25 to 200 epochs on 1,200 images, the same heads: steps; reading and moments are paid once
channels_exponent  320 to 1,280 channels, one head, two epochs on 200 images, by the convolution itself
gram_exponent      15 to 60 channels, five heads, 15 epochs on 600 images, in Gram space: moments are quadratic in channels
                   by nature, and are used only where they fit in 1 GiB; beyond, it is the convolution, which is linear

late_worker        a build by two Dask workers, of which one joins 10 s after the command has begun : by two that were there
                   before (seconds of workers present, an image)

An exponent of 1 is linear, below 1 a part that does not grow is paid off. Writes runs/bench/scaling.svg and .png.

    python benchmarks/scaling.py [--images 4800] [--json]
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure

from command import report_step, run
from posenet_store.heads.protocols import GradientProtocol
from posenet_store.store.reader import Reader
from posenet_store.sweep.moment_cache import MomentCache
from posenet_store.sweep.spec import SweepSpec
from posenet_store.threads import count_cpus
from processes import PROGRAM, run_dask, start, watch
from sweep import SPEC, build_noise_store, plan_single_pass, time_fit

STEPS = (1, 2, 4, 8)
REPEATS = 2
OUT = Path("runs/bench")
ONE_HEAD = replace(SPEC, inputs=("full",), targets=("H",), recipes=(GradientProtocol(epochs=2),))
Curve = dict[int, float]
BUILD = ("--images", "synthetic:dead-leaves?n=1600", "--backbone", "resnet18", "--weights", "random:0", "--no-probes")
LATE = 10.0
SETTLED = 8.0
"""Seconds that a worker takes to start."""


def time_training(root: Path, reader: Reader, spec: SweepSpec) -> float:
    """Seconds to train the only pass of a sweep, the best of two."""
    task = plan_single_pass(root, reader, spec)
    return min(time_fit(reader, task, MomentCache(None, ""))[0] for _ in range(REPEATS))


def time_sizes(images: int, root: Path) -> dict[str, Curve]:
    """Return seconds by size of each amount."""
    folder, rows = root / "images", images + images // 8
    reader = build_noise_store(folder, rows)
    report_step("images")
    first = {images * step // 8: replace(SPEC, holdout=1 - images * step / 8 / rows) for step in STEPS}
    time_training(folder, reader, first[images // 8])  # loads what the libraries load on first use
    curves = {"images": {size: time_training(folder, reader, spec) for size, spec in first.items()}}
    quarter, epochs = first[images // 4], [25 * step for step in STEPS]
    report_step("epochs")
    curves["epochs"] = {
        size: time_training(folder, reader, replace(quarter, recipes=(GradientProtocol(epochs=size),))) for size in epochs
    }
    several = replace(SPEC, inputs=("full",))
    for name, widths, spec, count in (("channels", (64, 128, 192, 256), ONE_HEAD, 223), ("gram", (3, 6, 12), several, 667)):
        report_step(name)
        curves[name] = {}
        for width in widths:
            folder = root / f"{name}{width}"
            curves[name][5 * width] = time_training(folder, build_noise_store(folder, count, 0, "native", (width,) * 5), spec)
    return curves


def fit_power_law(curve: Curve) -> tuple[float, float]:
    """Return exponent and factor of the power law through a curve."""
    exponent, factor = np.polyfit(np.log(list(curve)), np.log(list(curve.values())), 1)
    return float(exponent), float(np.exp(factor))


def draw_curves(curves: Mapping[str, Curve], out: Path) -> None:
    """Draw every curve with its power law."""
    matplotlib.rcParams["svg.hashsalt"] = "posenet"
    figure = Figure(figsize=(3 * len(curves), 3), layout="constrained")
    axes: Sequence[matplotlib.axes.Axes] = figure.subplots(1, len(curves), squeeze=False)[0]
    for (name, curve), axis in zip(curves.items(), axes, strict=True):
        exponent, factor = fit_power_law(curve)
        sizes = np.array(list(curve), dtype=float)
        axis.loglog(sizes, list(curve.values()), "o", color="#0072b2")
        axis.loglog(sizes, factor * sizes**exponent, color="#666666", label=f"size to the power {exponent:.2f}")
        axis.set_xlabel("channels in Gram space" if name == "gram" else name)
        axis.set_ylabel("seconds of training")
        axis.set_xticks(sizes, [f"{size:,.0f}" for size in sizes])
        axis.set_yticks(list(curve.values()), [f"{value:.3g}" for value in curve.values()])
        axis.minorticks_off()
        axis.legend(frameon=False, fontsize=8)
    out.mkdir(parents=True, exist_ok=True)
    figure.savefig(out / "scaling.svg", metadata={"Date": None})
    figure.savefig(out / "scaling.png", dpi=150)


def build_on_workers(folder: Path, late: bool) -> float:
    """Build a store on two Dask workers; return the seconds for which workers were present, together."""
    folder.mkdir()
    with run_dask(folder) as (address, start_worker):
        start_worker()
        if not late:
            start_worker()
        time.sleep(SETTLED)
        began = time.perf_counter()
        command = start((*PROGRAM, "build-store", *BUILD, "--scheduler", address), folder)
        if late:
            time.sleep(LATE)
            start_worker()
        watch(command, folder)
        return 2 * (time.perf_counter() - began) - (LATE if late else 0.0)


def measure(images: int, root: Path) -> tuple[dict[str, float], dict[str, float]]:
    """Return exponents, and the seconds behind them."""
    curves = time_sizes(images, root)
    draw_curves(curves, OUT)
    exponents = {f"{name}_exponent": fit_power_law(curve)[0] for name, curve in curves.items()}
    figures = {f"seconds, {size} {name}": value for name, curve in curves.items() for size, value in curve.items()}
    present = {}
    for name, late in (("both at once", False), ("one late", True)):
        report_step(f"a build on two workers, {name}")
        present[f"workers' seconds, {name}"] = build_on_workers(root / name.replace(" ", "_"), late)
    before, after = present.values()
    return exponents | {"late_worker": after / before}, figures | present


if __name__ == "__main__":
    torch.set_num_threads(count_cpus())
    run(__doc__, 4800, measure)
