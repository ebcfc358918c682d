"""Running a sweep: plan it, skip what is finished, run the passes, gather the table."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from posenet_store.errors import PosenetStoreError
from posenet_store.parallel.executors import run_tasks
from posenet_store.provenance import collect_provenance
from posenet_store.sweep.plan import Pass, SweepPlan
from posenet_store.sweep.progress import ProgressMonitor, SweepProgress
from posenet_store.sweep.results import PassResult, RunFiles, RunRecord, write_run, write_tables
from posenet_store.sweep.run_pass import run_pass
from posenet_store.sweep.spec import SweepSpec


@dataclass(frozen=True)
class SweepResult:
    """How a sweep ended: cells finished before, cells finished now, a line for every pass that failed, and those done."""

    run: Path
    before: int
    now: int
    failures: tuple[str, ...]
    passes: tuple[PassResult, ...] = ()


def _work(run: Path, task: Pass, threads: int) -> PassResult:
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
    expected: Mapping[str, float] | None = None,
    show: Callable[[SweepProgress], None] = lambda state: None,
    announce: Callable[[str], None] = lambda line: None,
) -> SweepResult:
    """Run what is not finished of `plan` in the folder `run`.

    A failing pass does not stop the others; it is reported in the outcome. `announce` gets lines for people, and `show`
    how things stand: once a second, in a thread, and at the end. `expected` are the planned seconds of passes by their id.
    """
    files = RunFiles(run)
    done = files.finished(plan.cells)
    left = plan.without(done)
    record = RunRecord(
        sweep=asdict(spec),
        cells=tuple(cell.id for cell in plan.cells),
        stores=tuple(sorted({one.train.name for one in plan.passes})),
        notes=plan.notes,
        provenance=collect_provenance(),
    )
    write_run(files, record)
    failures, now, board = [], 0, ProgressMonitor(files.progress, left.passes, expected or {})
    if left.passes:
        tasks = [_anywhere(one) for one in left.passes]
        with board.shown(show):
            for task, result in run_tasks(partial(_work, run.absolute()), tasks, scheduler, workers, announce):
                if isinstance(result, PosenetStoreError):
                    name = f"{task.train.name}, {task.input}, {task.protocol.name} ({len(task.cells)} cells)"
                    failures.append(f"{name}: {result}")
                    board.ended(task, None)
                else:
                    now += len(result.cells)
                    board.ended(task, result)
    if done or now:
        write_tables(run)
    return SweepResult(run, len(done), now, tuple(failures), tuple(board.done))
