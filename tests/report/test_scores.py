"""Means with their intervals and chances, from what runs keep; warnings; findings."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from posenet_store.errors import StoreError
from posenet_store.report.html.findings import describe_tests, find_findings, is_baseline
from posenet_store.report.html.warnings import list_warnings
from posenet_store.report.pairs import Partner
from posenet_store.report.scores import MeanScore, ScoreArchive, find_chances, pool_seeds
from posenet_store.report.significance import PERMUTATIONS, correct_holm, find_interval, permuted_p, shifted_p
from posenet_store.report.table import make_table2, table_lines
from posenet_store.sweep.cell import make_cell_target
from posenet_store.sweep.results import Result, RunFiles, load_run
from tests.support.runs import cell, cli, constant, predicted, write


def opened(folder: Path, *cells: Partner) -> tuple[list[Result], ScoreArchive]:
    run = write(folder / "run", cells)
    return load_run(run)[1], ScoreArchive([run])


def test_an_interval_is_over_the_images_and_seeds_that_were_kept(tmp_path: Path) -> None:
    cells = [predicted(seed=seed) for seed in range(3)]
    records, kept = opened(tmp_path, *cells)
    value = pool_seeds(records, "held-out", kept)
    stacked = {kind: np.stack([one.scores[f"{kind}/held-out"] for one in cells], axis=1) for kind in ("spc", "mae")}
    assert value.spc_bounds == find_interval(stacked["spc"])
    assert value.mae_bounds == find_interval(stacked["mae"])
    assert value.spc == pytest.approx(stacked["spc"].mean())
    assert pool_seeds(records[:1], "held-out", kept).spc_bounds == find_interval(cells[0].scores["spc/held-out"])


def test_p_is_of_the_mean_map_of_ranks_corrected_for_all_entries(tmp_path: Path) -> None:
    strengths = (0.0, 0.1, 1.0)
    cells = [predicted(strength=s, noise=1, target=target, network=f"n{s}") for s in strengths for target in ("H", "G")]
    again = predicted(strength=0.1, noise=1, seed=1, target="H", network="n0.1")
    records, kept = opened(tmp_path, *cells, again)
    entries = [([record], "held-out") for record in records[:-1]] + [([records[2], records[-1]], "held-out")]
    by_id = {one.result.id: one for one in (*cells, again)}
    found = find_chances(entries, kept)
    expected = []
    for some, test in entries:
        target = make_cell_target(some[0].cell)
        ranks = np.mean([by_id[one.id].scores[f"ranks/{test}"] for one in some], axis=0)[None]
        expected.append([permuted_p(ranks, target)[0], shifted_p(ranks, target)[0][0]])
    np.testing.assert_allclose([(one.permuted, one.shifted) for one in found if one], expected)
    assert [one.corrected for one in found if one] == pytest.approx(correct_holm([p for p, _ in expected]))
    assert expected[0][0] > 0.01 and expected[4][0] == 1 / (1 + PERMUTATIONS)


def test_an_older_run_has_intervals_but_no_p(tmp_path: Path) -> None:
    records, kept = opened(tmp_path, cell({"held-out": ([0.1, 0.2, 0.3], [0.2, 0.2, 0.2])}))
    (line,) = [line for line in table_lines(records, kept) if line.ours]
    value = line.values["natural"]
    assert value.spc_bounds and value.chance is None
    assert "not tested against chance" in find_findings([line], kept)[0].verdict
    listing = make_table2(records, kept)
    assert "natural p" not in listing.head
    assert listing.records[-1]["p"] is None


def test_a_run_without_its_scores_falls_back_to_the_spread(tmp_path: Path) -> None:
    records, kept = opened(tmp_path, cell(constant(0.5), seed=0), cell(constant(0.7), seed=1))
    for record in records:
        RunFiles(tmp_path / "run").scores(str(record.id)).unlink()
    assert pool_seeds(records, "held-out", ScoreArchive([tmp_path / "run"])).text() == ".600 ±.141 / .250"
    assert pool_seeds(records, "held-out", kept).spc_bounds is None


def test_damaged_scores_are_named(tmp_path: Path) -> None:
    records, kept = opened(tmp_path, cell(constant(0.5)))
    path = RunFiles(tmp_path / "run").scores(str(records[0].id))
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(StoreError, match=f"{path.name} is damaged"):
        pool_seeds(records, "held-out", kept)
    assert cli("table", tmp_path / "run").exit_code == 1


def test_table_and_compare_speak_of_the_same_intervals(tmp_path: Path) -> None:
    first, second = predicted(noise=1), predicted(noise=0.1)
    nothing = cell({"held-out": ([0.0] * 6, [0.25] * 6)}, kernel=5)
    run = write(tmp_path / "run", [first])
    write(tmp_path / "other", [nothing])
    (row,) = [one for one in json.loads(cli("table", run, "--json").stdout) if one["numbers"].startswith("ours")]
    (change,) = json.loads(cli("compare", tmp_path / "other", run, "--json").stdout)
    assert (row["spc_low"], row["spc_high"]) == pytest.approx((change["spc_low"], change["spc_high"]), abs=1e-12)
    text = cli("table", run).stdout
    assert f"[{row['spc_low']:.3f}".replace("0.", ".") in text
    assert "natural p" in text and ".0001" in text
    assert second.result.id == first.result.id  # noise is no part of what a cell is


def test_warnings_say_where_spc_misleads(tmp_path: Path) -> None:
    target = make_cell_target(cell({}).result.cell)

    def said(spc: float, mae: float, mean: object = None, undefined: int = 0, images: int = 20, **fit: float) -> str:
        one = cell(
            {"held-out": ([spc] * images, [mae] * images)}, kept={} if mean is None else {"mean/held-out": np.array(mean)}
        )
        one.result.fit.update(fit)
        records, kept = opened(tmp_path, one)
        return "; ".join(list_warnings(records, "held-out", MeanScore(spc, mae, images=images, undefined=undefined), kept))

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


def test_findings_name_the_trained_network_first_and_its_gain_over_the_baselines(tmp_path: Path) -> None:
    networks = {"pixels": 0.0, "vgg16-hed": 1.0, "vgg16-random0": 0.5}
    cells = [
        predicted(strength=strength, count=12, seed=0, target=target, network=network)
        for network, strength in networks.items() for target in ("H", "G")
    ]  # fmt: skip
    records, kept = opened(tmp_path, *cells)
    lines = table_lines(records, kept)
    found = find_findings(lines, kept)
    assert [one.network for one in found] == ["vgg16-hed", "pixels (no network)", "vgg16-random0 (untrained)"]
    assert "position is read beyond chance on every target" in found[0].verdict
    assert "no position beyond chance" in found[1].verdict
    assert found[1].gain == ""
    difference = cells[2].scores["spc/held-out"] - cells[0].scores["spc/held-out"]
    assert f"{difference.mean():+.3f}".replace("0.", ".") in found[0].gain
    assert "against pixels (no network)" in found[0].gain and "against vgg16-random0 (untrained)" in found[0].gain
    assert "6 entries were tested; the least p is .0001, corrected .0006." in describe_tests(lines)


def test_an_answer_is_not_corrected_for_the_other_heads_of_its_page(tmp_path: Path) -> None:
    """2,000 other heads on the page would make every corrected p 1; what the answer claims are ten of them."""
    cells = [
        predicted(strength=1.0, count=12, seed=0, target=target, network="vgg16-hed-padding-none") for target in ("H", "G")
    ]
    records, kept = opened(tmp_path, *cells)
    lines = table_lines(records, kept)
    for line in lines:
        for test, value in line.values.items():
            if value.chance:
                line.values[test] = replace(value, chance=replace(value.chance, corrected=1.0))
    (found,) = find_findings(lines, kept)
    assert "position is read beyond chance on every target" in found.verdict
    assert not any(is_baseline(line) for line in lines if line.ours)
