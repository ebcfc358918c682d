"""Running one pass: read a store once an epoch, train all its cells together, score them, write each cell."""

import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from torch import Tensor

from posenet_store.errors import StoreError
from posenet_store.heads.file import save_head
from posenet_store.heads.protocols import GradientProtocol
from posenet_store.parallel.worker import prepare_worker, release_memory
from posenet_store.provenance import collect_provenance
from posenet_store.store.reader import ReadCounter, Reader, open_store
from posenet_store.sweep.cell import HELD_OUT, make_cell_target
from posenet_store.sweep.grouping import FittedHeads, group_cells
from posenet_store.sweep.inputs import Input, parse_input
from posenet_store.sweep.moment_cache import MomentCache
from posenet_store.sweep.plan import Pass
from posenet_store.sweep.progress import report_progress
from posenet_store.sweep.results import Labels, PassResult, Result, RunFiles, ScoreSummary, write_result, write_scores
from posenet_store.sweep.score import Scorable, Scored, columns_of, read_inputs, score_heads
from posenet_store.sweep.strategy import choose
from posenet_store.sweep.training_inputs import TrainingInputs


def make_scorable(fitted: FittedHeads) -> Scorable:
    """Return what scoring needs to know of a group's heads."""
    targets = [make_cell_target(cell) for cell in fitted.group.cells]
    return Scorable(fitted.heads, targets, fitted.group.channels)


def _test_columns(reader: Reader, tests: Sequence[Reader], source: Input, start: int) -> Iterator[tuple[str, Iterable[Tensor]]]:
    if start < reader.spec.rows:
        yield HELD_OUT, read_inputs(reader, source, start, reader.spec.rows)
    for test in tests:
        yield from columns_of(test, source)


def _opened(path: Path, fingerprint: str) -> Reader:
    reader = open_store(path)
    if reader.spec.fingerprint != fingerprint:
        raise StoreError(f"{path} is not the store that the sweep was planned with (fingerprint {fingerprint[:8]})")
    return reader


def run_pass(task: Pass, run: Path, threads: int) -> PassResult:
    """Train, score and write all cells of a pass below the folder `run`; what is read is told there meanwhile."""
    prepare_worker(threads)
    when, began = time.time(), time.perf_counter()
    reader = _opened(task.train, task.cells[0].store)
    tests = [_opened(path, fingerprint) for path, fingerprint in zip(task.tests, task.cells[0].tests, strict=True)]
    counters, files = [one.counter for one in (reader, *tests)], RunFiles(run)
    with report_progress(files.progress / task.id, counters):
        fitted, columns = _trained(task, reader, tests)
        seconds = (time.perf_counter() - began) / len(task.cells)
        for number, group in enumerate(fitted):
            for place in range(len(group.group.cells)):
                scored = {name: column[number][place] for name, column in columns.items()}
                _write_cell(files, reader, group, place, scored, seconds)
    return PassResult(tuple(cell.id for cell in task.cells), sum(counters, ReadCounter()), when, time.perf_counter() - began)


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


def _trained(task: Pass, reader: Reader, tests: Sequence[Reader]) -> tuple[list[FittedHeads], dict[str, list[list[Scored]]]]:
    """Train all cells and score them on every test column."""
    source = parse_input(task.input, reader.spec)
    cache = MomentCache(task.moments and task.moments / reader.name, reader.manifest["store_id"])
    fitted = fit_heads(task, reader, cache)
    release_memory()
    scorable = [make_scorable(one) for one in fitted]
    tested = _test_columns(reader, tests, source, task.held_out)
    return fitted, {name: score_heads(blocks, scorable) for name, blocks in tested}


def _write_cell(
    files: RunFiles, reader: Reader, group: FittedHeads, place: int, scored: dict[str, Scored], seconds: float
) -> None:
    """Write head, scores, then the record that makes the cell count."""
    cell = group.group.cells[place]
    labels = Labels.of(reader.spec)
    metadata = {"cell": cell.to_dict(), "network_key": reader.spec.network_key, **vars(labels)}
    save_head(files.head(cell.id), group.heads, place, metadata)
    arrays = [one.arrays(name) for name, one in scored.items()]
    write_scores(files.scores(cell.id), {name: array for some in arrays for name, array in some.items()})
    result = Result(
        cell=cell,
        labels=labels,
        scores={test: ScoreSummary.of(heads.scores) for test, heads in scored.items()},
        fit=dict(group.facts[place]),
        seconds=round(seconds, 4),
        provenance=collect_provenance(),
    )
    write_result(files, result)
