"""The table: seeds pooled, published numbers beside ours, three formats."""

import csv
import io
from dataclasses import replace
from typing import Any

import pytest

from posenet_store.heads.protocols import GradientProtocol, RidgeProtocol
from posenet_store.report.html.findings import is_baseline
from posenet_store.report.published import COLUMNS, TABLES
from posenet_store.report.table import format_rows, make_table2, our_lines, table_lines
from posenet_store.sweep.results import Result, ScoreSummary
from tests.support.runs import cell


def record(seed: int, spc: float | None, network: str = "vgg16-hed", images: str = "duts-te", **changes: Any) -> Result:
    summary = ScoreSummary(spc, mae=0.25, images=10, undefined=10 if spc is None else 0, nonfinite=0, images_sha256=images)
    result = cell({}, network, images, seed=seed, **changes).result
    return replace(result, scores={"white": summary, "held-out": summary, "bear": summary})


def test_seeds_are_pooled_with_their_spread() -> None:
    (line,) = our_lines([record(0, 0.4), record(1, 0.5), record(2, 0.6)])
    value = line.values["natural"]
    assert value.spc == pytest.approx(0.5)
    assert value.spc_spread == pytest.approx(0.1)  # the sample deviation
    assert value.text() == ".500 ±.100 / .250"


def test_one_seed_has_no_spread() -> None:
    assert our_lines([record(0, 0.4)])[0].values["natural"].text() == ".400 / .250"


def test_undefined_is_a_word_never_a_number() -> None:
    (line,) = our_lines([record(0, None), record(1, None)])
    assert line.values["white"].text() == "undef. / .250"
    assert line.values["white"].undefined == 10
    (line,) = our_lines([record(0, None), record(1, 0.2)])
    assert line.values["natural"].spc == 0.2


def test_published_rows_stand_below_their_backbone() -> None:
    lines = table_lines([record(0, 0.4), record(0, 0.1, network="pixels")])
    assert [(line.network, line.source) for line in lines] == [
        ("best constant", "baseline"),
        ("vgg16-hed", "ours: report-2020"),
        ("VGG", "published: report"),
        ("VGG", "published: paper"),
        ("pixels", "ours: report-2020"),
        ("PosENet", "published: report"),
        ("PosENet", "published: paper"),
    ]
    assert lines[2].values["natural"].text() == ".394 / .235"
    assert lines[0].values["natural"].text() == "undef. / .251"


def test_published_rows_are_only_for_the_published_head() -> None:
    for other in (record(0, 0.4, kernel=5), record(0, 0.4, network="resnet18-imagenet")):
        assert [line.source for line in table_lines([other])] == ["baseline", "ours: report-2020"]


def test_columns_are_natural_then_other_sets_then_the_probes() -> None:
    head, rows = format_rows(table_lines([record(0, 0.4)]))
    assert head[3:] == [f"{name} SPC / MAE" for name in ("natural", "bear", "black", "white", "noise")]
    assert rows[1][3:] == [".400 / .250", ".400 / .250", "", ".400 / .250", ""]


def test_what_varies_is_a_column() -> None:
    head, rows = format_rows(our_lines([record(0, 0.4), record(0, 0.5, kernel=7, padding=2, input="full:f5")]))
    assert head[2] == "head"
    assert [row[2] for row in rows] == ["k=3", "k=7 pad=2 full:f5"]


def test_several_training_sets_are_told_apart() -> None:
    results = [record(0, 0.4), record(0, 0.1, images="dead-leaves")]
    assert [line.network for line in our_lines(results)] == ["vgg16-hed on duts-te", "vgg16-hed on dead-leaves"]


def test_learning_rates_are_told_apart_never_pooled_as_seeds() -> None:
    protocols = [GradientProtocol(learning_rate=0.1), GradientProtocol(learning_rate=0.01), RidgeProtocol()]
    lines = our_lines([record(seed, 0.4 + seed, protocol=protocol) for protocol in protocols for seed in (0, 1)])
    assert [line.source for line in lines] == [
        "ours: report-2020, learning_rate 0.1", "ours: report-2020, learning_rate 0.01", "ours: ridge",
    ]  # fmt: skip
    assert [line.values["natural"].spc for line in lines] == pytest.approx([0.9] * 3)


def test_untrained_networks_say_so() -> None:
    assert format_rows(our_lines([record(0, 0.4, network="resnet152-random0")]))[1][0][1] == "resnet152-random0 (untrained)"


def test_a_weights_file_called_random_is_trained_and_no_baseline() -> None:
    line, baseline = our_lines(
        [record(0, 0.4, network="vgg16-random_erasing", weights_kind="trained"), record(0, 0.1, network="vgg16-random0")]
    )
    assert (line.title, baseline.title) == ("vgg16-random_erasing", "vgg16-random0 (untrained)")
    assert [is_baseline(line), is_baseline(baseline)] == [False, True]


def test_a_listing_shows_itself_in_notebooks_with_text_escaped() -> None:
    listing = make_table2([record(0, 0.4, network="<b>")])
    assert repr(listing) == listing.markdown()
    assert "<b>" not in listing._repr_html_()
    assert "<td>&lt;b&gt;</td>" in listing._repr_html_()


def test_markdown_and_csv_hold_the_same_numbers() -> None:
    listing = make_table2([record(0, 0.4), record(1, 0.5)])
    assert "| H | vgg16-hed | ours: report-2020 | .450 ±.071 / .250 |" in listing.markdown()
    rows = list(csv.DictReader(io.StringIO(listing.csv())))
    assert len(rows) == len(listing.records) == 3 + 3 + 4 + 4
    assert (rows[3]["test"], rows[3]["numbers"]) == ("white", "ours: report-2020")
    assert float(rows[3]["spc"]) == pytest.approx(0.45)


def test_the_published_tables_are_complete() -> None:
    for table in TABLES:
        assert {target for target, _ in table.numbers} == {"H", "V", "G", "HS", "VS"}
        assert len(table.numbers) == 15
        assert all(len(pairs) == len(COLUMNS) for pairs in table.numbers.values())
    report, paper = TABLES
    assert report.numbers["G", "ResNet"][0] == (0.886, 0.135)
    assert report.numbers["H", "PosENet"][1] == (None, 0.251)
    assert paper.numbers["VS", "ResNet"][3] == (0.523, 0.545)
