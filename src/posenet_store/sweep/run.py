"""Run a sweep: skip finished cells, run the passes that are left, write the tables."""

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from posenet_store.errors import PosenetStoreError
from posenet_store.files import expand_user, lock_folder, make_folder
from posenet_store.heads.own_maps import MAPS, save_maps
from posenet_store.parallel.executors import run_tasks
from posenet_store.parallel.pools import Announce
from posenet_store.provenance import collect_provenance
from posenet_store.store.access import StoreFiles
from posenet_store.store.plan import read_plan
from posenet_store.sweep.plan import Pass, SweepPlan
from posenet_store.sweep.progress import ProgressMonitor, SweepProgress, show_in_notebook
from posenet_store.sweep.results import PassResult, RunFiles, RunRecord, load_run, write_run
from posenet_store.sweep.run_state import is_up_to_date, read_finished, read_tests
from posenet_store.sweep.share import PassSteps, Step, StepResult, starts_workers
from posenet_store.sweep.spec import SweepSpec
from posenet_store.sweep.tables import write_tables
from posenet_store.sweep.variance_results import name_variance_file, write_variance
from posenet_store.temporaries import remove_abandoned


@dataclass(frozen=True, repr=False)
class SweepResult:
    """How a sweep ended: cells finished before, trained now and only scored now; failed passes in lines, results of others."""

    run: Path
    before: int
    now: int
    scored: int
    failures: tuple[str, ...]
    passes: tuple[PassResult, ...] = ()

    def __repr__(self) -> str:
        counts = f"{self.now} heads trained, {self.scored} scored, {self.before} finished before"
        return "\n  ".join([f"<SweepResult {self.run}: {counts}>", *(f"failed: {line}" for line in self.failures)])


def _run_task(run: Path, step: Step, threads: int) -> StepResult:
    """Run a step of a pass, with the arguments in the order that `run_tasks` calls for."""
    from posenet_store.sweep.steps import run_step  # brings torch, which only those who train need

    return run_step(step, run, threads)


@contextmanager
def _count_kept(files: RunFiles, plan: SweepPlan) -> Iterator[None]:
    """Say of an interruption how many heads are kept."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as stop:
        left = plan.without(read_tests(files, plan.cells))
        stop.add_note(f"{len(plan.cells) - len(left.cells)} of {len(plan.cells)} heads are kept")
        raise


def _prepare_folder(run: Path, plan: SweepPlan) -> None:
    """Remove what killed sweeps left in the run and among the cached moments; keep the targets that are maps of the user's."""
    save_maps(run / MAPS, (name for cell in plan.cells for name in cell.maps))
    moments = {task.moments / task.train.name for task in plan.passes if task.moments}
    remove_abandoned([*run.rglob(".*.tmp"), *(path for folder in moments for path in folder.glob(".*.tmp"))])


def _make_absolute(task: Pass) -> Pass:
    """Make a pass's paths absolute: a worker may run in another folder."""
    tests = tuple(replace(test, path=test.path.absolute()) for test in task.tests)
    return replace(task, train=task.train.absolute(), tests=tests, moments=task.moments and task.moments.absolute())


def _describe_run(spec: SweepSpec, plan: SweepPlan) -> RunRecord:
    """Return the run's record without its provenance."""
    return RunRecord(
        sweep=asdict(spec),
        cells=tuple(cell.id for cell in plan.cells),
        stores=tuple(sorted({task.train.name for task in plan.passes})),
        notes=plan.notes,
        provenance={},
    )


def _list_builds(plan: SweepPlan) -> dict[str, str]:
    """Return the command that built each training store, by the store's name; a store that can't be read any more has none."""
    builds = {}
    for path in dict.fromkeys(task.train for task in plan.passes):
        with suppress(PosenetStoreError, OSError):
            builds[path.name] = str(read_plan(StoreFiles(path)).provenance.get("command", ""))
    return builds


