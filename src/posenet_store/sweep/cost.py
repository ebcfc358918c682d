"""What a pass will cost, said before it runs: bytes read, memory, seconds, and how its heads will be trained.

Counts come from the shapes; speeds from a second's measurement on the user's own disk and processor.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from posenet_store.errors import PosenetStoreError
from posenet_store.heads.convolution import WIDE_CHANNELS
from posenet_store.heads.metrics import score_maps
from posenet_store.heads.moments import ImageMoments, compute_moments, moment_bytes, shares, solvable
from posenet_store.heads.protocols import GradientProtocol, RidgeProtocol
from posenet_store.heads.train_convolution import TrainingGroup, in_memory
from posenet_store.heads.train_gram import STEP_BYTES, fits, train_in_gram_space
from posenet_store.specs import GRID, StoreSpec
from posenet_store.store.chunking import row_bytes
from posenet_store.store.reader import open_store
from posenet_store.sweep.cell import output_size
from posenet_store.sweep.grouping import HeadGroup, MomentGroup, families, shifts, units, ways
from posenet_store.sweep.inputs import Input, parse_input
from posenet_store.sweep.plan import Pass
from posenet_store.threads import count_cpus

LONG = 60.0  # seconds
STEP_MEMORY = 2 * STEP_BYTES
RANKED = 6
"""Maps of one head while it is scored: its own, its flat copy, its ranks and what ranking needs."""


@dataclass(frozen=True)
class Speeds:
    """This machine's: bytes decoded a second, float64 operations a second of products and of sums of second moments (whose
    symmetric half is not computed, but counted), seconds a training step, seconds a map scored.
    """

    read: float
    multiply: float
    square: float
    step: float
    score: float


TYPICAL = Speeds(read=1e9, multiply=3e10, square=6e10, step=1e-4, score=1e-4)
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
    name = min(reader.spec.arrays, key=lambda array: row_bytes(reader.spec, [array]))
    stop = reader.bounds[0][1]
    read = row_bytes(reader.spec, [name]) * stop / _seconds(lambda: reader.read(name, 0, stop))
    wide = torch.randn(8, 136, 676, dtype=torch.float64)
    multiply = 2 * 8 * 136**2 * 676 / _seconds(lambda: wide @ wide.transpose(1, 2))
    maps = torch.randn(8, 512, GRID, GRID)
    square = 2 * 8 * 512**2 * GRID**2 / _seconds(lambda: compute_moments([maps], 1, 0))
    second = torch.ones(4, 136 * 137 // 2, dtype=torch.float64)
    moments = ImageMoments(second, torch.zeros(4, 1, 136, dtype=torch.float64), 676)
    order, head = (
        [np.arange(4)] * 500,
        TrainingGroup(3, 0, GradientProtocol(epochs=1), (0,), torch.zeros(1, 26, 26, dtype=torch.float64)),
    )
    step = _seconds(lambda: train_in_gram_space(moments, lambda epoch: order, 15, head)) / len(order)
    painted = np.random.default_rng(0).normal(size=(100, 26, 26))
    scored = _seconds(lambda: score_maps(painted, painted[0])) / len(painted)
    return Speeds(read, multiply, square, step, scored)


def estimate_cost(one: Pass, specs: Mapping[str, StoreSpec], speeds: Speeds) -> Cost:
    """Return what a pass will cost; `specs` holds every store's spec by its fingerprint."""
    spec = specs[one.cells[0].store]
    source, rows = parse_input(one.input, spec), one.cells[0].train_rows
    made = families(one.cells, source, spec)
    tests = [(specs[fingerprint], specs[fingerprint].rows) for fingerprint in one.cells[0].tests]
    tests.append((spec, spec.rows - one.cells[0].held_out))
    tested = sum(count for _, count in tests)
    seconds = tested * len(one.cells) * speeds.score
    reading = sum(row_bytes(store, source.arrays) * count for store, count in tests)
    largest = max(store.block_rows for store, count in tests if count)
    # of what is stored, a block decoded and as it lies in its file; of what heads read, one held while another is made
    image = 2 * row_bytes(spec, source.arrays) + source.channels * GRID**2 * 8
    scoring = largest * (image + max(map(_painting, made)) * 8)
    train = _recipe if isinstance(one.protocol, GradientProtocol) else _ridge
    scans, held, working, way = train(one, source, made, rows, speeds)
    read = row_bytes(spec, source.arrays) * rows
    memory = max(held + spec.block_rows * image, scoring)  # what was held to train is gone when heads are scored
    return Cost(reading + scans * read, memory, seconds + working + (reading + scans * read) / speeds.read, way)


def _painting(family: HeadGroup) -> int:
    """Return the numbers that an image takes while a family's heads paint it and one of them is scored.

    Of a convolution these are its inputs, its maps, and each position's neighbourhood or what `convolve` makes instead.
    """
    (kernel, padding), protocol, heads, channels = family.shape, family.cells[0].protocol, len(family.cells), family.width
    layers, most = protocol.layers if isinstance(protocol, GradientProtocol) else 1, 0
    for layer in range(1, layers + 1):
        area = output_size(kernel, padding, layer) ** 2
        maps = heads if layer == layers else heads * (family.recipe.hidden or family.width)
        wide = layer == 1 and channels >= WIDE_CHANNELS
        between = 0 if kernel == 1 else 2 * maps * kernel**2 * GRID**2 if wide else channels * kernel**2 * area
        most, channels = max(most, channels * GRID**2 + between + maps * area), maps
    area = max(area, protocol.size**2 if isinstance(protocol, GradientProtocol) else 0)
    return max(most, (heads + RANKED) * area)


