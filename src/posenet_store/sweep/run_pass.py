"""Run one pass: read a store once an epoch, train all its cells together, score them, write each cell."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from posenet_store.backbones.device import parse_device
from posenet_store.errors import StoreError
from posenet_store.heads.file import load_head, save_head
from posenet_store.heads.model import join_heads
from posenet_store.heads.own_maps import MAPS, load_maps
from posenet_store.heads.protocols import GradientProtocol
from posenet_store.parallel.worker import prepare_worker, release_memory
from posenet_store.provenance import collect_provenance
from posenet_store.store.read_counter import ReadCounter
from posenet_store.store.reader import Reader, open_store
from posenet_store.sweep.cell import HELD_OUT, make_cell_target
from posenet_store.sweep.device import describe_fit
from posenet_store.sweep.grouping import FittedHeads, group_cells
from posenet_store.sweep.inputs import parse_input
from posenet_store.sweep.labels import Labels
from posenet_store.sweep.limits import Strategy
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
from posenet_store.sweep.score import Column, Scorable, Scored, join_ranges, list_columns, score_heads
from posenet_store.sweep.strategy import choose
from posenet_store.sweep.training_inputs import TrainingInputs
from posenet_store.threads import map_on_threads

WRITERS = 8
"""Threads that write finished cells: each waits for the disk three times a cell."""
ColumnScores = Sequence[tuple[Column, Scored]]
"""A head's scores by test column."""


def make_scorable(fitted: FittedHeads) -> Scorable:
    """Return what scoring needs to know of a group's heads."""
    targets = [make_cell_target(cell) for cell in fitted.group.cells]
    return Scorable(fitted.heads, targets, fitted.group.channels)


def _open_planned(path: Path, fingerprint: str) -> Reader:
    """Open a store; raises StoreError if it is not the one that was planned with."""
    reader = open_store(path)
    if reader.spec.fingerprint != fingerprint:
        raise StoreError(f"{path} is not the store that the sweep was planned with (fingerprint {fingerprint[:8]})")
    return reader


class OpenPass:
    """A pass whose stores are open, and the files of its run: what workers do of it.

    Raises StoreError if a store is missing, damaged or not the one that was planned with, UsageError if this machine does not
    have the device.
    """

    def __init__(self, task: Pass, run: Path) -> None:
        self.task, self.files = task, RunFiles(run)
        if task.limits.device is not None:
            parse_device(task.limits.device)
        load_maps(run / MAPS)
        self.reader = _open_planned(task.train, task.store)
        self._tests = [_open_planned(test.path, test.fingerprint) for test in task.tests]
        self.source = parse_input(task.input, self.reader.spec)
        self.cache = MomentCache(task.moments and task.moments / self.reader.name, self.reader.manifest["store_id"])

    @property
    def counters(self) -> list[ReadCounter]:
        """What has been read of each store."""
        return [store.counter for store in (self.reader, *self._tests)]

    def list_columns(self) -> list[Column]:
        """Return each test column: the held-out rows, if the pass trains, and those of the stores that test."""
        held_out = self.task.trains and self.task.held_out < self.reader.spec.rows
        columns = [Column(HELD_OUT, self.reader, self.task.held_out, self.reader.spec.rows)] if held_out else []
        for planned, test in zip(self.task.tests, self._tests, strict=True):
            columns += list_columns(test, planned.name)
        return columns

    def fit(self) -> list[FittedHeads]:
        """Fit the heads and save them; a cell is finished only when its record is written."""
        groups = fit_heads(self.task, self.reader, self.cache)
        release_memory()
        labels, spec, plan = Labels.of(self.reader.spec), self.reader.spec, self.reader.plan
        metadata = {"network_key": spec.network_key, **vars(labels)}
        if plan.provenance.get("weights_source"):
            metadata["network_spec"] = vars(plan.find_backbone_spec())

        def save(position: tuple[int, int]) -> None:
            fitted, head = groups[position[0]], position[1]
            cell = fitted.group.cells[head]
            save_head(self.files.head(cell.id), fitted.heads, head, {"cell": cell.to_dict()} | metadata)

        map_on_threads(save, _list_positions(groups), WRITERS)
        return groups

    def load_heads(self, facts: Mapping[str, dict[str, float]] | None = None) -> list[FittedHeads]:
        """Load the heads of the pass from the run, with the facts of their fits by the cells' ids if they are given."""
        return [
            FittedHeads(
                group,
                join_heads([load_head(self.files.head(cell.id))[0] for cell in group.cells]),
                tuple((facts or {}).get(cell.id, {}) for cell in group.cells),
            )
            for group in group_cells(self.task.cells, self.source, self.reader.spec)
        ]

    def score(self, column: Column, groups: Sequence[FittedHeads]) -> list[list[Scored]]:
        """Score all heads on a range of a test column: a list of each group, with an entry of each head."""
        return score_heads(column.read(self.source), [make_scorable(heads) for heads in groups])

    def write(
        self, groups: Sequence[FittedHeads], columns: Sequence[Column], scored: Sequence[list[list[Scored]]], seconds: float
    ) -> None:
        """Write all cells with their scores on the test columns; `seconds` is how long each has taken."""

        def write(position: tuple[int, int]) -> None:
            number, head = position
            of_columns = [(column, of_groups[number][head]) for column, of_groups in zip(columns, scored, strict=True)]
            if self.task.trains:
                _write_cell(self, groups[number], head, of_columns, seconds)
            else:
                _add_scores(self.files, groups[number].group.cells[head].id, of_columns)

        map_on_threads(write, _list_positions(groups), WRITERS)


