"""sweep and evaluate: heads from stores, never a backbone."""

from pathlib import Path

import click

from posenet_store.cli.options import (
    backbone_options,
    image_options,
    json_option,
    print_json,
    print_table,
    progress,
    stores_option,
)


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
) -> None:
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
    folder = run or Path("runs", spec.stem)
    if plan_only:
        rows = [[one.train.name, one.input, one.protocol.name, str(len(one.cells))] for one in plan.passes]
        head = ["store", "input", "protocol", "cells"]
        done = len(RunFiles(folder).finished(plan.cells))
        if as_json:
            passes = [dict(zip(head, [*row[:3], int(row[3])], strict=True)) for row in rows]
            print_json({"cells": len(plan.cells), "finished": done, "passes": passes})
        else:
            print_table(head, rows, f"{len(plan.cells)} cells in {len(plan.passes)} passes, {done} finished")
        return
    with progress() as bars:
        bar = bars.add_task(f"{spec.stem}: {len(plan.passes)} passes", total=len(plan.cells), unit="heads")
        outcome = run_sweep(
            asked, plan, folder, scheduler=scheduler, workers=workers, advance=lambda count: bars.advance(bar, count)
        )  # fmt: skip
    for failure in outcome.failures:
        click.echo(f"failed: {failure}", err=True)
    if outcome.before + outcome.now:
        from posenet_store.report.page import write_page

        write_page([folder], RunFiles(folder).page)
    facts = {
        "run": str(folder),
        "finished_before": outcome.before,
        "finished_now": outcome.now,
        "failed": list(outcome.failures),
    }
    if as_json:
        print_json(facts)
    else:
        click.echo(f"{outcome.now} heads trained, {outcome.before} were finished before; see {RunFiles(folder).page}", err=True)
        click.echo(folder)
    if outcome.failures:
        raise click.exceptions.Exit(1)


@click.command()
@click.option(
    "--head", type=click.Path(path_type=Path), required=True, help="A head that a sweep wrote: RUN/heads/*.safetensors."
)
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
    from posenet_store.heads import load_head
    from posenet_store.reader import open_store

    if (store is None) == (source is None):
        raise click.UsageError("give either --store or --images")
    if source is not None:
        from posenet_store.backbones import load_backbone
        from posenet_store.cli.build import built
        from posenet_store.extract import plan_store
        from posenet_store.sources import image_set

        _, made = load_head(head)
        images = image_set(source, data_root)
        network = load_backbone(backbone or made["backbone"], weights, taps, device)
        layout = "native" if made["cell"]["input"].startswith("full") else "aligned"
        store = built(images, network, plan_store(images, network, layout, "float32"), root, batch_size, 0.01).path
    assert store is not None
    rows = evaluate_head(head, open_store(store))
    if as_json:
        print_json(rows)
    else:
        names = list(rows[0])
        print_table(
            names,
            [
                ["undef." if row[n] is None else f"{row[n]:.4f}" if isinstance(row[n], float) else str(row[n]) for n in names]
                for row in rows
            ],
        )
