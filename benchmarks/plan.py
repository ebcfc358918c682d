"""Is a plan true? Every training strategy is planned and run once, on generated features; seconds and memory are compared.

A store of noise (aligned [15, 28, 28], and one tap [96, 14, 14] in full) is swept by processes of their own, two a strategy.
Speeds are measured right before each run, and the smaller of two times counts: other programs only make both longer.

seconds_STRATEGY  measured seconds of a pass : planned ones
memory_STRATEGY   measured peak, with what the libraries hold : planned one

    python benchmarks/plan.py [--images 2000] [--json]
"""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from command import Figures, report_step, run
from posenet_store.files import sha256
from posenet_store.specs import Preprocess, StoreSpec, Tap
from posenet_store.store.plan import Plan
from posenet_store.store.writer import StoreWriter

SHAPES = {"f1": (96, 14, 14), "f2": (3, 28, 28), "f3": (3, 28, 28), "f4": (3, 28, 28), "f5": (3, 28, 28)}
REPEATS = 2  # the smaller planned and the smaller measured time count: other programs only make both longer
RIDGE: dict[str, object] = {"kernels": (3,), "protocols": ("ridge",), "inputs": ("full:f1",), "train_images": (400,)}
ITERATED = RIDGE | {"unknowns": 500, "ridge": {"iterations": 3}}
CASES: dict[str, dict[str, object]] = {
    "gram, kernel 3": {"kernels": (3,), "recipes": {"epochs": 15}},
    "gram, kernel 5": {"kernels": (5,), "recipes": {"epochs": 4}, "train_images": (500,)},
    "convolution, in memory": {"kernels": (7,), "recipes": {"epochs": 1}, "memory": 0.4e9, "train_images": (500,)},
    "convolution, streamed": {"kernels": (7,), "recipes": {"epochs": 1}, "memory": 1e7, "train_images": (500,)},
    "exact, 3x3": RIDGE,
    "exact, folds": {"kernels": (1,), "protocols": ("ridge",), "inputs": ("full",), "ridge": {"folds": 5}},
    "conjugate gradients, in memory": ITERATED,
    "conjugate gradients, streamed": ITERATED | {"memory": 1e8},
}
CHILD = """
import json, sys, tempfile, time
from pathlib import Path
from posenet_store.heads.protocols import GradientProtocol, RidgeProtocol
from posenet_store.store.catalogue import list_stores
from posenet_store.sweep.cost import estimate_cost
from posenet_store.sweep.limits import Limits
from posenet_store.sweep.plan import plan_sweep
from posenet_store.sweep.results import RunFiles
from posenet_store.sweep.run_pass import run_pass
from posenet_store.sweep.spec import SweepSpec
from posenet_store.sweep.stopwatch import Stopwatch
from posenet_store.threads import count_cpus
root, case = Path(sys.argv[1]), json.loads(sys.argv[2])
def read_status(key):
    return int(Path("/proc/self/status").read_text().split(key)[1].split()[0]) * 1024
limits = Limits(int(case.pop("memory", 8e9)), case.pop("unknowns", 6000))
protocols = (GradientProtocol(**case.pop("recipes", {})), RidgeProtocol(**case.pop("ridge", {})))
options = {key: tuple(value) for key, value in case.items()}
spec = SweepSpec(title="plan", tests=(), holdout=0.05, seeds=(0,), recipes=protocols, **options)
stores = list_stores(root)[0]
(task,) = plan_sweep(spec, stores, root, keep_moments=False, limits=limits).passes
began = time.perf_counter()
cost = estimate_cost(task, {entry.spec.fingerprint: entry.spec for entry in stores}, Stopwatch())
print("planned in", time.perf_counter() - began, file=sys.stderr)
before = read_status("VmRSS:")
run = Path(tempfile.mkdtemp(dir=root.parent))
RunFiles(run).create()
began = time.perf_counter()
run_pass(task, run, count_cpus())
seconds = time.perf_counter() - began
print(json.dumps([cost.way, cost.seconds, seconds, before + cost.memory, read_status("VmHWM:")]))
"""


def write_store(root: Path, images: int, shapes: Mapping[str, tuple[int, int, int]] = SHAPES) -> None:
    """Write a store of rectified noise with all channels of taps of these shapes."""
    taps = tuple(Tap(name, name, shape) for name, shape in shapes.items())
    preprocess = Preprocess(224, 1.0, (0.0,) * 3, (1.0,) * 3)
    spec = StoreSpec("noise", "noise", "00", "report", taps, preprocess, "noise", "00", images, "native", "float16", 64)
    ids = tuple(f"{row:05d}" for row in range(images))
    writer = StoreWriter.open(root, Plan(spec, ids, tuple(sha256(i.encode()) for i in ids), tuple(range(images)), {}))
    rng = np.random.default_rng(0)
    for block, (start, stop) in enumerate(writer.plan.bounds):
        arrays = {
            name: np.maximum(rng.standard_normal((stop - start, *shape), dtype=np.float32), 0).astype(np.float16)
            for name, shape in writer.plan.spec.arrays.items()
        }
        writer.commit(block, arrays, [])
    writer.seal({})


def run_case(stores: Path, case: dict[str, object]) -> list[Any]:
    """Plan and run a case in a process of its own: its strategy, planned and measured seconds, planned and measured bytes."""
    command = [sys.executable, "-c", CHILD, str(stores), json.dumps(case)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    result: list[Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def measure(images: int, root: Path) -> tuple[Figures, Figures]:
    """Return measured : planned of every strategy, and the figures."""
    write_store(root / "stores", images)
    ratios: Figures = {}
    figures: Figures = {}
    for name, case in CASES.items():
        report_step(name)
        runs = [run_case(root / "stores", case) for _ in range(REPEATS)]
        planned, seconds = (min(run[index] for run in runs) for index in (1, 2))
        memory, peak = (max(run[index] for run in runs) / 1e6 for index in (3, 4))
        figures |= {f"{name}: strategy": str(runs[0][0]), f"{name}: planned s": planned, f"{name}: measured s": seconds}
        figures |= {f"{name}: planned MB": memory, f"{name}: measured MB": peak}
        ratios |= {f"seconds_{name}": seconds / planned, f"memory_{name}": peak / memory}
        report_step(f"  {runs[0][0]}: {seconds:.2f} s of {planned:.2f} planned, {peak:.0f} MB of {memory:.0f} planned")
    return ratios, figures


if __name__ == "__main__":
    run(__doc__, 2000, measure)
