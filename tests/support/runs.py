"""Runs written by hand: results and per-image scores with known numbers, nothing trained."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click.testing
import numpy as np
from numpy.typing import NDArray

from posenet_store.cli import main
from posenet_store.heads.metrics import Scores, score_with_map_sums
from posenet_store.heads.protocols import GradientProtocol, Protocol
from posenet_store.report.pairs import Partner
from posenet_store.specs import NO_WEIGHTS, PIXELS, RANDOM, TRAINED, ZEROS
from posenet_store.sweep.cell import Cell, make_cell_target
from posenet_store.sweep.results import Labels, Result, RunFiles, RunRecord, ScoreSummary, write_result, write_run, write_scores

Columns = Mapping[str, tuple[Sequence[float], Sequence[float]]]
PROVENANCE = {"versions": {}, "machine": "none", "time": "never", "command": "cli.py sweep by_hand.toml --stores 'my stores'"}


def label(network: str, images: str, weights_kind: str | None = None) -> Labels:
    """Return labels; a name of these tests says what kind of network it is, unless `weights_kind` does."""
    kind = NO_WEIGHTS if network == PIXELS else RANDOM if "-random" in network else TRAINED
    padding = network.partition("-padding-")[2] or ZEROS
    return Labels(network, network.split("-")[0], images, weights_kind or kind, padding)


def cell(
    columns: Columns,
    network: str = "vgg16-hed",
    images: str = "duts-te",
    protocol: Protocol | None = None,
    kept: Mapping[str, NDArray[Any]] | None = None,
    weights_kind: str | None = None,
    **changes: Any,
) -> Partner:
    """Return a finished cell; `columns` are (SPC, MAE) an image by test, `kept` maps by name, `changes` fields of a Cell."""
    fields: dict[str, Any] = {
        "store": f"{network} on {images}",
        "train_rows": 40,
        "held_out": 40,
        "input": "aligned",
        "target": "H",
        "value_range": (0.0, 1.0),
        "normalise": False,
        "kernel": 3,
        "padding": 0,
        "protocol": protocol or GradientProtocol(),
        "seed": 0,
    }
    scores = {test: Scores(np.array(spc, float), np.array(mae, float)) for test, (spc, mae) in columns.items()}
    result = Result(
        cell=Cell(**(fields | changes)),
        labels=label(network, images, weights_kind),
        scores={test: ScoreSummary.of(per_image) for test, per_image in scores.items()},
        tests={test: f"{test} of {network}" for test in scores},
        fit={},
        seconds=0.1,
        provenance=PROVENANCE,
    )
    arrays = {f"{kind}/{test}": getattr(per_image, kind) for test, per_image in scores.items() for kind in ("spc", "mae")}
    return Partner(result, arrays | dict(kept or {}))


def predicted(count: int = 6, strength: float = 1.0, noise: float = 0.3, seed: int = 0, **changes: Any) -> Partner:
    """Return a cell whose head predicts `strength` times the target and noise on held-out images, with all that a run keeps."""
    target = make_cell_target(cell({}, **changes).result.cell)
    maps = strength * target + np.random.default_rng(seed).normal(0, noise, (count, *target.shape))
    scores, sums = score_with_map_sums(maps, target)
    kept = {"map": maps[0].astype(np.float32)} | sums.means(scores)
    columns = {"held-out": (scores.spc.tolist(), scores.mae.tolist())}
    return cell(columns, kept={f"{name}/held-out": values for name, values in kept.items()}, seed=seed, **changes)


def constant(spc: float, mae: float = 0.25, images: int = 4, test: str = "held-out") -> Columns:
    """Return one test column in which all images have the same scores."""
    return {test: ([spc] * images, [mae] * images)}


def write(root: Path, cells: Iterable[Partner], unfinished: Sequence[str] = (), title: str = "by hand") -> Path:
    """Write cells as a run; `unfinished` are ids of cells that were asked for and never came."""
    files, partners = RunFiles(root), list(cells)
    ids = (*(partner.result.id for partner in partners), *unfinished)
    write_run(files, RunRecord({"title": title}, ids, ("store-12345678",), (), PROVENANCE))
    for partner in partners:
        write_result(files, partner.result)
        write_scores(files.scores(partner.result.id), partner.scores)
    return root


def cli(*words: str | Path) -> click.testing.Result:
    """Run the command line."""
    return click.testing.CliRunner().invoke(main, [str(word) for word in words])
