"""What a pass will cost, told before it runs: bytes read, memory, seconds, and how its heads will be trained.

Bytes and memory follow from the shapes. Seconds are extrapolated from a few units of the real work on the user's own machine.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from posenet_store.errors import PosenetStoreError
from posenet_store.heads.convolution import WIDE_CHANNELS
from posenet_store.heads.parameters import HeadArchitecture
from posenet_store.heads.protocols import GradientProtocol
from posenet_store.specs import GRID, StoreSpec
from posenet_store.store.chunking import count_row_bytes
from posenet_store.store.reader import open_store
from posenet_store.sweep.cell import make_cell_target, output_size
from posenet_store.sweep.grouping import HeadGroup, group_cells
from posenet_store.sweep.inputs import Input, parse_input
from posenet_store.sweep.moment_cache import MomentCache
from posenet_store.sweep.plan import Pass
from posenet_store.sweep.score import Scorable, read_blocks, score_heads
from posenet_store.sweep.spans import TrainingRows
from posenet_store.sweep.stopwatch import Stopwatch, repeat_random_image
from posenet_store.sweep.strategy import choose
from posenet_store.sweep.training_inputs import make_standard_key

RANKED = 6
"""Maps of one head while it is scored: its own, its flat copy, its ranks and what ranking needs."""
SCORED = "only scored"
"""What a plan says of heads that were trained before and lack a test."""
FEW_HEADS = 32
"""Of a group, whose scoring is timed for a plan."""


@dataclass(frozen=True)
class Cost:
    """Of one pass: `reading` and `memory` in bytes (memory beyond the process's own), `seconds`, and the way of training."""

    reading: int
    memory: int
    seconds: float
    way: str


def estimate_cost(task: Pass, specs: Mapping[str, StoreSpec], stopwatch: Stopwatch) -> Cost:
    """Return what a pass will cost; `specs` holds every store's spec by its fingerprint."""
    spec = specs[task.store]
    source, rows = parse_input(task.input, spec), task.train_rows
    groups = group_cells(task.cells, source, spec)
    tests = [(specs[test.fingerprint], specs[test.fingerprint].rows) for test in task.tests]
    tests.append((spec, spec.rows - task.held_out if task.trains else 0))
    strategies = choose(groups, task.protocol, source.channels, rows, task.limits) if task.trains else []
    standardises = task.trains and isinstance(task.protocol, GradientProtocol) and task.protocol.standardise
    training, cache = TrainingRows(source, rows, spec.rows, standardises), _open_cache(task)
    fits = [strategy.cost(training, cache, stopwatch) for strategy in strategies]
    rows_read = sum(fit.rows for fit in fits)
    rows_read += rows if standardises and not cache.holds(make_standard_key(training)) else 0
    # of what is stored, a block decoded and as it lies in its file; of what heads read, one held while another is made
    image = 2 * count_row_bytes(spec, source.arrays) + source.channels * GRID**2 * 8
    scoring = max(store.block_rows for store, count in tests if count) * (image + max(map(_scoring_numbers, groups)) * 8)
    fitting = max((fit.memory for fit in fits), default=0) + spec.block_rows * image
    memory = max(fitting, scoring)  # training ends before scoring begins
    scored = sum(count for _, count in tests)
    reading = count_row_bytes(spec, source.arrays) * rows_read
    reading += sum(count_row_bytes(store, source.arrays) * count for store, count in tests)
    seconds = sum(fit.seconds for fit in fits) + sum(_time_scoring(group, scored, stopwatch) for group in groups)
    first_block = task.train, source, min(spec.block_rows, spec.rows)
    of_taps = sum(fit.rows for fit in fits if fit.reads_taps)
    for count, on_grid in ((of_taps, False), (rows_read - of_taps, True)):
        scans = -(-count // rows)
        seconds += _time_reading(*first_block, scans, on_grid, stopwatch) * count / max(1, scans)
    seconds += _time_reading(*first_block, 1, True, stopwatch) * scored
    return Cost(reading, memory, seconds, "+".join(strategy.name for strategy in strategies) or SCORED)


def _open_cache(task: Pass) -> MomentCache:
    """Return the kept moments of the store that a pass trains on; the store is opened only if there are any."""
    folder = task.moments and task.moments / task.train.name
    return MomentCache(folder, open_store(task.train).manifest["store_id"] if folder and folder.is_dir() else "")


def _time_reading(store: Path, source: Input, rows: int, scans: int, on_grid: bool, stopwatch: Stopwatch) -> float:
    """Return the seconds that it takes to read an image so many times, timed on the first rows; at first files are checked.

    Taps are resized to the grid, or left as they are stored.
    """

    def scan(times: int) -> None:
        reader = open_store(store)
        for _ in range(times):
            for block in read_blocks(reader, source, 0, rows):
                for part in [block.grid] if on_grid else block.taps:
                    part.sum()

    return stopwatch.extrapolate(("reading", store, source, on_grid), scan, scans) / rows


def _time_scoring(group: HeadGroup, images: int, stopwatch: Stopwatch) -> float:
    """Return the seconds that it takes to predict and score the maps of a group's heads for so many images."""
    cells = group.cells[:FEW_HEADS]
    protocol = group.cells[0].protocol
    recipe = protocol if isinstance(protocol, GradientProtocol) else GradientProtocol()
    architecture = HeadArchitecture(group.width, *group.shape, recipe)

    def score(images: int) -> None:
        parameters = architecture.draw_parameters(0).repeat(len(cells), 1)
        heads = architecture.make_heads(parameters, architecture.make_running_statistics(len(cells)))
        block = repeat_random_image(images, group.width)
        score_heads([block], [Scorable(heads, [make_cell_target(cell) for cell in cells])])

    kind = ("scoring", group.width, group.shape, len(cells), recipe)
    return stopwatch.extrapolate(kind, score, images) * len(group.cells) / len(cells)


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
    """Return the seconds of each pass by its id; none of a pass whose store can't be read: the pass will say so."""
    stopwatch, seconds = Stopwatch(), {}
    for task in passes:
        with suppress(PosenetStoreError):
            seconds[task.id] = estimate_cost(task, specs, stopwatch).seconds
    return seconds