def _run_passes(
    files: RunFiles, passes: Sequence[Pass], scheduler: str, workers: int | None, announce: Announce
) -> Iterator[tuple[Pass, PassResult | PosenetStoreError]]:
    """Yield passes as they end; workers share the large ones."""
    shares, parts = starts_workers(scheduler, workers), files.parts.absolute()
    works = {task.id: PassSteps(task, shares, parts) for task in passes}
    steps = [step for work in works.values() for step in work.first]

    def follow(step: Step, result: StepResult | PosenetStoreError) -> Sequence[Step]:
        return works[step.task.id].follow(step, result)

    shutil.rmtree(parts, ignore_errors=True)  # of a driver that was killed
    try:
        run = partial(_run_task, files.root.absolute())
        for step, _ in run_tasks(run, steps, scheduler, workers, announce, folder=files.root, follow=follow):
            if (outcome := works[step.task.id].take_outcome()) is not None:
                yield step.task, outcome
    finally:
        shutil.rmtree(parts, ignore_errors=True)


def _record_ends(outcomes: Iterable[tuple[Pass, PassResult | PosenetStoreError]], monitor: ProgressMonitor) -> list[str]:
    """Tell the monitor of passes as they end; return a line for each that failed."""
    failures = []
    for task, result in outcomes:
        if isinstance(result, PosenetStoreError):
            failures.append(f"{task.train.name}, {task.input}, {task.protocol.name} ({len(task.cells)} cells): {result}")
            monitor.record_end(task, None)
        else:
            monitor.record_end(task, result)
    return failures


def _list_variances(spec: SweepSpec, plan: SweepPlan, run: Path) -> dict[str, Pass]:
    """Return a pass of each training store whose position variance is asked for and not in the run, by fingerprint."""
    asked = {task.store: task for task in plan.passes if spec.variance}
    return {store: task for store, task in asked.items() if not name_variance_file(run, store).is_file()}


def _write_variances(run: Path, lacking: Mapping[str, Pass]) -> Iterator[str]:
    """Compute and write the position variance that is lacking; yields a line for each store that has none."""
    for store, task in lacking.items():
        from posenet_store.sweep.variance import compute_variance  # brings torch

        try:
            write_variance(run, store, compute_variance(task.train, task.moments is not None))
        except PosenetStoreError as error:
            yield f"{task.train.name}, position variance: {error}"


def run_sweep(
    spec: SweepSpec,
    plan: SweepPlan,
    run: str | Path,
    *,
    scheduler: str = "auto",
    workers: int | None = None,
    expected: Mapping[str, float] | None = None,
    show: Callable[[SweepProgress], None] | None = None,
    announce: Announce = lambda line: None,
) -> SweepResult:
    """Run the unfinished cells of `plan` in the folder `run`; nothing is written if there are none and the tables are there.

    A failing pass does not stop the others; its error is in the result. `announce` gets lines for people; `show` gets
    the progress once a second, in a thread, and at the end; None is a bar in a notebook. `expected` are the planned seconds
    of passes by their id. Raises UsageError if another sweep writes into `run`.
    """
    run = expand_user(run)
    files = RunFiles(run)
    _prepare_folder(run, plan)
    finished = read_finished(files, plan.cells)
    left = plan.without({cell: result.tests for cell, result in finished.items()})
    passes, before = left.passes, len(plan.cells) - len(left.cells)
    record, lacking = _describe_run(spec, plan), _list_variances(spec, plan, run)
    if not passes and is_up_to_date(files, record, list(finished.values())) and not lacking:
        return SweepResult(run, before, 0, 0, ())
    make_folder(run)
    with lock_folder(run, f"another sweep into {run} is running; wait for it, or give this one another folder", announce):
        write_run(files, replace(record, provenance=collect_provenance() | {"builds": _list_builds(plan)}))
        failures, monitor = list[str](), ProgressMonitor(files.progress, passes, expected or {})
        if passes:
            tasks = [_make_absolute(task) for task in passes]
            bar = nullcontext(show) if show else show_in_notebook(spec.title, len(left.cells))
            with _count_kept(files, plan), bar as shown, monitor.show_progress(shown):
                failures = _record_ends(_run_passes(files, tasks, scheduler, workers, announce), monitor)
        done = {cell for result in monitor.results for cell in result.cells}
        trained, scored = (
            sum(cell.id in done for task in passes if task.trains == trains for cell in task.cells) for trains in (True, False)
        )
        if before or done or scored:
            write_tables(files, load_run(run).results)
        failures += _write_variances(run, lacking)
    return SweepResult(run, before, trained, scored, tuple(failures), tuple(monitor.results))
