"""What do exact heads on all channels cost, and do two workers share a pass?

Rectified noise as the taps of VGG-16 (native, float16; 1,472 channels), five targets, a fifth of the images held out.

grid_vs_taps    a pass of 500 images that sums over the grid (every tap resized to 28x28, all positions, float64, BLAS's
                symmetric product; one CPU core) : the same pass of ours, which sums taps as they are stored
spc_difference  the largest difference of a held-out image's SPC between the heads of both
workers2_vs_1   a pass of all images on one worker : on two, each with one CPU core, from the first step to the last cell
numbers_differ  numbers of heads, scores and maps of the latter two that differ in any bit

    python benchmarks/exact.py [--images 1280] [--json]
"""

import os
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file
from scipy.linalg.blas import dsyrk

from command import Figures, report_step, run
from plan import write_store
from posenet_store.heads.model import Heads
from posenet_store.heads.moments import Moments, check_and_mirror
from posenet_store.heads.protocols import RidgeProtocol
from posenet_store.heads.ridge import solve_ridge
from posenet_store.parallel.worker import prepare_worker
from posenet_store.store.catalogue import list_stores
from posenet_store.store.reader import Reader, open_store
from posenet_store.sweep.cell import make_cell_target
from posenet_store.sweep.grouping import HeadGroup, group_cells
from posenet_store.sweep.inputs import Input, parse_input
from posenet_store.sweep.moment_cache import MomentCache
from posenet_store.sweep.plan import Pass, plan_sweep
from posenet_store.sweep.run import run_sweep
from posenet_store.sweep.run_pass import fit_heads
from posenet_store.sweep.score import Scorable, read_inputs, score_heads
from posenet_store.sweep.spec import SweepSpec

SHAPES = {"f1": (64, 112, 112), "f2": (128, 56, 56), "f3": (256, 28, 28), "f4": (512, 14, 14), "f5": (512, 7, 7)}
TRAINED, TESTED = 400, 100
"""Images of the pass that is done over the grid too, which takes long."""
SPEC = SweepSpec(title="exact", tests=(), inputs=("full",), kernels=(1,), protocols=("ridge",))


def sum_on_grid(reader: Reader, source: Input, rows: tuple[int, int]) -> Moments:
    """Return the second moments of some rows as one product over all positions of the grid, image by image."""
    total: Moments | None = None
    for block in read_inputs(reader, source, *rows):
        for image in block.flatten(2).to(torch.float64):
            if total is None:
                zero = image.new_zeros
                total = Moments(1, 0, image.mean(1), 0, zero(len(image), len(image)), zero(image.shape))
            features = image - total.shift[:, None]
            dsyrk(1.0, features.numpy().T, 1.0, total.second.numpy().T, trans=1, overwrite_c=1)
            total.position += features
            total.images += 1
    assert total is not None
    check_and_mirror(total.second)
    return total


def fit_on_grid(task: Pass, reader: Reader, cells: HeadGroup) -> Heads:
    """Return the heads of the only group of a pass."""
    assert isinstance(task.protocol, RidgeProtocol)
    rows, source = task.protocol.split_rows(task.train_rows), parse_input(task.input, reader.spec)
    sums = [sum_on_grid(reader, source, group) for group in rows]
    heads = solve_ridge(sums, list(cells.alone().targets().values()), task.protocol)
    return Heads(torch.stack([head.weight for head in heads]), torch.stack([head.bias for head in heads]), 0)


def compare_sums(root: Path) -> tuple[float, float, float]:
    """Return the seconds of a pass over the grid and of ours, and the largest difference of an image's SPC."""
    (task,) = plan_sweep(replace(SPEC, train_images=(TRAINED,)), list_stores(root)[0], root, keep_moments=False).passes
    reader = open_store(task.train)
    source, (group,) = (
        parse_input(task.input, reader.spec),
        group_cells(task.cells, parse_input(task.input, reader.spec), reader.spec),
    )

    def score(heads: Heads) -> NDArray[np.float64]:
        scorable = Scorable(heads, [make_cell_target(cell) for cell in group.cells])
        ((*scored,),) = score_heads(read_inputs(reader, source, task.held_out, task.held_out + TESTED), [scorable])
        return np.stack([of_head.scores.spc for of_head in scored])

    def fit() -> Heads:
        return fit_heads(task, reader, MomentCache(None, ""))[0].heads

    seconds, scores = list[float](), list[NDArray[np.float64]]()
    for make_heads in (partial(fit_on_grid, task, reader, group), fit):
        began = time.perf_counter()
        scores.append(score(make_heads()))
        seconds.append(time.perf_counter() - began)
        report_step(f"  {seconds[-1]:.1f} s")
    return seconds[0], seconds[1], float(np.abs(scores[0] - scores[1]).max())


def time_workers(root: Path, run_folder: Path, workers: int, cores: set[int]) -> float:
    """Return the seconds of a pass on some workers, from its first step to its last cell."""
    os.sched_setaffinity(0, cores)  # workers inherit it
    plan = plan_sweep(SPEC, list_stores(root)[0], root, keep_moments=False)
    outcome = run_sweep(SPEC, plan, run_folder, scheduler="local", workers=workers)
    ended = max(path.stat().st_mtime for path in run_folder.glob("cells/*.json"))
    seconds = ended - outcome.passes[0].began
    report_step(f"  {seconds:.1f} s")
    return seconds


def count_differences(first: Path, second: Path) -> int:
    """Return how many numbers of heads, scores and maps of two runs differ in any bit."""
    files = [path.relative_to(first) for path in first.glob("*/*.safetensors")]
    pairs = [(load_file(first / path), load_file(second / path)) for path in files]
    bits = [(ours[name].view(np.uint8), theirs[name].view(np.uint8)) for ours, theirs in pairs for name in ours]
    return sum(int((own != other).sum()) for own, other in bits)


def measure(images: int, root: Path) -> tuple[Figures, Figures]:
    """Return ratios, and the seconds behind them."""
    report_step("generating features")
    write_store(root / "stores", images, SHAPES)
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    prepare_worker(1)
    report_step(f"a pass of {TRAINED + TESTED} images over the grid, and ours")
    grid, ours, difference = compare_sums(root / "stores")
    report_step("a pass of all images on one worker, and on two")
    one_worker = time_workers(root / "stores", root / "one", 1, {min(cores)})
    two_workers = time_workers(root / "stores", root / "two", 2, set(sorted(cores)[:2]))
    os.sched_setaffinity(0, cores)
    ratios: Figures = {
        "grid_vs_taps": grid / ours,
        "spc_difference": f"{difference:.1e}",
        "workers2_vs_1": one_worker / two_workers,
    }
    ratios["numbers_differ"] = count_differences(root / "one", root / "two")
    return ratios, {"over the grid, s": grid, "ours, s": ours, "one worker, s": one_worker, "two workers, s": two_workers}


if __name__ == "__main__":
    run(__doc__, 1280, measure)
