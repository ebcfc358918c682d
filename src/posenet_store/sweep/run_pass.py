"""Run one pass: read a store once an epoch, train all its cells together, score them, write each cell."""

import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from torch import Tensor

from posenet_store.errors import StoreError
from posenet_store.heads.file import save_head
from posenet_store.heads.protocols import GradientProtocol
from posenet_store.parallel.worker import prepare_worker, release_memory
from posenet_store.provenance import collect_provenance
from posenet_store.store.read_counter import ReadCounter
from posenet_store.store.reader import Reader, open_store
from posenet_store.sweep.cell import HELD_OUT, make_cell_target
from posenet_store.sweep.grouping import FittedHeads, group_cells
from posenet_store.sweep.inputs import Input, parse_input
from posenet_store.sweep.moment_cache import MomentCache
from posenet_store.sweep.plan import Pass
from posenet_store.sweep.progress import report_progress
from posenet_store.sweep.results import Labels, PassResult, Result, RunFiles, ScoreSummary, write_result, write_scores
from posenet_store.sweep.score import Scorable, Scored, iterate_columns, read_inputs, score_heads
from posenet_store.sweep.strategy import choose
from posenet_store.sweep.training_inputs import TrainingInputs
from posenet_store.threads import map_on_threads

WRITERS = 8
"""Threads that write finished cells: each waits for the disk three times a cell."""


def make_scorable(fitted: FittedHeads) -> Scorable:
    """Return what scoring needs to know of a group's heads."""
    targets = [make_cell_target(cell) for cell in fitted.group.cells]
    return Scorable(fitted.heads, targets, fitted.group.channels)


def _iterate_tests(
    reader: Reader, tests: Sequence[Reader], source: Input, start: int
) -> Iterator[tuple[str, Iterable[Tensor]]]:
    if start < reader.spec.rows:
        yield HELD_OUT, read_inputs(reader, source, start, reader.spec.rows)
    for test in tests:
        yield from iterate_columns(test, source)


def _open_planned(path: Path, fingerprint: str) -> Reader:
    """Open a store; raises StoreError if it is not the one that was planned with."""
    reader = open_store(path)
    if reader.spec.fingerprint != fingerprint:
        raise StoreError(f"{path} is not the store that the sweep was planned with (fingerprint {fingerprint[:8]})")
    return reader


def run_pass(task: Pass, run: Path, threads: int) -> PassResult:
    """Train, score and write all cells of a pass below the folder `run`, and report there what has been read."""
    prepare_worker(threads)
    began, clock = time.time(), time.perf_counter()
    reader = _open_planned(task.train, task.store)
    tests = [_open_planned(path, fingerprint) for path, fingerprint in zip(task.tests, task.cells[0].tests, strict=True)]
    counters, files = [store.counter for store in (reader, *tests)], RunFiles(run)
    with report_progress(files.progress / task.id, counters):
        groups, columns = _train_and_score(task, reader, tests)
        seconds = (time.perf_counter() - clock) / len(task.cells)

        def write(place: tuple[int, int]) -> None:
            number, head = place
            scored = {test: column[number][head] for test, column in columns.items()}
            _write_cell(files, reader, groups[number], head, scored, seconds)

        places = [(number, head) for number, fitted in enumerate(groups) for head in range(len(fitted.group.cells))]
        map_on_threads(write, places, WRITERS)
    return PassResult(tuple(cell.id for cell in task.cells), sum(counters, ReadCounter()), began, time.perf_counter() - clock)


def fit_heads(task: Pass, reader: Reader, cache: MomentCache) -> list[FittedHeads]:
    """Fit all cells of a pass; raises StoreError if there is no readable image to train on."""
    source = parse_input(task.input, reader.spec)
    inputs = TrainingInputs(reader, source, task.train_rows)
    if not inputs.images:
        raise StoreError(f"{reader.files} has no readable image among its first {inputs.rows} rows to train on")
    if isinstance(task.protocol, GradientProtocol) and task.protocol.standardise:
        inputs = inputs.standardise(cache)
    groups = group_cells(task.cells, source, reader.spec)
    strategies = choose(groups, task.protocol, source.channels, task.train_rows, task.limits)
    return [heads for strategy in strategies for heads in strategy.fit(inputs, cache)]


def _train_and_score(
    task: Pass, reader: Reader, tests: Sequence[Reader]
) -> tuple[list[FittedHeads], dict[str, list[list[Scored]]]]:
    """Train all cells and score them; return the groups, and by test column a list a group with an entry a head."""
    source = parse_input(task.input, reader.spec)
    cache = MomentCache(task.moments and task.moments / reader.name, reader.manifest["store_id"])
    fitted = fit_heads(task, reader, cache)
    release_memory()
    scorable = [make_scorable(heads) for heads in fitted]
    columns = _iterate_tests(reader, tests, source, task.held_out)
    return fitted, {test: score_heads(blocks, scorable) for test, blocks in columns}


def _write_cell(
    files: RunFiles, reader: Reader, fitted: FittedHeads, head: int, scored: dict[str, Scored], seconds: float
) -> None:
    """Write the head, its scores, then the record that makes the cell count as finished."""
    cell = fitted.group.cells[head]
    labels = Labels.of(reader.spec)
    metadata = {"cell": cell.to_dict(), "network_key": reader.spec.network_key, **vars(labels)}
    save_head(files.head(cell.id), fitted.heads, head, metadata)
    arrays = {name: array for test, column in scored.items() for name, array in column.arrays(test).items()}
    write_scores(files.scores(cell.id), arrays)
    result = Result(
        cell=cell,
        labels=labels,
        scores={test: ScoreSummary.of(column.scores) for test, column in scored.items()},
        fit=dict(fitted.facts[head]),
        seconds=round(seconds, 4),
        provenance=collect_provenance(),
    )
    write_result(files, result)
