"""Means with their intervals and chances, from what runs keep; warnings; findings."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats

from posenet_store.errors import StoreError
from posenet_store.heads.metrics import rank_maps
from posenet_store.report.html.findings import Finding, describe_tests, find_findings, write_headline
from posenet_store.report.html.warnings import list_warnings
from posenet_store.report.pairs import Partner
from posenet_store.report.scores import MeanScore, ScoreArchive, find_chances, pool_seeds
from posenet_store.report.significance import correct_holm, estimate_mean, permuted_p
from posenet_store.report.table import make_table2, table_lines
from posenet_store.sweep.cell import make_cell_target
from posenet_store.sweep.results import Result, RunFiles, load_run
from tests.support.runs import cell, cli, constant, predicted, write


def opened(folder: Path, *cells: Partner) -> tuple[list[Result], ScoreArchive]:
    run = write(folder / "run", cells)
    return load_run(run)[1], ScoreArchive({run: {result.id for result in load_run(run)[1]}})


def test_an_interval_is_over_the_images_and_seeds_that_were_kept(tmp_path: Path) -> None:
    cells = [predicted(seed=seed) for seed in range(3)]
    records, archive = opened(tmp_path, *cells)
    value = pool_seeds(records, "held-out", archive)
    stacked = {kind: np.stack([partner.scores[f"{kind}/held-out"] for partner in cells], axis=1) for kind in ("spc", "mae")}
    estimates = {kind: estimate_mean(table) for kind, table in stacked.items()}
    assert value.spc_bounds == (estimates["spc"] and estimates["spc"].find_bounds())
    assert value.mae_bounds == (estimates["mae"] and estimates["mae"].find_bounds())
    assert value.spc == pytest.approx(stacked["spc"].mean())
    alone = estimate_mean(cells[0].scores["spc/held-out"])
    assert pool_seeds(records[:1], "held-out", archive).spc_bounds == (alone and alone.find_bounds())


def test_p_is_of_the_images_corrected_for_all_entries(tmp_path: Path) -> None:
    strengths = (0.0, 0.1, 1.0)
    cells = [predicted(strength=s, noise=1, target=target, network=f"n{s}") for s in strengths for target in ("H", "G")]
    again = predicted(strength=0.1, noise=1, seed=1, target="H", network="n0.1")
    records, archive = opened(tmp_path, *cells, again)
    entries = [([record], "held-out") for record in records[:-1]] + [([records[2], records[-1]], "held-out")]
    chances = find_chances(entries, archive)
    expected = [scipy.stats.ttest_1samp(partner.scores["spc/held-out"], 0).pvalue for partner in cells]
    assert [chance.p for chance in chances[:-1] if chance] == pytest.approx(expected, rel=1e-9)
    pooled = np.stack([partner.scores["spc/held-out"] for partner in (cells[2], again)], axis=1)
    estimate = estimate_mean(pooled)
    assert chances[-1] and estimate and chances[-1].p == estimate.find_p()
    assert [chance.corrected for chance in chances if chance] == correct_holm([chance.p for chance in chances if chance])
    assert chances[0] and chances[0].p > 0.01


def test_a_single_image_has_no_p(tmp_path: Path) -> None:
    """A smooth map that knows nothing is as much a ramp as any placement of the ramp: .2 of them had p of shifts below .05."""
    records, archive = opened(tmp_path, predicted(count=1, strength=1.0, noise=0.01))
    assert find_chances([(records, "held-out")], archive) == [None]
    (row,) = [row for row in make_table2(records, archive).records if row["numbers"].startswith("ours")]
    assert (row["p"], row["p_corrected"]) == (None, None)


def test_p_of_permuted_positions_is_shown_on_request_only(tmp_path: Path) -> None:
    partner = predicted(noise=1)
    run = write(tmp_path / "run", [partner])
    assert "permuted" not in cli("table", run).stdout
    (row,) = [row for row in json.loads(cli("table", run, "--permuted", "--json").stdout) if row["numbers"].startswith("ours")]
    expected = permuted_p(partner.scores["ranks/held-out"][None], make_cell_target(partner.result.cell))[0]
    assert row["p_permuted"] == expected
    assert "natural p permuted" in cli("table", run, "--permuted").stdout
    assert "four of ten" in " ".join(cli("table", "--help").stdout.split())


def test_p_does_not_contradict_the_interval_beside_it(tmp_path: Path) -> None:
    """A smooth map in the right direction on average, and images that disagree: permuted positions gave p .0001."""
    spc = [0.9, -0.8, 0.7, -0.6, 0.5, -0.3, 0.4, -0.1]
    target = make_cell_target(cell({}).result.cell)
    ranks = 0.09 * rank_maps(target.reshape(1, -1)).reshape(1, *target.shape)[0]
    records, archive = opened(tmp_path, cell({"held-out": (spc, [0.3] * 8)}, arrays={"ranks/held-out": ranks}))
    (row,) = [row for row in make_table2(records, archive, permuted=True).records if row["numbers"].startswith("ours")]
    assert row["p_permuted"] == 1e-4
    assert row["spc_low"] < 0 < row["spc_high"] and row["p"] > 0.05


def test_an_interval_stays_within_what_a_score_can_be(tmp_path: Path) -> None:
    records, archive = opened(tmp_path, cell({"held-out": ([0.5, 0.9, 1.0], [0.01, 0.1, 0.2])}))
    value = pool_seeds(records, "held-out", archive)
    assert value.spc_bounds and value.spc_bounds[1] == 1.0
    assert value.mae_bounds and value.mae_bounds[0] == 0.0


def test_a_run_without_its_scores_falls_back_to_the_spread(tmp_path: Path) -> None:
    records, archive = opened(tmp_path, cell(constant(0.5), seed=0), cell(constant(0.7), seed=1))
    for record in records:
        RunFiles(tmp_path / "run").scores(str(record.id)).unlink()
    assert (
        pool_seeds(records, "held-out", ScoreArchive({tmp_path / "run": {record.id for record in records}})).text()
        == ".600 ±.141 / .250"
    )
    assert pool_seeds(records, "held-out", archive).spc_bounds is None


def test_damaged_scores_are_named(tmp_path: Path) -> None:
    records, archive = opened(tmp_path, cell(constant(0.5)))
    path = RunFiles(tmp_path / "run").scores(str(records[0].id))
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(StoreError, match=f"{path.name} is damaged"):  # since the run was opened
        pool_seeds(records, "held-out", archive)
    result = cli("table", tmp_path / "run")
    assert (result.exit_code, str(path) in result.stderr) == (2, True)


def test_table_and_compare_speak_of_the_same_intervals(tmp_path: Path) -> None:
    first, second = predicted(noise=1), predicted(noise=0.1)
    nothing = cell({"held-out": ([0.0] * 6, [0.25] * 6)}, kernel=5)
    run = write(tmp_path / "run", [first])
    write(tmp_path / "other", [nothing])
    (row,) = [record for record in json.loads(cli("table", run, "--json").stdout) if record["numbers"].startswith("ours")]
    (change,) = json.loads(cli("compare", tmp_path / "other", run, "--json").stdout)
    assert (row["spc_low"], row["spc_high"]) == pytest.approx((change["spc_low"], change["spc_high"]), abs=1e-12)
    text = cli("table", run).stdout
    assert f"[{row['spc_low']:.3f}".replace("0.", ".") in text
    assert "natural p" in text
    assert second.result.id == first.result.id  # noise is no part of what a cell is


def test_warnings_say_where_spc_misleads(tmp_path: Path) -> None:
    target = make_cell_target(cell({}).result.cell)

    def said(spc: float, mae: float, mean: object = None, undefined: int = 0, images: int = 20, **fit: float) -> str:
        partner = cell(
            {"held-out": ([spc] * images, [mae] * images)}, arrays={} if mean is None else {"mean/held-out": np.array(mean)}
        )
        partner.result.fit.update(fit)
        records, archive = opened(tmp_path, partner)
        return "; ".join(list_warnings(records, "held-out", MeanScore(spc, mae, images=images, undefined=undefined), archive))

    assert said(0.9, 0.1, mean=target) == ""
    assert said(0.1, 0.3) == ""
    assert said(0.9, 0.1, images=9) == "only 9 images"
    assert said(0.9, 0.1, images=1, undefined=1) == ""  # one image: the entry itself says undef.
    assert "3 of 20 maps are constant" in said(0.9, 0.1, undefined=3)
    assert "MAE .300, the best constant map has .251" in said(0.9, 0.3)
    assert "spans 5% of the target's range" in said(0.9, 0.2, mean=0.5 + 0.05 * target)
    saturated = np.exp(12 * target)
    assert "saturates" in said(0.9, 0.2, mean=saturated / saturated.max())
    assert said(0.9, 0.1, diverged=1.0) == "a head diverged in training"


COUNT = 40
"""Held-out images, enough for a claim."""


def find(folder: Path, *cells: Partner) -> dict[str, Finding]:
    records, archive = opened(folder, *cells)
    return {finding.network: finding for finding in find_findings(table_lines(records, archive), archive)}


def predicted_by(strengths: dict[str, float], count: int = COUNT, **changes: Any) -> list[Partner]:
    return [
        predicted(strength=strength, count=count, target=target, network=network, **changes)
        for network, strength in strengths.items() for target in ("H", "G")
    ]  # fmt: skip


def test_findings_name_each_network_and_its_gain_over_the_baselines(tmp_path: Path) -> None:
    cells = predicted_by({"pixels": 0.0, "vgg16-hed": 1.0, "vgg16-random0": 0.5}, noise=0.1)
    findings = find(tmp_path, *cells)
    assert list(findings) == ["pixels (no network)", "vgg16-hed", "vgg16-random0 (untrained)"]
    trained = findings["vgg16-hed"]
    assert trained.verdict.startswith("position is read on every target: SPC ")
    assert "more than the pixels, errors " in trained.verdict and "% below the best constant's" in trained.verdict
    assert findings["pixels (no network)"].verdict.startswith("the baseline, SPC ")
    assert findings["pixels (no network)"].gain == ""
    difference = cells[2].scores["spc/held-out"] - cells[0].scores["spc/held-out"]
    assert f"{difference.mean():+.3f}".replace("0.", ".") in trained.gain
    assert "against pixels (no network)" in trained.gain and "against vgg16-random0 (untrained)" in trained.gain


def test_networks_are_compared_with_their_own_untrained_ones_and_stand_beside_them(tmp_path: Path) -> None:
    strengths = {"pixels": 0.0, "resnet18-random0": 0.5, "vgg16-random0": 0.4, "vgg16-hed": 1.0, "resnet18-own": 0.9}
    findings = find(tmp_path, *predicted_by(strengths, noise=0.1))
    untrained = {"resnet18-own": "resnet18-random0 (untrained)", "vgg16-hed": "vgg16-random0 (untrained)"}
    assert list(findings) == ["pixels (no network)", *(name for pair in untrained.items() for name in pair)]
    for name, other in untrained.items():
        assert findings[name].gain.count("against") == 2 and f"against {other}" in findings[name].gain
        assert findings[other].gain.count("against") == 1 and "against pixels" in findings[other].gain


@pytest.mark.parametrize(
    ("strengths", "headline"),
    [
        ({"pixels": 0.0, "vgg16-hed": 1.0}, r"vgg16-hed: position is read on every target: SPC .*\."),
        (
            {"pixels": 0.0, "vgg16-hed": 1.0, "vgg16-hed-padding-none": 0.0},
            r"Position is read from 1 of 2 trained networks: vgg16-hed on every target \(SPC \.\d+ to \.\d+\); "
            r"not from vgg16-hed \(no padding\)\.",
        ),
        ({"pixels": 0.0, "vgg16-hed": 0.0, "resnet18-own": 0.0}, r"vgg16-hed: no position beyond chance and the pixels .*\."),
        ({"pixels": 0.0, "vgg16-random0": 1.0}, r"vgg16-random0 \(untrained\): position is read .*\."),
        ({"pixels": 0.0}, r"pixels \(no network\): the baseline, SPC .*\."),
    ],
)
def test_the_headline_counts_the_trained_networks_that_carry_position(
    tmp_path: Path, strengths: dict[str, float], headline: str
) -> None:
    assert re.fullmatch(headline, write_headline(list(find(tmp_path, *predicted_by(strengths, noise=0.1)).values())))


@pytest.mark.parametrize(
    ("strengths", "count", "verdict"),
    [
        ({"vgg16-hed": 1.0}, COUNT, "no claim: the pixels are not among the heads"),
        ({"pixels": 0.0, "vgg16-hed": 1.0}, 29, "no claim from 29 images, 30 are needed"),
        ({"pixels": 1.0, "vgg16-hed": 1.0}, COUNT, "no position beyond chance and the pixels"),
        ({"pixels": 0.0, "vgg16-hed": 0.0}, COUNT, "no position beyond chance and the pixels"),
        ({"pixels": 0.0, "vgg16-hed": 2.5}, COUNT, "no claim: positions are in order, but errors are not below"),
    ],
)
def test_a_claim_needs_a_baseline_images_a_gain_and_a_good_error(
    tmp_path: Path, strengths: dict[str, float], count: int, verdict: str
) -> None:
    findings = find(tmp_path, *predicted_by(strengths, count, noise=0.1))
    assert findings["vgg16-hed"].verdict.startswith(verdict)


def test_pixels_are_never_credited(tmp_path: Path) -> None:
    """An SPC of .03 that images agree on beats chance, and is what a baseline has."""
    spc = [0.03 + 0.001 * image for image in range(COUNT)]
    (finding,) = find(tmp_path, cell({"held-out": (spc, [0.24] * COUNT)}, network="pixels")).values()
    assert "position is read" not in finding.verdict


def test_a_head_that_did_not_train_is_no_baseline_and_has_no_gain(tmp_path: Path) -> None:
    far = [5e4 + image for image in range(COUNT)]
    cells = [
        *predicted_by({"pixels": 0.0, "vgg16-hed": 1.0}, noise=0.1),
        *(cell({"held-out": ([0.01] * COUNT, far)}, network="resnet152-random0", target=target) for target in ("H", "G")),
    ]
    findings = find(tmp_path, *cells)
    assert "resnet152" not in findings["vgg16-hed"].gain and "pixels" in findings["vgg16-hed"].gain
    assert findings["resnet152-random0 (untrained)"].gain == ""
    assert findings["resnet152-random0 (untrained)"].verdict.startswith("not trained: ")


def test_gains_are_over_the_same_images_only(tmp_path: Path) -> None:
    pixels, network = predicted_by({"pixels": 0.0}, noise=0.1), predicted_by({"vgg16-hed": 1.0}, noise=0.1)
    other = predicted_by({"vgg16-hed": 1.0}, noise=0.1, contents={"images": "other photographs of this name"})
    assert "position is read" in find(tmp_path / "same", *pixels, *network)["vgg16-hed"].verdict
    (verdict,) = [f.verdict for name, f in find(tmp_path / "other", *pixels, *other).items() if name.startswith("vgg16-hed")]
    assert verdict.startswith("no claim: the pixels are not among the heads")


def test_an_answer_is_not_corrected_for_the_other_heads_of_its_page(tmp_path: Path) -> None:
    """2,000 other heads on the page would make every corrected p 1; what the answer claims are ten of them."""
    records, archive = opened(tmp_path, *predicted_by({"pixels": 0.0, "vgg16-hed-padding-none": 1.0}, noise=0.1))
    lines = table_lines(records, archive)
    for line in lines:
        for test, value in line.values.items():
            if value.chance:
                line.values[test] = replace(value, chance=replace(value.chance, corrected=1.0))
    _, trained = find_findings(lines, archive)
    assert trained.verdict.startswith("position is read on every target")


def test_what_was_tested_together_is_counted(tmp_path: Path) -> None:
    records, archive = opened(tmp_path, *predicted_by({"pixels": 0.0, "vgg16-hed": 1.0}))
    assert describe_tests(table_lines(records, archive)).startswith("4 entries of several images")
