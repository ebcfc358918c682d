"""sweep: train and score heads from stores; no backbone is run."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from posenet_store.cli.help import command
from posenet_store.cli.options import json_option, stores_option, workers_option
from posenet_store.cli.output import (
    format_bytes,
    format_time,
    print_above,
    print_json,
    print_line,
    print_path,
    print_table,
    progress,
)
from posenet_store.files import check_folder, check_writable

SHOWN = 20  # passes of a plan that the terminal shows; more would scroll the totals away

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from posenet_store.specs import StoreSpec
    from posenet_store.store.catalogue import StoreInfo
    from posenet_store.sweep.cost import Cost
    from posenet_store.sweep.plan import Pass, SweepPlan
    from posenet_store.sweep.progress import SweepProgress
    from posenet_store.sweep.results import RunFiles
    from posenet_store.sweep.run import SweepResult
    from posenet_store.sweep.spec import SweepSpec


@command(example="sweep table2 --plan")
@click.argument("spec")
@stores_option
@click.option("--run", type=click.Path(path_type=Path), help="Folder of the results.  [default: runs/NAME]")
@click.option("--scheduler", default="auto", show_default=True, metavar="auto|local|inline|slurm|ADDR",
              help="auto: this process, and what takes longer in worker processes; local: workers from the start; "
                   "inline: this process; slurm: jobs in Slurm, slurm:FILE: with the "
                   "settings of a file (`launch show slurm.toml`); ADDR: a Dask scheduler, tcp://host:8786.")  # fmt: skip
@workers_option
@click.option("--device", "fit_device", default="auto", show_default=True, metavar="auto|cpu|cuda|cuda:K",
              help="What sums and solves exact heads; auto: a GPU if it is faster; cuda:K: the K-th, from 0.")  # fmt: skip
@click.option("--memory", metavar="SIZE",
              help="What a pass may hold on a worker, such as 8GB.  [default: half of what the worker has]")  # fmt: skip
@click.option("--keep-moments/--no-keep-moments", default=True, show_default=True,
              help="Keep the summed moments in the stores' folder: later sweeps then read no features to train.")  # fmt: skip
@click.option("--plan", "plan_only", is_flag=True, help="Print passes, bytes, memory and time; run nothing.")
@json_option
def sweep(
    spec: str, root: Path, run: Path | None, scheduler: str, workers: int | None, fit_device: str, memory: str | None,
    keep_moments: bool, plan_only: bool, as_json: bool,
) -> None:  # fmt: skip
    """Train and score the heads of SPEC from stores.

    SPEC is a TOML file or an experiment's name, such as table2. A rerun trains only the heads that are missing. Ends in
    RUN/results.csv, RUN/results.json and the page RUN/report.html.
    """
    from posenet_store.backbones.checks import check_device
    from posenet_store.parallel.executors import share_worker_memory
    from posenet_store.parallel.machine import parse_memory
    from posenet_store.store.catalogue import list_stores
    from posenet_store.sweep.limits import Limits
    from posenet_store.sweep.plan import plan_sweep
    from posenet_store.sweep.results import RunFiles
    from posenet_store.sweep.run_state import read_tests
    from posenet_store.sweep.spec import find_sweep, load_sweep

    check_device(fit_device)
    sweep_spec, name = load_sweep(spec), find_sweep(spec).stem
    files = RunFiles(run or Path("runs", name))
    check_folder(files.root, "--run") if plan_only else check_writable(files.root, "--run")
    entries, damaged = list_stores(root)
    for line in damaged:
        print_line(f"damaged: {line}", err=True)
    limits = Limits(parse_memory(memory) if memory else share_worker_memory(scheduler, workers))
    plan = plan_sweep(sweep_spec, entries, root, keep_moments, limits)
    for note in plan.notes:
        print_line(f"note: {note}", err=True)
    left, specs = plan.without(read_tests(files, plan.cells)), {entry.spec.fingerprint: entry.spec for entry in entries}
    if left.passes and (device := _choose_device(fit_device, left, specs, scheduler)):
        plan, left = _use_device(plan, device), _use_device(left, device)
        scheduler = "inline" if scheduler == "auto" and not workers else scheduler  # one process feeds a GPU
    if plan_only:
        _print_plan(plan, left, specs, scheduler, workers, as_json)
        return
    outcome = run_with_progress(name, sweep_spec, plan, left, entries, files, scheduler, workers)
    write_outcome(outcome, files)
    counts = {"finished_before": outcome.before, "finished_now": outcome.now, "scored_now": outcome.scored}
    facts = {"run": str(files.root)} | counts | {"failed": list(outcome.failures)}
    print_json(facts) if as_json else print_path(files.root)
    if outcome.failures:
        raise click.exceptions.Exit(1)


def _use_device(plan: "SweepPlan", device: str) -> "SweepPlan":
    """Return a plan whose passes sum and solve on another device."""
    from posenet_store.sweep.device import set_device  # brings torch

    return set_device(plan, device)


def _choose_device(asked: str, left: "SweepPlan", specs: "Mapping[str, StoreSpec]", scheduler: str) -> str | None:
    """Return the device of the passes that are left, None for the CPU, and say so; workers elsewhere have their own."""
    from posenet_store.parallel.pools import is_remote
    from posenet_store.parallel.slurm import find_slurm_file
    from posenet_store.sweep.device import choose_device

    if is_remote(scheduler) or find_slurm_file(scheduler) is not None:
        return asked if asked.startswith("cuda") else None
    device, fault = choose_device(asked, left.passes, specs)
    if fault:
        print_line(f"note: --device auto takes the CPU: {fault}", err=True)
    if device:
        print_line(f"exact heads are summed and solved on {device}", err=True)
    return device


def run_with_progress(
    name: str, spec: "SweepSpec", plan: "SweepPlan", left: "SweepPlan", entries: "Sequence[StoreInfo]", files: "RunFiles",
    scheduler: str, workers: int | None,
) -> "SweepResult":  # fmt: skip
    """Run a sweep under a progress bar (passes, heads, images a second, bytes, time left), then print the totals."""
    from posenet_store.sweep.run import run_sweep

    if not left.passes:
        return run_sweep(spec, plan, files.root)
    expected: Mapping[str, float] = {}
    before = len(plan.cells) - len(left.cells)

    def title(passes: int) -> str:
        return f"{name}: {passes}/{len(left.passes)} passes"

    if scheduler not in ("auto", "inline"):  # the estimate takes seconds, in which a small sweep is done
        from posenet_store.sweep.cost import estimate_seconds

        expected = estimate_seconds(left.passes, {entry.spec.fingerprint: entry.spec for entry in entries})
    states: list[SweepProgress] = []
    with progress(coarse=True) as bars:
        bar = bars.add_task(title(0), total=len(plan.cells), completed=before, left=None, unit="heads")

        def show(state: "SweepProgress") -> None:
            states[:] = [state]
            speed = f"heads  {state.read.images / state.seconds:,.0f} images/s  {format_bytes(state.read.bytes)} read"
            bars.update(bar, completed=before + state.cells, description=title(state.passes), left=state.left, unit=speed)

        outcome = run_sweep(
            spec, plan, files.root,
            scheduler=scheduler, workers=workers, expected=expected, show=show, announce=print_above(bars),
        )  # fmt: skip
    for state in states:
        print_line(
            f"{state.passes:,} passes, {state.cells:,} heads, {state.read.images:,} images, "
            f"{format_bytes(state.read.bytes)} read in {format_time(state.seconds)}", err=True,
        )  # fmt: skip
    return outcome


def _print_plan(
    plan: "SweepPlan", unfinished: "SweepPlan", specs: "Mapping[str, StoreSpec]", scheduler: str, workers: int | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Print the passes that are left, with the bytes, memory and time that each takes on this machine."""
    from posenet_store.sweep.share import starts_workers

    left, finished = unfinished.passes, len(plan.cells) - len(unfinished.cells)
    costs = _estimate_costs(left, specs) if left else []
    networks = {cell.store for cell in plan.cells}
    reading, memory = sum(cost.reading for cost in costs), max((cost.memory for cost in costs), default=0)
    seconds = round(sum(cost.seconds for cost in costs), 1)
    avoided = len(plan.cells) - len(networks)
    facts = {"cells": len(plan.cells), "finished": finished, "backbone_runs_avoided": avoided, "bytes": reading}
    passes = _list_passes(left, costs, specs, starts_workers(scheduler, workers))
    if as_json:
        print_json(facts | {"memory": memory, "seconds": seconds, "passes": passes})
        return
    if not passes:
        print_line(f"{len(plan.cells):,} heads, all finished; nothing to do")
        return
    rows = [
        [*_describe_pass(task), format_bytes(cost.reading), format_bytes(cost.memory), format_time(cost.seconds)]
        for task, cost in list(zip(passes, costs, strict=True))[:SHOWN]
    ]
    print_table(["store", "input", "protocol", "heads", "trained by", "reads", "memory", "time"], rows)
    if len(passes) > SHOWN:
        print_line(f"... and {len(passes) - SHOWN} more passes (--json shows all)")
    print_line(
        f"{len(plan.cells):,} heads, {finished:,} finished; {len(passes)} passes to go: they read "
        f"{format_bytes(reading)}, hold up to {format_bytes(memory)} besides the libraries, and take about "
        f"{format_time(seconds)} on this machine, one after another{_describe_start(passes, scheduler)}"
    )
    print_line(f"a network ran once for each of {len(networks)} stores, not for each of {len(plan.cells):,} heads")


