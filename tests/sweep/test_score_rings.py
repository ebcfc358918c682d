"""Scores by ring of a run's heads: those of the heads' own maps, kept, pooled and drawn."""

import csv
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import spearmanr, t
from torch import Tensor

from posenet_store.errors import StoreError, UsageError
from posenet_store.heads.rings import RingWidths, cut_rings
from posenet_store.report.figures.rings import draw_rings
from posenet_store.report.load import load_runs
from posenet_store.report.rings import find_rings, list_rings
from posenet_store.report.run import open_run
from posenet_store.state_dicts import read_safetensors
from posenet_store.store.catalogue import list_stores
from posenet_store.store.reader import open_store
from posenet_store.sweep.cell import make_cell_target
from posenet_store.sweep.plan import plan_sweep
from posenet_store.sweep.results import Result, RunFiles
from posenet_store.sweep.ring_scores import RingScores, read_rings, write_rings
from posenet_store.sweep.run import run_sweep
from posenet_store.sweep.score_rings import list_unscored, score_run
from posenet_store.sweep.spec import SweepSpec
from tests.support.runs import cell, cli, constant, write
from tests.support.small import store_with_probes

RINGS = 5
WIDTHS = RingWidths(RINGS)
SPEC = SweepSpec(
    "rings", train=("photos",), targets=("H", "abs-ramp:90"), kernels=(1, 3), protocols=("ridge", "standard"), seeds=(0, 1)
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("rings")
    store_with_probes(root / "stores", root / "photos", 20)
    plan = plan_sweep(SPEC, list_stores(root / "stores")[0], root)
    assert not run_sweep(SPEC, plan, root / "run", scheduler="inline").failures
    results = load_runs([root / "run"]).results
    assert score_run(root / "run", results, root / "stores", WIDTHS) == len(results)
    return root


def predict(root: Path, result: Result) -> Tensor:
    """Return a head's maps of the held-out images, from the numbers in its file."""
    reader = open_store(next(root.glob("stores/tiny-photos-*")))
    features = torch.from_numpy(reader.read("aligned", result.cell.held_out, 20).astype(np.float64))
    head, _ = read_safetensors(RunFiles(root / "run").head(result.id))
    if "shift" in head:
        features = (features - head["shift"][:, None, None]) * head["scale"][:, None, None]
    return F.conv2d(features, head["weight"].double(), head["bias"].double(), padding=result.cell.padding)[:, 0]


def test_scores_are_those_of_the_heads_own_maps(root: Path) -> None:
    results = load_runs([root / "run"]).results
    for result in results:
        scores = read_rings(RunFiles(root / "run"), result.id)
        assert scores is not None
        goal = make_cell_target(result.cell).ravel()
        assert scores.pixels == 32
        for image, predicted in enumerate(predict(root, result).flatten(1).numpy()):
            for ring, positions in enumerate(cut_rings(make_cell_target(result.cell).shape[0], WIDTHS.find_edges(32))):
                expected = spearmanr(predicted[positions], goal[positions]).statistic
                assert scores.spc[image, ring] == pytest.approx(expected, abs=1e-5)  # kept in float32
                error = np.abs(predicted[positions] - goal[positions]).mean()
                assert scores.mae[image, ring] == pytest.approx(error, rel=1e-5)


def test_means_have_the_interval_over_images(root: Path) -> None:
    loaded = load_runs([root / "run"])
    (result, *_) = [result for result in loaded.results if result.cell.protocol.name == "ridge"]
    scores = read_rings(RunFiles(root / "run"), result.id)
    assert scores is not None
    for ring, mean in enumerate(find_rings([result], loaded.open_archive())):
        values = scores.spc[:, ring].astype(np.float64)
        half = t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
        assert mean.spc == pytest.approx(values.mean())
        assert mean.spc_bounds == pytest.approx((max(values.mean() - half, -1), min(values.mean() + half, 1)))
        assert mean.way == pytest.approx((ring / RINGS, (ring + 1) / RINGS))
        assert mean.distance == pytest.approx((ring + 0.5) / RINGS * 16)


def test_seeds_are_pooled_and_every_ring_is_a_row(root: Path) -> None:
    loaded = load_runs([root / "run"])
    listing = list_rings(loaded.results, loaded.open_archive())
    assert len(listing.rows) == 2 * 2 * 2 * RINGS  # targets, kernels, protocols; two seeds are one
    assert listing.head[:4] == ["target", "network", "kernel", "protocol"]


def test_a_rerun_scores_nothing_and_another_number_of_rings_all(root: Path) -> None:
    results, files = load_runs([root / "run"]).results, RunFiles(root / "run")
    assert list_unscored(files, results, WIDTHS) == []
    assert score_run(root / "run", results, root / "none", WIDTHS) == 0
    assert len(list_unscored(files, results, RingWidths(RINGS + 1))) == len(results)
    with pytest.raises(UsageError, match="--stores"):
        score_run(root / "run", results, root / "none", RingWidths(width=8))


def test_a_damaged_file_is_named(root: Path, tmp_path: Path) -> None:
    result = load_runs([root / "run"]).results[0]
    (tmp_path / "rings").mkdir()
    path = tmp_path / "rings" / f"{result.id}.safetensors"
    content = (root / "run/rings" / path.name).read_bytes()
    for damaged in (content[:-1] + bytes([content[-1] ^ 1]), content[:-4], b""):
        path.write_bytes(damaged)
        with pytest.raises(StoreError, match=path.name):
            read_rings(RunFiles(tmp_path), result.id)


def test_the_figure_has_a_curve_a_network(root: Path) -> None:
    run = open_run(root / "run").where("protocol=ridge", "kernel=3")
    (picture,) = [picture for picture in run.pictures() if picture.name == "rings"]
    assert len(picture.rows) == 2 * RINGS
    assert picture.rows[0][:4] == ["H", "tiny-random0 (untrained)", "10.0", "1.6"]
    assert "from the edge to the centre" in picture.answer
    with pytest.raises(UsageError, match="no cells for the figure 'rings'"):
        open_run(root / "run").where("target=H").__class__("t", [], run.archive).plot.rings()


def test_a_network_at_several_sizes_has_a_panel_and_a_curve_a_size_over_pixels(tmp_path: Path) -> None:
    widths, spc = RingWidths(width=16), {64: 0.5, 128: 0.25}
    names = {f"tiny{weights}{size}": pixels for weights in ("", "-random0") for size, pixels in (("", 64), ("-128px", 128))}
    cells = [(cell(constant(0.5), name, target=target), names[name]) for target in ("H", "V") for name in names]
    write(tmp_path / "run", [partner for partner, _ in cells])
    for partner, pixels in cells:
        edges = widths.find_edges(pixels)
        scores = np.full((4, len(edges) - 1), spc[pixels], np.float32)
        write_rings(RunFiles(tmp_path / "run"), partner.result.id, RingScores(scores, scores, edges))
    picture = draw_rings(open_run(tmp_path / "run").results, load_runs([tmp_path / "run"]).open_archive())
    assert picture is not None
    panels = [panel for panel in picture.figure.axes if panel.get_title()]
    assert [panel.get_title() for panel in panels] == ["tiny\nH", "tiny-random0 (untrained)\nH", "V", "V"]
    for panel in panels:
        curves = {
            line.get_label(): np.array(line.get_xydata()).tolist() for line in panel.lines if "pixels" in str(line.get_label())
        }
        assert curves == {
            "64 pixels": [[8, 0.5], [24, 0.5]],
            "128 pixels": [[8, 0.25], [24, 0.25], [40, 0.25], [56, 0.25]],
        }
    assert picture.rows[0][:4] == ["H", "tiny", "25.0", "8.0"]


def test_the_command_prints_a_row_a_ring_and_adds_the_figure(root: Path) -> None:
    words = ("rings", root / "run", "--stores", root / "stores", "--where", "target=H", "--where", "protocol=ridge")
    shown = cli(*words, "--rings", "3")
    assert shown.exit_code == 0, shown.output
    assert "0-33 %" in shown.stdout
    rows = list(csv.DictReader(io.StringIO(cli(*words, "--rings", "3", "--format", "csv").stdout)))
    assert len(rows) == 2 * 3
    assert 'id="rings"' in (root / "run/report.html").read_text()
    assert cli(*words, "--rings", "20").exit_code == 2
    assert cli(*words, "--rings", "3", "--width", "8").exit_code == 2
    copy = shutil.copytree(root / "run", root / "copy")
    shown = cli("rings", root / "run", copy, *words[2:], "--width", "8", "--json", "--figures", root / "figures")
    assert [record["outer_pixels"] for record in json.loads(shown.stdout)] == 2 * [0, 8]  # of an image of 32 pixels
    assert {path.name for path in (root / "figures").iterdir()} == {"rings.png", "rings.svg"}
    assert cli("rings", root / "photos").exit_code == 2
    cli("rings", root / "run", "--stores", root / "stores", "--rings", str(RINGS))  # as the other tests expect them