def estimate_seconds(passes: Sequence[Pass], specs: Mapping[str, StoreSpec]) -> dict[str, float]:
    """Return the seconds of each pass by its id; speeds are measured only where it takes long enough to ask."""

    def seconds(speeds: Speeds) -> dict[str, float]:
        return {one.id: estimate_cost(one, specs, speeds).seconds for one in passes}

    found = seconds(TYPICAL)
    with suppress(PosenetStoreError):  # a store that can't be read: its pass will say so
        return found if sum(found.values()) < LONG else seconds(measure_speeds(passes))
    return found


def _recipe(one: Pass, source: Input, made: Sequence[HeadGroup], rows: int, speeds: Speeds) -> tuple[int, int, float, str]:
    """Scans of the training rows, bytes held, seconds at work, way."""
    recipe = made[0].recipe
    small, large = ways(made, source.channels, partial(fits, rows))
    epochs, runs = recipe.count_epochs(rows), shifts(small, rows)
    held, seconds = STEP_MEMORY if small else 0, 0.0
    held += max((sum(_moments_of(unit, rows) for unit in run) for run in runs), default=0)
    for unit in small:
        size, area = unit.width * unit.shape[0] ** 2 + 1, output_size(*unit.shape) ** 2
        seconds += 2 * rows * size**2 * area / speeds.square
        for family in unit.families:
            mine = family.width * unit.shape[0] ** 2 + 1
            eights = -(-len(family.cells) // 8)
            seconds += epochs * recipe.count_steps(rows) * (speeds.step + (eights - 1) * 16 * mine**2 / speeds.multiply)
    of_some = [family for unit in small for family in unit.families if unit.features(family) is not None]
    held += max((moment_bytes(rows, family.width, family.shape[0]) for family in of_some), default=0)
    seconds += sum(epochs * rows * _operations(family) / speeds.multiply for family in large)
    kept = bool(large) and in_memory(rows, source.channels)
    wide = 8 if recipe.standardise else 4  # bytes a number
    held += rows * source.channels * GRID**2 * wide * 2 if kept else 0
    scans = len(runs) + (0 if not large else 1 if kept else epochs) + (1 if recipe.standardise else 0)
    way = "+".join(["gram"] * bool(small) + (["convolution, in memory" if kept else "convolution, streamed"] if large else []))
    return scans, held, seconds, way


def _operations(family: HeadGroup) -> int:
    """Operations of one image in a step: of each layer a product forward, one back to its weights and one to its inputs."""
    recipe, (kernel, padding) = family.recipe, family.shape
    hidden = recipe.hidden or family.width
    total = 6 * family.width * kernel**2 * output_size(kernel, padding) ** 2 * (hidden if recipe.layers > 1 else 1)
    for layer in range(2, recipe.layers + 1):
        outputs = 1 if layer == recipe.layers else hidden
        total += 6 * hidden * outputs * kernel**2 * output_size(kernel, padding, layer) ** 2
    return total * len(family.cells)


def _moments_of(unit: MomentGroup, rows: int) -> int:
    size = unit.width * unit.shape[0] ** 2 + 1
    return moment_bytes(rows, unit.width, unit.shape[0]) + rows * len(unit.targets()) * size * 8


def _ridge(one: Pass, source: Input, made: Sequence[HeadGroup], rows: int, speeds: Speeds) -> tuple[int, int, float, str]:
    """Scans of the training rows (at most, where heads are iterated), bytes held, seconds at work, way."""
    if not isinstance(one.protocol, RidgeProtocol):
        raise TypeError(one.protocol)
    small, large = units(made, source.channels, solvable)
    groups = len(one.protocol.split_rows(rows))
    trials = len(one.protocol.left_out_groups(groups))
    seconds, held, most = 0.0, 0, 0
    for unit in small:
        size, area = unit.width * unit.shape[0] ** 2, output_size(*unit.shape) ** 2
        threads = shares(size, area, count_cpus())
        held += ((groups - 1 + threads) * (size + area) * size + (threads * size**2 if threads > 1 else 0)) * 8
        most = max(most, (8 * size**2 + 2 * size * area) * 8)  # groups pooled, an eigendecomposition and what it needs
        seconds += 2 * rows * size**2 * area / speeds.square
        # an eigendecomposition of each trial and of all: measured, each is as long as a product of 11 n^3 operations
        seconds += sum((trials + 1) * 11 * (f.width * f.shape[0] ** 2) ** 3 / speeds.multiply for f in unit.families)
    kept = bool(large) and in_memory(rows, source.channels)
    scans, lambdas = int(bool(small)) + int(kept), len(one.protocol.lambdas)
    held += rows * source.channels * GRID**2 * 4 if kept else 0
    for family in large:
        size, targets = family.width * family.shape[0] ** 2, len({cell.target for cell in family.cells})
        most = max(most, ((2 * lambdas + 8) * trials * targets * size + 2 * (groups + trials) * family.width * GRID**2) * 8)
        # every step paints all heads and gathers them back; the refit has one penalty a target
        seconds += 4 * one.protocol.iterations * rows * (trials + 1) * targets * size * GRID**2 / speeds.multiply
        scans += 0 if kept else 2 * one.protocol.iterations + 1 + int(trials > 0)
    way = "conjugate gradients, " + ("in memory" if kept else "streamed")
    return scans, held + most, seconds, "+".join(["exact"] * bool(small) + [way] * bool(large))