def run_pass(task: Pass, run: Path, threads: int) -> PassResult:
    """Train, score and write all cells of a pass below the folder `run`, and report there what has been read."""
    prepare_worker(threads)
    began, clock = time.time(), time.perf_counter()
    work = OpenPass(task, run)
    with report_progress(work.files.progress / task.id, work.counters):
        groups = work.fit() if task.trains else work.load_heads()
        columns = work.list_columns()
        scored = [join_ranges([work.score(part, groups) for part in column.split()]) for column in columns]
        work.write(groups, columns, scored, (time.perf_counter() - clock) / len(task.cells))
    read = sum(work.counters, ReadCounter())
    return PassResult(tuple(cell.id for cell in task.cells), read, began, time.perf_counter() - clock)


def open_inputs(task: Pass, reader: Reader) -> TrainingInputs:
    """Return the images that a pass trains on; raises StoreError if none is readable."""
    inputs = TrainingInputs(reader, parse_input(task.input, reader.spec), task.train_rows)
    if not inputs.images:
        raise StoreError(f"{reader.files} has no readable image among its first {inputs.rows} rows to train on")
    return inputs


def fit_heads(task: Pass, reader: Reader, cache: MomentCache) -> list[FittedHeads]:
    """Fit all cells of a pass; raises StoreError if there is no readable image to train on."""
    inputs = open_inputs(task, reader)
    if isinstance(task.protocol, GradientProtocol) and task.protocol.standardise:
        inputs = inputs.standardise(cache)
    return [heads for strategy in list_strategies(task, reader) for heads in strategy.fit(inputs, cache)]


def list_strategies(task: Pass, reader: Reader) -> list[Strategy]:
    """Return how the heads of a pass are fitted."""
    source = parse_input(task.input, reader.spec)
    groups = group_cells(task.cells, source, reader.spec)
    return choose(groups, task.protocol, source.channels, task.train_rows, task.limits)


def _list_positions(groups: Sequence[FittedHeads]) -> list[tuple[int, int]]:
    """Return group and number of each head."""
    return [(number, head) for number, fitted in enumerate(groups) for head in range(len(fitted.group.cells))]


def _list_arrays(scored: ColumnScores) -> dict[str, NDArray[Any]]:
    """Return all arrays of a cell's test columns by their names in its file."""
    return {name: array for column, of_test in scored for name, array in of_test.arrays(column.name).items()}


def _summarise(scored: ColumnScores) -> tuple[dict[str, ScoreSummary], dict[str, str]]:
    """Return the mean scores and the fingerprint of the store of each test column."""
    summaries = {column.name: ScoreSummary.of(of_test.scores, column.images_sha256) for column, of_test in scored}
    return summaries, {column.name: column.reader.spec.fingerprint for column, _ in scored}


def _write_cell(work: OpenPass, fitted: FittedHeads, head: int, scored: ColumnScores, seconds: float) -> None:
    """Write the scores of a head that is saved, then the record that makes its cell count as finished."""
    cell, files = fitted.group.cells[head], work.files
    write_scores(files.scores(cell.id), _list_arrays(scored))
    summaries, stores = _summarise(scored)
    result = Result(
        cell=cell,
        labels=Labels.of(work.reader.spec),
        scores=summaries,
        tests=stores,
        fit=dict(fitted.facts[head]),
        seconds=round(seconds, 4),
        provenance=collect_provenance() | describe_fit(work.task.limits.device),
    )
    write_result(files, result)


def _add_scores(files: RunFiles, cell: str, scored: ColumnScores) -> None:
    """Add test columns to a finished cell, in place of those of the same name or store: its scores, then its record."""
    result, arrays = read_result(files, cell), read_scores(files.scores(cell))
    summaries, stores = _summarise(scored)
    remaining = {test: store for test, store in result.tests.items() if test not in stores and store not in stores.values()}
    arrays = {name: array for name, array in arrays.items() if name.partition("/")[2] in remaining}
    write_scores(files.scores(cell), arrays | _list_arrays(scored))
    scores = {test: result.scores[test] for test in remaining} | summaries
    write_result(files, replace(result, scores=scores, tests=remaining | stores))
