"""Run one pass: read a store once an epoch, train all its cells together, score them, write each cell."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from posenet_store.errors import StoreError
from posenet_store.heads.file import load_head, save_head
from posenet_store.heads.model import join_heads
from posenet_store.heads.protocols import GradientProtocol
from posenet_store.parallel.worker import prepare_worker, release_memory
from posenet_store.provenance import collect_provenance
from posenet_store.store.read_counter import ReadCounter
from posenet_store.store.reader import Reader, open_store
from posenet_store.sweep.cell import HELD_OUT, make_cell_target
from posenet_store.sweep.grouping import FittedHeads, group_cells
from posenet_store.sweep.inputs import parse_input
from posenet_store.sweep.labels import Labels
from posenet_store.sweep.moment_cache import MomentCache
from posenet_store.sweep.plan import Pass
from posenet_store.sweep.progress import report_progress
from posenet_store.sweep.results import (
    PassResult,
    Result,
    RunFiles,
    ScoreSummary,
    read_result,
    read_scores,
    write_result,
    write_scores,
)
from posenet_store.sweep.score import Column, Scorable, Scored, list_columns, score_heads
from posenet_store.sweep.strategy import choose
from posenet_store.sweep.training_inputs import TrainingInputs
from posenet_store.threads import map_on_threads

WRITERS = 8
"""Threads that write finished cells: each waits for the disk three times a cell."""


def make_scorable(fitted: FittedHeads) -> Scorable:
    """Return what scoring needs to know of a group's heads."""
    targets = [make_cell_target(cell) for cell in fitted.group.cells]
    return Scorable(fitted.heads, targets, fitted.group.channels)


ColumnScores = Sequence[tuple[Column, Scored]]
"""A head's scores by test column."""


def _list_tests(task: Pass, reader: Reader, tests: Sequence[Reader]) -> list[Column]:
    """Return each test column of a pass: the held-out rows, if it trains, and those of the stores `tests`."""
    held_out = task.trains and task.held_out < reader.spec.rows
    columns = [Column(HELD_OUT, reader, task.held_out, reader.spec.rows)] if held_out else []
    for planned, test in zip(task.tests, tests, strict=True):
        columns += list_columns(test, planned.name)
    return columns


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
    tests = [_open_planned(test.path, test.fingerprint) for test in task.tests]
    counters, files = [store.counter for store in (reader, *tests)], RunFiles(run)
    with report_progress(files.progress / task.id, counters):
        source = parse_input(task.input, reader.spec)
        cache = MomentCache(task.moments and task.moments / reader.name, reader.manifest["store_id"])
        groups = fit_heads(task, reader, cache) if task.trains else load_heads(task, reader, files)
        release_memory()
        scorable = [make_scorable(heads) for heads in groups]
        columns = _list_tests(task, reader, tests)
        of_columns = [score_heads(column.read(source), scorable) for column in columns]
        seconds = (time.perf_counter() - clock) / len(task.cells)

        def write(place: tuple[int, int]) -> None:
            number, head = place
            scored = [(column, of_groups[number][head]) for column, of_groups in zip(columns, of_columns, strict=True)]
            if task.trains:
                _write_cell(files, reader, groups[number], head, scored, seconds)
            else:
                _add_scores(files, groups[number].group.cells[head].id, scored)

        places = [(number, head) for number, fitted in enumerate(groups) for head in range(len(fitted.group.cells))]
        map_on_threads(write, places, WRITERS)
    return PassResult(tuple(cell.id for cell in task.cells), sum(counters, ReadCounter()), began, time.perf_counter() - clock)


def load_heads(task: Pass, reader: Reader, files: RunFiles) -> list[FittedHeads]:
    """Load the heads of a pass that were trained before."""
    groups = group_cells(task.cells, parse_input(task.input, reader.spec), reader.spec)
    return [
        FittedHeads(group, join_heads([load_head(files.head(cell.id))[0] for cell in group.cells]), ({},) * len(group.cells))
        for group in groups
    ]


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


def _list_arrays(scored: ColumnScores) -> dict[str, NDArray[Any]]:
    """Return all arrays of a cell's test columns by their names in its file."""
    return {name: array for column, of_test in scored for name, array in of_test.arrays(column.name).items()}


def _summarise(scored: ColumnScores) -> tuple[dict[str, ScoreSummary], dict[str, str]]:
    """Return the mean scores and the fingerprint of the store of each test column."""
    summaries = {column.name: ScoreSummary.of(of_test.scores, column.images_sha256) for column, of_test in scored}
    return summaries, {column.name: column.reader.spec.fingerprint for column, _ in scored}


def _write_cell(files: RunFiles, reader: Reader, fitted: FittedHeads, head: int, scored: ColumnScores, seconds: float) -> None:
    """Write the head, its scores, then the record that makes the cell count as finished."""
    cell = fitted.group.cells[head]
    labels = Labels.of(reader.spec)
    metadata = {"cell": cell.to_dict(), "network_key": reader.spec.network_key, **vars(labels)}
    if reader.plan.provenance.get("weights_source"):
        metadata["network_spec"] = vars(reader.plan.find_backbone_spec())
    save_head(files.head(cell.id), fitted.heads, head, metadata)
    write_scores(files.scores(cell.id), _list_arrays(scored))
    summaries, stores = _summarise(scored)
    result = Result(
        cell=cell,
        labels=labels,
        scores=summaries,
        tests=stores,
        fit=dict(fitted.facts[head]),
        seconds=round(seconds, 4),
        provenance=collect_provenance(),
    )
    write_result(files, result)


def _add_scores(files: RunFiles, cell: str, scored: ColumnScores) -> None:
    """Add test columns to a finished cell, in place of those of the same name or store: its scores, then its record."""
    result, arrays = read_result(files, cell), read_scores(files.scores(cell))
    summaries, stores = _summarise(scored)
    kept = {test: store for test, store in result.tests.items() if test not in stores and store not in stores.values()}
    arrays = {name: array for name, array in arrays.items() if name.partition("/")[2] in kept}
    write_scores(files.scores(cell), arrays | _list_arrays(scored))
    scores = {test: result.scores[test] for test in kept} | summaries
    write_result(files, replace(result, scores=scores, tests=kept | stores))
