"""Run the steps of a shared pass on a worker (see `share`)."""

import time
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from posenet_store.heads.metrics import MapSums, Scores
from posenet_store.parallel.worker import prepare_worker
from posenet_store.store.read_counter import ReadCounter
from posenet_store.sweep.fit_ridge import NormalEquations
from posenet_store.sweep.progress import report_progress
from posenet_store.sweep.results import PassResult, read_scores, write_scores
from posenet_store.sweep.run_pass import OpenPass, list_strategies, open_inputs, run_pass
from posenet_store.sweep.score import Column, Scored, join_ranges
from posenet_store.sweep.share import Facts, FitHeads, ScoreRange, Step, StepResult, SumSpan, WholePass, WriteCells
from posenet_store.sweep.spans import Span


def run_step(step: Step, run: Path, threads: int) -> StepResult:
    """Run a step of a pass in the run's folder, and report there what has been read."""
    if isinstance(step, WholePass):
        return StepResult(run_pass(step.task, run, threads))
    prepare_worker(threads)
    began, clock = time.time(), time.perf_counter()
    work = OpenPass(step.task, run)
    with report_progress(work.files.progress / f"{step.task.id}-{_name_step(step)}", work.counters):
        facts, ranges = _do_step(work, step)
    read = sum(work.counters, ReadCounter())
    return StepResult(PassResult((), read, began, time.perf_counter() - clock), facts, ranges)


def _name_step(step: Step) -> str:
    """Return what tells a step from the others of its pass."""
    number = step.span[0] if isinstance(step, SumSpan) else step.number if isinstance(step, ScoreRange) else 0
    return f"{type(step).__name__}-{number}"


def _do_step(work: OpenPass, step: Step) -> tuple[Facts, int]:
    """Do a step; of a fit, return the facts and the number of ranges to score."""
    if isinstance(step, SumSpan):
        _sum_span(work, step.span)
    elif isinstance(step, FitHeads):
        pairs = (pair for fitted in work.fit() for pair in zip(fitted.group.cells, fitted.facts, strict=True))
        return {cell.id: facts for cell, facts in pairs}, len(_list_ranges(work))
    elif isinstance(step, ScoreRange):
        groups = work.load_heads()
        for column in _list_ranges(work)[step.number]:
            save_scored(_name_part(work, column), work.score(column, groups))
    elif isinstance(step, WriteCells):
        columns = work.list_columns()
        scored = [join_ranges([load_scored(_name_part(work, part)) for part in column.split()]) for column in columns]
        work.write(work.load_heads(step.facts), columns, scored, step.seconds)
    return {}, 0


def _sum_span(work: OpenPass, span: Span) -> None:
    inputs = open_inputs(work.task, work.reader)
    for strategy in list_strategies(work.task, work.reader):
        if isinstance(strategy, NormalEquations):
            strategy.sum_twentieth(inputs, work.cache, span)


def _list_ranges(work: OpenPass) -> list[list[Column]]:
    """Return what is scored at a time: each range of a large column, and all columns of one range together."""
    columns = [column.split() for column in work.list_columns()]
    small = [parts[0] for parts in columns if len(parts) == 1]
    return [[part] for parts in columns if len(parts) > 1 for part in parts] + ([small] if small else [])


def _name_part(work: OpenPass, column: Column) -> Path:
    """Return the file of the scores of a range of a column."""
    return work.files.parts / f"{work.task.id}-{column.reader.spec.fingerprint}-{column.start}.safetensors"


def save_scored(path: Path, scored: list[list[Scored]]) -> None:
    """Write what `score_heads` returned for a range."""
    path.parent.mkdir(exist_ok=True)
    arrays = {
        f"{group}/{head}/{name}": array
        for group, heads in enumerate(scored)
        for head, of_head in enumerate(heads)
        for name, array in (vars(of_head.scores) | vars(of_head.sums) | {"sample": of_head.sample}).items()
    }
    write_scores(path, arrays)


def load_scored(path: Path) -> list[list[Scored]]:
    """Read what `save_scored` wrote."""
    groups: dict[int, dict[int, dict[str, NDArray[Any]]]] = {}
    for key, array in read_scores(path).items():
        group, head, name = key.split("/")
        groups.setdefault(int(group), {}).setdefault(int(head), {})[name] = array
    return [[_make_scored(arrays) for _, arrays in sorted(heads.items())] for _, heads in sorted(groups.items())]


def _make_scored(arrays: dict[str, NDArray[Any]]) -> Scored:
    sums = MapSums(arrays["maps"], arrays["errors"], arrays["ranks"])
    return Scored(Scores(arrays["spc"], arrays["mae"], arrays["explained"]), sums, arrays["sample"])
