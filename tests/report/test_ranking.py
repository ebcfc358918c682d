"""Groups of heads in order: means, spread over seeds, undefined scores, and every option of `table --by`."""

import csv
import io
import json
from itertools import product
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest

from posenet_store.heads.protocols import GradientProtocol, RidgeProtocol
from posenet_store.report.ranking import Group, choose_fields, group_heads, rank_heads, sort_groups
from posenet_store.report.records import select_results
from posenet_store.report.scores import MeanScore
from posenet_store.report.table import choose_columns
from posenet_store.sweep.results import load_run
from tests.support.runs import cell, cli, constant, write

NAN = float("nan")
NATURAL = {"natural": "held-out"}


def spc_of(network: str, target: str, seed: int) -> float:
    """Targets differ by 0.2, networks by 0.4, seeds by some 0.01."""
    return 0.2 * (target == "H") + 0.4 * (network == "vgg16-hed") + 0.01 * seed * (1 + (target == "H"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two networks, two targets, two kernels, three seeds; black has no rank order for pixels."""
    cells = []
    for network, target, kernel, seed in product(("pixels", "vgg16-hed"), ("H", "V"), (3, 11), (0, 1, 2)):
        black = NAN if network == "pixels" else 0.5
        columns = dict(constant(spc_of(network, target, seed), mae=1 / kernel)) | dict(constant(black, images=1, test="black"))
        cells.append(cell(columns, network, target=target, kernel=kernel, seed=seed))
    return write(tmp_path_factory.mktemp("ranking") / "run", cells)


def rows(run: Path, *words: str | Path) -> list[dict[str, Any]]:
    result = cli("table", run, *words, "--json")
    assert result.exit_code == 0, result.output
    records: list[dict[str, Any]] = json.loads(result.stdout)
    return records


def test_a_group_has_the_means_of_its_heads(run: Path) -> None:
    records = load_run(run)[1]
    (pixels, vgg) = group_heads(records, ["network"], {"natural": "held-out", "black": "black"})
    assert (pixels.fields, pixels.heads) == ({"network": "pixels"}, 12)
    numbers = [spc_of("vgg16-hed", target, seed) for target, _, seed in product("HV", (3, 11), range(3))]
    assert vgg.values["natural"].spc == pytest.approx(mean(numbers))
    assert vgg.values["natural"].mae == pytest.approx((1 / 3 + 1 / 11) / 2)
    assert (vgg.values["natural"].images, vgg.values["natural"].undefined) == (48, 0)
    assert pixels.values["black"].spc is None
    assert (pixels.values["black"].images, pixels.values["black"].undefined) == (12, 12)


def test_the_spread_is_over_seeds_never_over_what_else_a_group_pools(run: Path) -> None:
    records = load_run(run)[1]
    (alone, *_) = group_heads(records, ["network", "target", "kernel"], NATURAL)
    steep, flat = ([spc_of("pixels", target, seed) for seed in range(3)] for target in "HV")
    assert alone.values["natural"].spc_spread == pytest.approx(stdev(steep))
    assert alone.values["natural"].mae_spread == pytest.approx(0)
    (pixels, _) = group_heads(records, ["network"], NATURAL)
    # equal numbers of seeds: the pooled variance is the mean of the variances; targets differ by ten times more
    assert pixels.values["natural"].spc_spread == pytest.approx(((stdev(steep) ** 2 + stdev(flat) ** 2) / 2) ** 0.5)


def test_learning_rates_are_no_seeds() -> None:
    heads = [
        cell(constant(10 * rate + 0.01 * seed), protocol=GradientProtocol(learning_rate=rate), seed=seed).result
        for rate, seed in product((0.01, 0.05), (0, 1))
    ]
    (group,) = group_heads(heads, ["network"], NATURAL)
    assert group.values["natural"].spc_spread == pytest.approx(stdev([0.0, 0.01]))
    listing = rank_heads([*heads, cell(constant(0.3), protocol=RidgeProtocol()).result], (), NATURAL)
    assert listing.head == ["protocol", "learning_rate", "heads", "natural SPC / MAE"]
    assert [row[:3] for row in listing.rows] == [
        ["report-2020", ("0.05",), ("2",)], ["ridge", "", ("1",)], ["report-2020", ("0.01",), ("2",)],
    ]  # fmt: skip


def test_one_seed_has_no_spread() -> None:
    heads = [cell(constant(0.4), target=target).result for target in "HV"]
    (group,) = group_heads(heads, ["network"], NATURAL)
    assert (group.values["natural"].spc_spread, group.values["natural"].mae_spread) == (None, None)
    assert group.values["natural"].text() == ".400 / .250"
    assert all(group.values["natural"].spc_spread is None for group in group_heads(heads, ["seed", "target"], NATURAL))


def group(name: str, spc: float | None, mae: float | None = 0.2) -> Group:
    return Group({"network": name}, 1, {"natural": MeanScore(spc, mae)})


def order(groups: list[Group], sort: str) -> str:
    return "".join(group.fields["network"] for group in sort_groups(groups, sort, "natural"))


def test_order_and_what_has_no_number_comes_last() -> None:
    groups = [group("a", 0.1, 0.3), group("b", None, None), group("c", 0.9, 0.1), group("d", 0.1, 0.2)]
    assert order(groups, "-spc") == "cadb"  # equal ones keep their order
    assert order(groups, "spc") == "adcb"
    assert order(groups, "mae") == "cdab"
    assert order(groups, "-mae") == "adcb"
    assert order(groups, "-network") == "dcba"
    untested = Group({"network": "e"}, 1, {})
    assert order([untested, *groups], "-spc") == "cadeb"


def test_the_best_is_first_by_default(run: Path) -> None:
    ranked = [(row["network"], row["target"]) for row in rows(run, "--by", "network,target")]
    assert ranked == [("vgg16-hed", "H"), ("vgg16-hed", "V"), ("pixels", "H"), ("pixels", "V")]


def test_fields_can_be_repeated_or_joined(run: Path) -> None:
    once = rows(run, "--by", "network, kernel", "--by", "kernel")
    assert once == rows(run, "--by", "network", "--by", "kernel")
    assert list(once[0])[:2] == ["network", "kernel"]
    assert choose_fields(load_run(run)[1], ()) == ["network", "target", "kernel"]
    assert choose_fields(load_run(run)[1][:1], ()) == ["network"]


def test_numbers_are_ordered_as_numbers(run: Path) -> None:
    assert [row["kernel"] for row in rows(run, "--by", "kernel", "--sort", "kernel")] == [3, 11]
    assert [row["kernel"] for row in rows(run, "--by", "kernel", "--sort", "-kernel")] == [11, 3]
    assert [row["kernel"] for row in rows(run, "--by", "kernel", "--sort", "mae")] == [11, 3]


def test_conditions_choose_cells(run: Path) -> None:
    records = load_run(run)[1]
    chosen = select_results(records, ["target=H", "kernel=3", "kernel=11", "network=pixels"])
    assert [(result.cell.kernel, result.cell.seed) for result in chosen] == list(product((3, 11), range(3)))
    assert rows(run, "--by", "network", "--where", "network=pixels", "--where", "kernel=11")[0]["heads"] == 6


def test_options_without_by_rank_what_varies(run: Path) -> None:
    (best, second) = rows(run, "--top", "2", "--where", "kernel=3")
    assert {key: best[key] for key in ("network", "target", "heads", "test")} == {
        "network": "vgg16-hed", "target": "H", "heads": 3, "test": "natural",
    }  # fmt: skip
    assert "kernel" not in best
    assert second["target"] == "V"


def test_the_first_test_column_orders_the_rows(run: Path) -> None:
    ranked = rows(run, "--by", "network", "--test", "black", "--test", "natural")
    assert [(row["network"], row["test"]) for row in ranked] == [
        ("vgg16-hed", "black"), ("vgg16-hed", "natural"), ("pixels", "black"), ("pixels", "natural"),
    ]  # fmt: skip
    assert rows(run, "--by", "network", "--test", "black", "--sort", "spc")[-1]["spc"] is None


def test_the_terminal_shows_aligned_numbers(run: Path) -> None:
    lines = cli("table", run, "--by", "network,seed", "--test", "black", "--test", "natural").stdout.splitlines()
    best = next(line for line in lines if "vgg16-hed" in line)
    worst = next(line for line in lines if "pixels" in line)
    assert "by hand" in lines[0]
    for text in (".500 / .250", "0 of 4", ".500 / .212"):
        assert text in best
    for text in ("undef. / .250", "4 of 4", "pixels (no network)"):
        assert text in worst
    assert best.index("/ .250") == worst.index("/ .250")
    assert best.index("/ .212") == worst.index("/ .212")
    assert not any("published" in line for line in lines)


def test_formats_hold_the_same_numbers(run: Path) -> None:
    markdown = cli("table", run, "--by", "network", "--format", "markdown").stdout
    assert markdown.splitlines()[0] == "| network | heads | natural SPC / MAE |"
    assert "| vgg16-hed | 12 | .515 ±.016 / .212 |" in markdown
    text = cli("table", run, "--by", "network", "--format", "csv", "--test", "black").stdout
    (vgg, pixels) = csv.DictReader(io.StringIO(text))
    assert (vgg["spc"], vgg["heads"], pixels["spc"], pixels["undefined"]) == ("0.5", "12", "", "12")


def test_without_options_it_is_table_2(run: Path) -> None:
    assert "published: report" in cli("table", run).stdout
    assert {"target", "network", "head", "numbers", "test"} < set(rows(run)[0])


def test_cells_that_are_not_there_are_counted(tmp_path: Path) -> None:
    tested = cell(dict(constant(0.5)) | dict(constant(0.9, test="photos")), network="a")
    partly = write(tmp_path / "run", [tested, cell(constant(0.4), network="b")], unfinished=["0" * 16])
    result = cli("table", partly, "--by", "network", "--test", "photos", "--test", "natural")
    assert result.exit_code == 0
    assert "1 of 3 cells are not finished and left out" in result.stderr
    assert "photos: 1 of 2 heads were not tested on it" in result.stderr
    assert "natural:" not in result.stderr
    assert [line.split()[1] for line in result.stdout.splitlines() if line[:2] in ("a ", "b ")] == ["1", "1"]
    assert "not finished" not in cli("table", partly).stderr


def test_an_image_set_may_be_called_natural() -> None:
    records = [cell(dict(constant(0.5)) | dict(constant(0.9, test="natural"))).result]
    assert choose_columns(records) == {"held-out": "held-out", "natural": "natural"}
    assert rank_heads(records, (), choose_columns(records)).rows == [
        ["vgg16-hed", ("1",), (".500", "", "/ .250"), (".900", "", "/ .250")]
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--by", "networks"], "unknown field 'networks' (did you mean 'network'?); accepted: network, images, input"),
        (["--by", ""], "unknown field ''"),
        (["--by", "network", "--test", "blak"], "unknown test column 'blak' (did you mean 'black'?); accepted: natural, black"),
        (["--by", "network", "--sort", "target"], "unknown order 'target'"),
        (["--by", "network", "--sort", "scp"], "(did you mean 'spc'?); accepted: spc, -spc, mae, -mae, network, -network"),
        (["--where", "kernel"], "--where 'kernel' is not accepted; give FIELD=VALUE"),
        (["--where", "kernle=3"], "unknown field 'kernle' (did you mean 'kernel'?)"),
        (["--where", "kernel=5"], "unknown kernel '5'; accepted: 3, 11"),
        (["--where", "validation=None"], "unknown validation 'None'; accepted: "),
        (["--top", "0"], "0 is not in the range"),
        (["--format", "html"], "'html' is not one of"),
    ],
)
def test_a_wrong_word_is_named_with_what_is_accepted(run: Path, words: list[str], message: str) -> None:
    result = cli("table", run, *words)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.output


def test_conditions_that_no_cell_meets_together_are_refused(tmp_path: Path) -> None:
    run = write(tmp_path / "run", [cell(constant(0.5), kernel=3, target="H"), cell(constant(0.5), kernel=5, target="V")])
    result = cli("table", run, "--where", "kernel=5", "--where", "target=H")
    assert result.exit_code == 2
    assert "no cell has all of kernel 5, target H" in result.stderr
