"""What a pass will cost, said before it runs: bytes read, memory, seconds, and how its heads will be trained.

Counts come from the shapes; speeds from a second's measurement on the user's own disk and processor.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import torch

from posenet_store.errors import PosenetStoreError
from posenet_store.heads.convolution import WIDE_CHANNELS
from posenet_store.heads.metrics import score_maps
from posenet_store.heads.moments import ImageMoments, compute_moments
from posenet_store.heads.protocols import GradientProtocol
from posenet_store.heads.train_convolution import TrainingGroup, train_by_convolution
from posenet_store.heads.train_gram import train_in_gram_space
from posenet_store.specs import GRID, StoreSpec
from posenet_store.store.chunking import count_row_bytes
from posenet_store.store.reader import open_store
from posenet_store.sweep.cell import output_size
from posenet_store.sweep.grouping import HeadGroup, group_cells
from posenet_store.sweep.inputs import parse_input
from posenet_store.sweep.limits import Speeds
from posenet_store.sweep.plan import Pass
from posenet_store.sweep.strategy import choose

LONG = 60.0  # seconds
RANKED = 6
"""Maps of one head while it is scored: its own, its flat copy, its ranks and what ranking needs."""


TYPICAL = Speeds(read=1e9, multiply=3e10, square=6e10, unfold=4e9, step=1e-4, score=1e-4)
"""A desk computer's, where a rough idea will do."""


@dataclass(frozen=True)
class Cost:
    """Of one pass: `reading` and `memory` in bytes (memory beyond the process's own), `seconds`, and the way of training."""

    reading: int
    memory: int
    seconds: float
    way: str


def _seconds(work: Callable[[], object]) -> float:
    """The least of three: what disturbs a measurement makes it longer."""
    work()
    found = []
    for _ in range(3):
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    return min(found)


def measure_speeds(passes: Sequence[Pass]) -> Speeds:
    """Measure the speeds in about a second: one block of the first pass's store, one product, a few steps, a few maps."""
    reader = open_store(passes[0].train)
    name = min(reader.spec.arrays, key=lambda array: count_row_bytes(reader.spec, [array]))
    stop = reader.bounds[0][1]
    read = count_row_bytes(reader.spec, [name]) * stop / _seconds(lambda: reader.read(name, 0, stop))
    wide = torch.randn(8, 136, 676, dtype=torch.float64)
    multiply = 2 * 8 * 136**2 * 676 / _seconds(lambda: wide @ wide.transpose(1, 2))
    maps = torch.randn(8, 512, GRID, GRID)
    square = 2 * 8 * 512**2 * GRID**2 / _seconds(lambda: compute_moments([maps], 1, 0, 1 << 30))
    second = torch.ones(4, 136 * 137 // 2, dtype=torch.float64)
    moments = ImageMoments(second, torch.zeros(4, 1, 136, dtype=torch.float64), 676)
    order = [np.arange(4)] * 500
    step = _seconds(lambda: train_in_gram_space(moments, lambda epoch: order, 15, _make_head(3))) / len(order)
    batches = [torch.randn(4, 15, GRID, GRID)] * 10
    convolution = _seconds(lambda: train_by_convolution(lambda epoch: batches, 1, 15, [_make_head(5)])) / len(batches)
    unfold = 4 * 15 * 25 * 24**2 * 8 / convolution
    predicted = np.random.default_rng(0).normal(size=(100, 26, 26))
    scored = _seconds(lambda: score_maps(predicted, predicted[0])) / len(predicted)
    return Speeds(read, multiply, square, unfold, step, scored)


def _make_head(kernel: int) -> TrainingGroup:
    targets = torch.zeros(1, output_size(kernel, 0), output_size(kernel, 0), dtype=torch.float64)
    return TrainingGroup(kernel, 0, GradientProtocol(epochs=1), (0,), targets)


def estimate_cost(task: Pass, specs: Mapping[str, StoreSpec], speeds: Speeds) -> Cost:
    """Return what a pass will cost; `specs` holds every store's spec by its fingerprint."""
    spec = specs[task.store]
    source, rows = parse_input(task.input, spec), task.train_rows
    groups = group_cells(task.cells, source, spec)
    tests = [(specs[fingerprint], specs[fingerprint].rows) for fingerprint in task.cells[0].tests]
    tests.append((spec, spec.rows - task.held_out))
    reading = sum(count_row_bytes(store, source.arrays) * count for store, count in tests)
    # of what is stored, a block decoded and as it lies in its file; of what heads read, one held while another is made
    image = 2 * count_row_bytes(spec, source.arrays) + source.channels * GRID**2 * 8
    scoring = max(store.block_rows for store, count in tests if count) * (image + max(map(_scoring_numbers, groups)) * 8)
    strategies = choose(groups, task.protocol, source.channels, rows, task.limits)
    fits = [strategy.cost(rows, speeds) for strategy in strategies]
    scans = sum(fit.scans for fit in fits) + int(isinstance(task.protocol, GradientProtocol) and task.protocol.standardise)
    reading += scans * count_row_bytes(spec, source.arrays) * rows
    memory = max(max(fit.memory for fit in fits) + spec.block_rows * image, scoring)  # training ends before scoring begins
    scored = sum(count for _, count in tests) * len(task.cells)
    seconds = sum(fit.seconds for fit in fits) + scored * speeds.score + reading / speeds.read
    return Cost(reading, memory, seconds, "+".join(strategy.name for strategy in strategies))


def _scoring_numbers(group: HeadGroup) -> int:
    """Return the numbers that an image takes while a group's heads predict its maps and one of them is scored.

    Of a convolution these are its inputs, its maps, and each position's neighbourhood or what `convolve` makes instead.
    """
    (kernel, padding), protocol, heads, channels = group.shape, group.cells[0].protocol, len(group.cells), group.width
    layers, most = protocol.layers if isinstance(protocol, GradientProtocol) else 1, 0
    for layer in range(1, layers + 1):
        area = output_size(kernel, padding, layer) ** 2
        maps = heads if layer == layers else heads * (group.gradient_protocol.hidden or group.width)
        wide = layer == 1 and channels >= WIDE_CHANNELS
        between = 0 if kernel == 1 else 2 * maps * kernel**2 * GRID**2 if wide else channels * kernel**2 * area
        most, channels = max(most, channels * GRID**2 + between + maps * area), maps
    area = max(area, protocol.size**2 if isinstance(protocol, GradientProtocol) else 0)
    return max(most, (heads + RANKED) * area)


def estimate_seconds(passes: Sequence[Pass], specs: Mapping[str, StoreSpec]) -> dict[str, float]:
    """Return the seconds of each pass by its id; speeds are measured only where it takes long enough to ask."""

    def seconds(speeds: Speeds) -> dict[str, float]:
        return {task.id: estimate_cost(task, specs, speeds).seconds for task in passes}

    found = seconds(TYPICAL)
    with suppress(PosenetStoreError):  # a store that can't be read: its pass will say so
        return found if sum(found.values()) < LONG else seconds(measure_speeds(passes))
    return found
