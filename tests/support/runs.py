"""Runs written by hand: results and per-image scores with known numbers, nothing trained."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click.testing
import numpy as np
from numpy.typing import NDArray

from posenet_store.cli import main
from posenet_store.files import sha256
from posenet_store.heads.metrics import Scores, score_with_map_sums
from posenet_store.heads.protocols import GradientProtocol, Protocol
from posenet_store.report.pairs import Partner
from posenet_store.specs import NO_WEIGHTS, PIXELS, RANDOM, TRAINED, ZEROS
from posenet_store.sweep.cell import Cell, make_cell_target
from posenet_store.sweep.labels import Labels
from posenet_store.sweep.results import Result, RunFiles, RunRecord, ScoreSummary, write_result, write_run, write_scores

Numbers = Sequence[float] | NDArray[np.float64]
Columns = Mapping[str, tuple[Numbers, Numbers]]
PROVENANCE = {"versions": {}, "machine": "none", "time": "never", "command": "cli.py sweep by_hand.toml --stores 'my stores'"}


def label(network: str, images: str, weights_kind: str | None, contents: Mapping[str, str]) -> Labels:
    """Return labels; a name of these tests says what kind of network it is, unless `weights_kind` does."""
    kind = NO_WEIGHTS if network == PIXELS else RANDOM if "-random" in network else TRAINED
    padding = network.partition("-padding-")[2] or ZEROS
    digests = (digest(contents["network"].removesuffix(f"-padding-{padding}")), digest(contents["images"]))
    return Labels(network, network.split("-")[0], images, weights_kind or kind, padding, *digests)


def digest(name: str) -> str:
    """Return a digest by which what has one name in these tests is one thing."""
    return sha256(name.encode())


def cell(
    columns: Columns,
    network: str = "vgg16-hed",
    images: str = "duts-te",
    protocol: Protocol | None = None,
    arrays: Mapping[str, NDArray[Any]] | None = None,
    weights_kind: str | None = None,
    contents: Mapping[str, str] | None = None,
    **changes: Any,
) -> Partner:
    """Return a finished cell; `columns` are (SPC, MAE) an image by test, `arrays` maps by name, `changes` fields of a Cell.

    `contents` replaces the content that names stand for here, by "network", "images" or a test.
    """
    fields: dict[str, Any] = {
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
    } | changes
    known = {"network": network, "images": images} | dict(contents or {})
    known = {"held-out": f"{known['images']} from {fields['held_out']}"} | known
    scores = {
        test: Scores(np.array(spc, float), np.array(mae, float), np.full(len(mae), np.nan))
        for test, (spc, mae) in columns.items()
    }
    result = Result(
        cell=Cell(**({"store": f"{known['network']} on {known['images']}"} | fields)),
        labels=label(network, images, weights_kind, known),
        scores={
            test: ScoreSummary.of(per_image, digest(f"{len(per_image.spc)} of {known.get(test, test)}"))
            for test, per_image in scores.items()
        },
        tests={test: f"{test} of {network}" for test in scores},
        fit={},
        seconds=0.1,
        provenance=PROVENANCE,
    )
    of_images = {f"{kind}/{test}": getattr(per_image, kind) for test, per_image in scores.items() for kind in ("spc", "mae")}
    return Partner(result, of_images | dict(arrays or {}))


def predicted(count: int = 6, strength: float = 1.0, noise: float = 0.3, seed: int = 0, **changes: Any) -> Partner:
    """Return a cell whose head predicts `strength` times the target and noise on held-out images, with all that a run keeps."""
    target = make_cell_target(cell({}, **changes).result.cell)
    maps = strength * target + np.random.default_rng(seed).normal(0, noise, (count, *target.shape))
    scores, sums = score_with_map_sums(maps, target)
    arrays = {"map": maps[0].astype(np.float32)} | sums.means(scores)
    columns = {"held-out": (scores.spc.tolist(), scores.mae.tolist())}
    return cell(columns, arrays={f"{name}/held-out": values for name, values in arrays.items()}, seed=seed, **changes)


def constant(spc: float, mae: float = 0.25, images: int = 4, test: str = "held-out") -> Columns:
    """Return one test column in which all images have the same scores."""
    return {test: ([spc] * images, [mae] * images)}


def write(root: Path, cells: Iterable[Partner], unfinished: Sequence[str] = (), title: str = "by hand") -> Path:
    """Write cells as a run; `unfinished` are ids of cells that were asked for and never came."""
    files, partners = RunFiles(root), list(cells)
    ids = (*(partner.result.id for partner in partners), *unfinished)
    write_run(files, RunRecord({"title": title}, ids, ("store-12345678",), (), PROVENANCE))
    for partner in partners:
        files.head(partner.result.id).write_bytes(b"a head")
        write_scores(files.scores(partner.result.id), partner.scores)
        write_result(files, partner.result)
    return root


def cli(*words: str | Path) -> click.testing.Result:
    """Run the command line."""
    return click.testing.CliRunner().invoke(main, [str(word) for word in words])
