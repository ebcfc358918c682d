"""sweep and evaluate: heads from stores, never a backbone."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from posenet_store.cli.build import built
from posenet_store.cli.options import (
    backbone_options,
    image_options,
    json_option,
    print_json,
    print_table,
    progress,
    stores_option,
)

if TYPE_CHECKING:
    from posenet_store.planning import SweepPlan
    from posenet_store.results import RunFiles
    from posenet_store.sweep import SweepOutcome


@click.command()
@click.argument("spec", type=click.Path(path_type=Path))
@stores_option
@click.option("--run", type=click.Path(path_type=Path), help="Folder of the results.  [default: runs/NAME OF SPEC]")
@click.option("--scheduler", default="local", show_default=True, metavar="local|inline|ADDR",
              help="local: worker processes here; inline: this process; ADDR: a Dask scheduler, tcp://host:8786.")  # fmt: skip
@click.option("--workers", type=click.IntRange(1), help="Local worker processes.  [default: one a processor]")
@click.option("--plan", "plan_only", is_flag=True, help="Print cells and passes; run nothing.")
@json_option
def sweep(
    spec: Path, root: Path, run: Path | None, scheduler: str, workers: int | None, plan_only: bool, as_json: bool
) -> None:  # fmt: skip
    """Train and score every head that SPEC (a TOML file) asks for, from the stores at hand.

    A rerun does what is missing only. Ends in RUN/results.csv, RUN/results.json and the page RUN/report.html.
    """
    from posenet_store.catalogue import stores
    from posenet_store.planning import plan_sweep
    from posenet_store.results import RunFiles
    from posenet_store.sweep import run_sweep
    from posenet_store.sweep_spec import load_sweep

    asked = load_sweep(spec)
    found, damaged = stores(root)
    plan = plan_sweep(asked, found, root)
    for note in (*damaged, *plan.notes):
        click.echo(f"note: {note}", err=True)
    files = RunFiles(run or Path("runs", spec.stem))
    if plan_only:
        _print_plan(plan, len(files.finished(plan.cells)), as_json)
        return
    with progress() as bars:
        bar = bars.add_task(f"{spec.stem}: {len(plan.passes)} passes", total=len(plan.cells), unit="heads")
        outcome = run_sweep(
            asked, plan, files.root, scheduler=scheduler, workers=workers, advance=lambda count: bars.advance(bar, count)
        )
    _print_outcome(outcome, files, as_json)
    if outcome.failures:
        raise click.exceptions.Exit(1)


def _print_plan(plan: "SweepPlan", finished: int, as_json: bool) -> None:
    passes = [
        {"store": one.train.name, "input": one.input, "protocol": one.protocol.name, "cells": len(one.cells)}
        for one in plan.passes
    ]
    if as_json:
        print_json({"cells": len(plan.cells), "finished": finished, "passes": passes})
    else:
        title = f"{len(plan.cells)} cells in {len(passes)} passes, {finished} finished"
        print_table(list(passes[0]), [[str(value) for value in one.values()] for one in passes], title)


def _print_outcome(outcome: "SweepOutcome", files: "RunFiles", as_json: bool) -> None:
    for failure in outcome.failures:
        click.echo(f"failed: {failure}", err=True)
    if outcome.before + outcome.now:
        from posenet_store.report.page import write_page

        write_page([files.root], files.page)
        done = f"{outcome.now} heads trained, {outcome.before} were finished before"
        click.echo(f"{done}; the page is {files.page}", err=True)
    if as_json:
        facts = {"finished_before": outcome.before, "finished_now": outcome.now, "failed": list(outcome.failures)}
        print_json({"run": str(files.root)} | facts)
    else:
        click.echo(files.root)


@click.command()
@click.option("--head", type=click.Path(path_type=Path), required=True, help="A head of a sweep: RUN/heads/*.safetensors.")
@click.option("--store", type=click.Path(path_type=Path), help="A store of the head's network.")
@image_options(required=False)
@backbone_options(backbone_required=False)
@stores_option
@json_option
def evaluate(
    head: Path, store: Path | None, source: str | None, data_root: Path | None, backbone: str | None, weights: str, taps: str,
    device: str, batch_size: int, root: Path, as_json: bool,
) -> None:  # fmt: skip
    """Score one trained head on a store, or on images (whose store is then built, or found)."""
    from posenet_store.evaluation import evaluate_head
    from posenet_store.reader import open_store

    if store is not None and source is None:
        chosen = store
    elif source is not None and store is None:
        network = (backbone, weights, taps, device)
        chosen = _store_of(head, source, data_root, network, root, batch_size)
    else:
        raise click.UsageError("give either --store or --images")
    rows = evaluate_head(head, open_store(chosen))
    if as_json:
        print_json(rows)
    else:
        print_table(list(rows[0]), [[_shown(value) for value in row.values()] for row in rows])


def _shown(value: object) -> str:
    return "undef." if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)


def _store_of(
    head: Path, source: str, data_root: Path | None, network: tuple[str | None, str, str, str], root: Path, batch_size: int
) -> Path:  # fmt: skip
    """Build, or find, the store of the images that a head is to be scored on."""
    from posenet_store.backbones import load_backbone
    from posenet_store.extract import plan_store
    from posenet_store.heads import load_head
    from posenet_store.inputs import all_channels
    from posenet_store.sources import image_set

    _, made = load_head(head)
    name, *others = network
    frozen = load_backbone(name or made["backbone"], *others)
    images = image_set(source, data_root)
    layout = "native" if all_channels(made["cell"]["input"]) else "aligned"
    plan = plan_store(images, frozen, layout, "float32")
    return built(images, frozen, plan, root, batch_size, max_unreadable=0.01).path
