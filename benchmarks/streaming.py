"""A store far larger than memory: how much memory does a sweep of it take, and do two sweeps at once disturb each other?

A store of one tap [64, 112, 112], float16, 4.3 GB before compression, is time_sweeps (exact and Gram space heads on all its
channels, kernel 1) by a process that may not hold more than 1.5 GB; then by two such processes at once.

memory_vs_limit the peak of the process's memory : 1.5 GB (below 1 is within)
memory_planned  planned memory, with what the libraries hold : measured peak
two_vs_one      seconds of two sweeps at once : of one alone

    python benchmarks/streaming.py [--images 2680] [--json]
"""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from command import report_step, run
from posenet_store.files import sha256
from posenet_store.specs import Preprocess, StoreSpec, Tap
from posenet_store.store.plan import Plan
from posenet_store.store.reader import open_store
from posenet_store.store.writer import StoreWriter

LIMIT = 1.5e9
SHAPE = (64, 112, 112)
SWEEP = """
import sys, time
from pathlib import Path
import torch
from posenet_store.store.catalogue import list_stores
from posenet_store.sweep.cost import estimate_cost
from posenet_store.sweep.plan import plan_sweep
from posenet_store.sweep.run import run_sweep
from posenet_store.sweep.spec import SweepSpec
from posenet_store.sweep.stopwatch import Stopwatch
root, run = Path(sys.argv[1]), Path(sys.argv[2])
def read_status(key):
    return int(Path("/proc/self/status").read_text().split(key)[1].split()[0]) * 1024
stores = list_stores(root)[0]
spec = SweepSpec(title="t", inputs=("full",), kernels=(1,), protocols=("ridge", "report-2020"), seeds=(0,), tests=())
plan = plan_sweep(spec, stores, root, keep_moments=False)
specs, stopwatch = {entry.spec.fingerprint: entry.spec for entry in stores}, Stopwatch()
costs = [estimate_cost(task, specs, stopwatch) for task in plan.passes]  # loads what the libraries load on first use
before = read_status("VmRSS:")
began = time.perf_counter()
outcome = run_sweep(spec, plan, run, scheduler="inline")
assert not outcome.failures, outcome.failures
print(read_status("VmHWM:"), before + max(cost.memory for cost in costs), time.perf_counter() - began)
"""


def write_large_store(root: Path, images: int) -> float:
    """Write the store; the features are noise, rectified as a network's. Return its bytes before compression."""
    preprocess = Preprocess(224, 1.0, (0.0,) * 3, (1.0,) * 3)
    taps = (Tap("f1", "features", SHAPE),)
    spec = StoreSpec("large", "noise", "00", "report", taps, preprocess, "noise", "00", images, "native", "float16", 64)
    ids = tuple(f"{row:05d}" for row in range(images))
    writer = StoreWriter.open(root, Plan(spec, ids, tuple(sha256(i.encode()) for i in ids), tuple(range(images)), {}))
    rng = np.random.default_rng(0)
    for block, (start, stop) in enumerate(writer.plan.bounds):
        values = np.maximum(rng.standard_normal((stop - start, *SHAPE), dtype=np.float32), 0).astype(np.float16)
        writer.commit(block, {"f1": values, "aligned": values[:, :3, :28, :28].copy()}, [])
    writer.seal({})
    open_store(writer.files.root)
    return float(images * np.prod(SHAPE) * 2)


def time_sweeps(root: Path, names: list[str]) -> list[tuple[float, float, float]]:
    """Sweep in processes of their own, at once; return measured bytes, planned bytes and seconds of each."""
    commands = [[sys.executable, "-c", SWEEP, str(root), str(root.parent / name)] for name in names]
    children = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]
    outputs = [child.communicate()[0].split() for child in children]
    return [(float(peak), float(planned), float(seconds)) for peak, planned, seconds in outputs]


def measure(images: int, root: Path) -> tuple[dict[str, float], dict[str, float]]:
    """Return ratios, and the figures behind them."""
    report_step("build")
    size = write_large_store(root / "stores", images)
    report_step("one sweep")
    ((peak, planned, seconds),) = time_sweeps(root / "stores", ["alone"])
    report_step("two sweeps at once")
    began = time.perf_counter()
    time_sweeps(root / "stores", ["first", "second"])
    both = time.perf_counter() - began
    ratios = {"memory_vs_limit": peak / LIMIT, "memory_planned": planned / peak, "two_vs_one": both / seconds}
    return ratios, {"store GB": size / 1e9, "measured MB": peak / 1e6, "planned MB": planned / 1e6, "seconds": seconds}


if __name__ == "__main__":
    run(__doc__, 2680, measure)