def _estimate_costs(passes: "Sequence[Pass]", specs: "Mapping[str, StoreSpec]") -> "list[Cost]":
    from posenet_store.sweep.cost import estimate_cost
    from posenet_store.sweep.stopwatch import Stopwatch

    stopwatch = Stopwatch()
    return [estimate_cost(task, specs, stopwatch) for task in passes]


def _list_passes(
    left: "Sequence[Pass]", costs: "Sequence[Cost]", specs: "Mapping[str, StoreSpec]", shares: bool
) -> list[dict[str, object]]:
    """Return the facts of each pass; `spans` is how many sums workers share, if they do."""
    from posenet_store.sweep.share import list_spans

    return [
        {"store": task.train.name, "input": task.input, "protocol": task.protocol.name, "cells": len(task.cells),
         "way": cost.way, "bytes": cost.reading, "memory": cost.memory, "seconds": round(cost.seconds, 1),
         "spans": len(list_spans(task, specs[task.store])) if shares else 0}
        for task, cost in zip(left, costs, strict=True)
    ]  # fmt: skip


def _describe_pass(task: "Mapping[str, object]") -> list[str]:
    """Return the first columns of a pass: its store to its heads, how they are trained, in how many spans if that is shared."""
    spans = f", {task['spans']} spans shared" if task["spans"] else ""
    return [*(str(task[name]) for name in ("store", "input", "protocol", "cells")), f"{task['way']}{spans}"]


def _describe_start(passes: "Sequence[object]", scheduler: str) -> str:
    """Return when `auto` starts workers for these passes, nothing for other schedulers."""
    from posenet_store.parallel.dispatch import TIMEOUTS

    if scheduler != "auto" or len(passes) == 1:
        return ""
    return f"; worker processes, which take {TIMEOUTS.start:.0f} s to start, do what is not done by then"


def write_outcome(outcome: "SweepResult", files: "RunFiles") -> None:
    """Write the page if the results are newer than it; say on standard error what failed and what was trained."""
    from posenet_store.sweep.run_state import is_older

    for failure in outcome.failures:
        print_line(f"failed: {failure}", err=True)
    if outcome.failures:
        print_line("finished heads are kept; rerun the command to train those that failed", err=True)
    if outcome.before + outcome.now + outcome.scored:
        if is_older(files.page, files.json):
            from posenet_store.report.html.page import write_page

            write_page([files.root], files.page)
        scored = f"{outcome.scored} scored on more images, " if outcome.scored else ""
        done = f"{outcome.now} heads trained, {scored}{outcome.before} were finished before"
        print_line(f"{done}; the page is {files.page}", err=True)
