"""Running a sweep: plan it, skip what is finished, run the passes, gather the table."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from posenet_store.errors import PosenetStoreError
from posenet_store.executors import run_tasks
from posenet_store.passes import run_pass
from posenet_store.planning import Pass, SweepPlan
from posenet_store.provenance import provenance
from posenet_store.results import RunFiles, write_run, write_tables
from posenet_store.sweep_spec import SweepSpec


@dataclass(frozen=True)
class SweepOutcome:
    """How a sweep ended: cells finished before, cells finished now, and a line for every pass that failed."""

    run: Path
    before: int
    now: int
    failures: tuple[str, ...]


def _work(run: Path, task: Pass, threads: int) -> list[str]:
    return run_pass(task, run, threads)


def _anywhere(task: Pass) -> Pass:
    """Make a pass's paths mean the same to a worker in another folder."""
    tests = tuple(path.absolute() for path in task.tests)
    return replace(task, train=task.train.absolute(), tests=tests, moments=task.moments and task.moments.absolute())


def run_sweep(
    spec: SweepSpec,
    plan: SweepPlan,
    run: Path,
    *,
    scheduler: str = "local",
    workers: int | None = None,
    advance: Callable[[int], None] = lambda cells: None,
    announce: Callable[[str], None] = lambda line: None,
) -> SweepOutcome:
    """Run what is not finished of `plan` in the folder `run`; `advance(n)` is called after each pass, of n cells.

    A failing pass does not stop the others; it is reported in the outcome. `announce` gets lines for people.
    """
    files = RunFiles(run)
    done = files.finished(plan.cells)
    left = plan.without(done)
    content = {"sweep": asdict(spec), "cells": [cell.id for cell in plan.cells], "provenance": provenance()}
    write_run(files, content | {"stores": sorted({one.train.name for one in plan.passes}), "notes": list(plan.notes)})
    failures, now = [], 0
    if left.passes:
        tasks = [_anywhere(one) for one in left.passes]
        for task, result in run_tasks(partial(_work, run.absolute()), tasks, scheduler, workers, announce):
            if isinstance(result, PosenetStoreError):
                failures.append(f"{task.train.name}, {task.input}, {task.protocol.name} ({len(task.cells)} cells): {result}")
            else:
                now += len(result)
                advance(len(result))
    if done or now:
        write_tables(run)
    return SweepOutcome(run, len(done), now, tuple(failures))
