"""The table and the figure of position variance, from numbers written by hand, and the command that prints them."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from posenet_store.errors import UsageError
from posenet_store.heads.position_variance import SHARES, Estimates
from posenet_store.images.sources import load_image_set
from posenet_store.report.figures.variance import draw_variance
from posenet_store.report.run import open_run
from posenet_store.report.variance import describe_store, list_channels, list_stages
from posenet_store.sweep.variance_results import StageVariance, StoreVariance, read_variances, write_variance
from tests.support.runs import cell, cli, constant, label, write
from tests.support.small import built_store, folder, tiny_backbone, write_images
from tests.support.terminal import show_in_terminal


def make_variance(network: str = "vgg16-hed", largest: float = 0.25) -> StoreVariance:
    value = np.array([largest, 0.1, 0.0625, 0.0, -0.001, 0.0885])
    channels = np.stack([value, 2 * value])
    stage = StageVariance(
        name="f1",
        size=(112, 112),
        live=2,
        shares=Estimates(value, value - 0.05, value + 0.05),
        channels=Estimates(channels, channels - 0.1, channels + 0.1),
        directions=Estimates(np.array([0.5, 0.12, 0.08]), np.array([0.4, 0.09, 0.05]), np.array([0.6, 0.15, 0.11])),
        p=0.0001,
    )
    undefined = Estimates(*[np.full(6, np.nan)] * 3)
    none = Estimates(*[np.zeros((0, 6))] * 3)
    dead = StageVariance("f2", (7, 7), 0, undefined, none, Estimates(*[np.zeros(0)] * 3), 1.0)
    return StoreVariance(
        label(network, "photos", None, {"network": network, "images": "photos"}), "store", 60, 20, (stage, dead)
    )


def test_a_row_a_stage_with_its_interval_parts_and_directions() -> None:
    listing = list_stages([make_variance()])
    assert listing.head == ["stage", "size", *SHARES, "directions"]
    f1, f2 = listing.terminal()
    assert [text.strip() for text in f1[:3]] == ["f1", "112x112", ".250 [.200, .300]"]
    assert f1[-1] == "2 [1, 3]"
    assert f2[2].strip() == "undef."
    record = listing.records[0]
    assert (record["position_low"], record["|y|_low"], record["p"], record["p_corrected"]) == (0.2, 0.0, 0.0001, 0.0002)
    assert (record["directions"], record["directions_low"], record["directions_high"]) == (2, 1, 3)
    assert listing.records[1]["position"] is None
    assert list_stages([make_variance(), make_variance("pixels")]).head[0] == "network"
    assert "photos: 60 images; p of no position up to 1.0000" in describe_store(make_variance())


def test_channels_are_ranked() -> None:
    listing = list_channels([make_variance()])
    assert [row[0] for row in listing.rows] == ["f1:1", "f1:0"]
    assert listing.records[0]["position"] == 0.5


def test_the_figure_has_every_number_and_a_run_shows_it(tmp_path: Path) -> None:
    trained, untrained = make_variance(), make_variance("vgg16-random0", 0.4)
    picture = draw_variance([trained, untrained])
    assert [row[0] for row in picture.rows] == ["vgg16-hed"] * 2 + ["vgg16-random0 (untrained)"] * 2
    assert "vgg16-random0 (untrained): f1 .400 [.350, .450]" in picture.answer
    run = write(tmp_path / "run", [cell(constant(0.5), store="a" * 64)])
    with pytest.raises(UsageError, match="variance"):
        open_run(run).plot.variance()
    write_variance(run, "a" * 64, trained)
    write_variance(run, "b" * 64, untrained)  # of a store that no cell here was trained on
    assert read_variances(run)["a" * 64].to_dict() == trained.to_dict()
    open_run(run).plot.variance()
    assert [row[0] for row in next(p for p in open_run(run).pictures() if p.name == "variance").rows] == ["f1", "f2"]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("stores")
    return folder(built_store(root, load_image_set(str(write_images(root / "photos", 24))), tiny_backbone()))


def test_the_command_prints_tables_records_and_figures(store: Path, tmp_path: Path) -> None:
    result = cli("variance", store, "--figures", tmp_path)
    assert result.exit_code == 0, result.output
    assert re.search(r"f2 +8x8 +-?\.\d{3} \[\.\d{3}, \.\d{3}\]", result.stdout)
    assert [Path(line).name for line in result.stdout.splitlines()[-2:]] == ["variance.png", "variance.svg"]
    records = json.loads(cli("variance", store, "--json").stdout)
    assert [record["stage"] for record in records] == ["f1", "f2", "f3"]
    assert cli("variance", store, "--format", "csv").stdout.startswith(
        "network,images,count,stage,height,width,channels,live,position"
    )
    assert len(json.loads(cli("variance", store, "--channels", "--json").stdout)) == 8 + 12 + 16
    assert cli("variance", tmp_path / "none").exit_code == 2


def test_a_table_fits_into_80_columns(store: Path) -> None:
    lines = show_in_terminal(80, "variance", store).splitlines()
    assert max(map(len, lines)) <= 80
    assert sum(line.startswith("f1 ") for line in lines) == 1
