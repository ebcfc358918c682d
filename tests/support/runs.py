"""Runs written by hand: records and per-image scores with known numbers, nothing trained."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from click.testing import CliRunner, Result
from numpy.typing import NDArray

from posenet_store.cli import main
from posenet_store.files import write_json
from posenet_store.heads.metrics import Scores, score_with_map_sums
from posenet_store.heads.protocols import GradientProtocol, Protocol
from posenet_store.report.pairs import Partner
from posenet_store.sweep.cell import Cell, make_cell_target
from posenet_store.sweep.results import RunFiles, write_run, write_scores

Columns = Mapping[str, tuple[Sequence[float], Sequence[float]]]


def cell(
    columns: Columns,
    network: str = "vgg16-hed",
    images: str = "duts-te",
    protocol: Protocol | None = None,
    kept: Mapping[str, NDArray[Any]] | None = None,
    **changes: Any,
) -> Partner:
    """Return a finished cell; `columns` are (SPC, MAE) an image by test, `kept` maps by name, `changes` fields of a Cell."""
    fields: dict[str, Any] = {
        "train_rows": 40,
        "held_out": 40,
        "input": "aligned",
        "target": "H",
        "value_range": (0.0, 1.0),
        "normalise": False,
    }
    fields |= {"kernel": 3, "padding": 0, "seed": 0, "protocol": protocol or GradientProtocol(), "tests": ()} | changes
    made = Cell(store=f"{network} on {images}", **fields)
    scores = {test: Scores(np.array(spc, float), np.array(mae, float)) for test, (spc, mae) in columns.items()}
    record = {
        "id": made.id,
        "cell": made.to_dict(),
        "labels": {"network": network, "backbone": network.split("-")[0], "images": images},
        "scores": {test: one.summary() for test, one in scores.items()},
        "fit": {},
        "seconds": 0.1,
    }
    arrays = {f"{kind}/{test}": getattr(one, kind) for test, one in scores.items() for kind in ("spc", "mae")}
    return Partner(record, arrays | dict(kept or {}))


def painted(count: int = 6, strength: float = 1.0, noise: float = 0.3, seed: int = 0, **changes: Any) -> Partner:
    """Return a cell whose head paints `strength` times the target and noise on held-out images, with all that a run keeps."""
    target = make_cell_target(cell({}, **changes).record["cell"])
    maps = strength * target + np.random.default_rng(seed).normal(0, noise, (count, *target.shape))
    scores, sums = score_with_map_sums(maps, target)
    kept = {"map": maps[0].astype(np.float32)} | sums.means(scores)
    columns = {"held-out": (scores.spc.tolist(), scores.mae.tolist())}
    return cell(columns, kept={f"{name}/held-out": one for name, one in kept.items()}, seed=seed, **changes)


def constant(spc: float, mae: float = 0.25, images: int = 4, test: str = "held-out") -> Columns:
    """Return one test column in which all images have the same scores."""
    return {test: ([spc] * images, [mae] * images)}


def write(root: Path, cells: Iterable[Partner], unfinished: Sequence[str] = (), title: str = "by hand") -> Path:
    """Write cells as a run; `unfinished` are ids of cells that were asked for and never came."""
    files, found = RunFiles(root), list(cells)
    content = {"cells": [*(one.record["id"] for one in found), *unfinished], "sweep": {"title": title}}
    made = {"versions": {}, "machine": "none", "time": "never", "command": "cli.py sweep by_hand.toml --stores 'my stores'"}
    write_run(files, content | {"stores": ["store-12345678"], "notes": [], "provenance": made})
    for one in found:
        write_json(files.record(one.record["id"]), one.record)
        write_scores(files.scores(one.record["id"]), one.scores)
    return root


def cli(*words: str | Path) -> Result:
    """Run the command line."""
    return CliRunner().invoke(main, [str(word) for word in words])
