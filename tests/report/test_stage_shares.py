"""Shares of stages and their intervals, against scipy; the figure and the command."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import ttest_1samp, ttest_rel

from posenet_store.heads.protocols import RidgeProtocol
from posenet_store.report.pairs import Partner
from posenet_store.report.run import open_run
from posenet_store.report.stage_shares import list_stage_shares, split_shares
from tests.support.runs import cell, cli, constant, write

IMAGES = 12
MEANS = {"full": 0.75, "full:f1": 0.25, "full:f2": 0.5, "full:f3": 0.625}
MEANS |= {"full:f2+f3": 0.6875, "full:f1+f3": 0.625, "full:f1+f2": 0.5}


def draw_explained(seed: int = 0) -> dict[str, NDArray[np.float64]]:
    """What heads of each input explain of each image: images differ, alike for all heads."""
    draw = np.random.default_rng(seed)
    of_images = draw.normal(0, 0.1, IMAGES)
    return {text: mean + of_images + draw.normal(0, 0.02, IMAGES) for text, mean in MEANS.items()}


def make_cells(explained: Mapping[str, NDArray[np.float64]], **changes: Any) -> list[Partner]:
    protocol = RidgeProtocol(folds=4, bands=8)
    return [
        cell(constant(0.5, images=IMAGES), input=text, protocol=protocol, arrays={"explained/held-out": values}, **changes)
        for text, values in explained.items()
    ]


def test_shares_and_intervals_are_those_of_scipy_on_the_same_images(tmp_path: Path) -> None:
    explained = draw_explained()
    run = open_run(write(tmp_path / "run", make_cells(explained)))
    records = {record["stage"]: record for record in list_stage_shares(run.results, run.archive).records}
    assert list(records) == ["f1", "f2", "f3"]
    for stage, others in (("f1", "full:f2+f3"), ("f2", "full:f1+f3"), ("f3", "full:f1+f2")):
        alone, unique = explained[f"full:{stage}"], explained["full"] - explained[others]
        expected = {
            "alone": ttest_1samp(alone, 0).confidence_interval(),
            "unique": ttest_rel(explained["full"], explained[others]).confidence_interval(),
            "shared": ttest_rel(alone, unique).confidence_interval(),
        }
        for name, bounds in expected.items():
            assert (records[stage][f"{name}_low"], records[stage][f"{name}_high"]) == pytest.approx(tuple(bounds), abs=1e-12)
            assert records[stage][name] == pytest.approx((bounds.low + bounds.high) / 2)
        assert records[stage]["images"] == IMAGES


def test_images_without_a_finite_map_are_left_out_of_all_heads() -> None:
    explained = {frozenset[str](): np.array([0.5, 0.6, np.nan, 0.7]), frozenset({"f1"}): np.array([0.2, 0.3, 0.4, np.nan]),
                 frozenset({"f2"}): np.array([0.1, 0.2, 0.3, 0.4])}  # fmt: skip
    shares = split_shares(explained)
    assert {stage: share.images for stage, share in shares.items()} == {"f1": 2, "f2": 2}
    assert shares["f1"].unique.value == pytest.approx((0.4 + 0.4) / 2)
    assert split_shares({taps: values[2:3] for taps, values in explained.items()}) == {}
    assert split_shares({taps: values[:1] for taps, values in explained.items()})["f1"].alone.bounds is None


def test_heads_with_a_penalty_a_stage_come_before_others(tmp_path: Path) -> None:
    of_one_penalty = [
        cell(constant(0.5, images=IMAGES), network, input=text, protocol=RidgeProtocol(), arrays={"explained/held-out": values})
        for network in ("vgg16-hed", "resnet18-imagenet")
        for text, values in draw_explained(1).items()
    ]
    run = open_run(write(tmp_path / "run", [*of_one_penalty, *make_cells(draw_explained())]))
    shares = list_stage_shares(run.results, run.archive).records
    alone = open_run(write(tmp_path / "alone", make_cells(draw_explained())))
    assert shares == list_stage_shares(alone.results, alone.archive).records


def test_the_figure_has_a_point_with_its_interval_a_stage_and_share(tmp_path: Path) -> None:
    cells = [*make_cells(draw_explained()), *make_cells(draw_explained(1), network="vgg16-random0")]
    run = open_run(write(tmp_path / "run", cells))
    assert isinstance(run.plot.stage_shares(), matplotlib.figure.Figure)
    picture = next(picture for picture in run.pictures() if picture.name == "stage_shares")
    assert len(picture.rows) == 2 * 3 and len(picture.tips) == 2 * 2 * 3
    assert all(text.endswith("]") for row in picture.rows for text in row[3:])


def test_the_command_prints_a_row_a_stage(tmp_path: Path) -> None:
    run = write(tmp_path / "run", [*make_cells(draw_explained()), *make_cells(draw_explained(1), target="V")])
    rows = json.loads(cli("stage-shares", run, "--json").stdout)
    assert [(row["target"], row["stage"]) for row in rows] == [(t, s) for t in ("H", "V") for s in ("f1", "f2", "f3")]
    assert len(json.loads(cli("stage-shares", run, "--where", "target=V", "--json").stdout)) == 3
    assert "unique" in cli("stage-shares", run).stdout


def test_without_heads_on_all_stages_but_one_there_are_no_shares(tmp_path: Path) -> None:
    few = {text: values for text, values in draw_explained().items() if text.count("+") == 0}
    result = cli("stage-shares", write(tmp_path / "run", make_cells(few)))
    assert result.exit_code == 2 and "sweep stage_shares" in result.stderr
