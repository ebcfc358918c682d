"""Comparing heads on the same images: the arithmetic, who is whose partner, and every option of `compare`."""

import csv
import io
import json
import re
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
from numpy.typing import NDArray

from posenet_store.errors import UsageError
from posenet_store.heads.protocols import GradientProtocol, Protocol, RidgeProtocol
from posenet_store.report.compare import Difference, compare_pairs, describe_sides, find_difference, list_comparisons
from posenet_store.report.pairs import Partner, Side, pair_cells
from posenet_store.store.catalogue import list_stores
from posenet_store.sweep.plan import plan_sweep
from posenet_store.sweep.results import RunFiles, load_run, read_scores
from posenet_store.sweep.run import run_sweep
from posenet_store.sweep.spec import SweepSpec
from tests.support.runs import cell, cli, constant, write
from tests.support.small import store_with_probes

NAN, INF = float("nan"), float("inf")
NATURAL = {"natural": "held-out"}
EXACT = 1e-12  # the same sums in another order, of numbers near 1

BOTH = ("report-2020", "ridge")


def scores(seed: int, images: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    rng = np.random.default_rng(seed)
    first = rng.uniform(-1, 1, images)
    return first, first + rng.normal(0.02, 0.1, images)


@pytest.mark.parametrize("images", [2, 7, 51, 400])
def test_the_interval_and_p_are_scipys_paired_t_test(images: int) -> None:
    first, second = scores(images, images)
    difference = find_difference(first, second, more_is_better=True)
    reference = scipy.stats.ttest_rel(second, first)
    assert (difference.low, difference.high) == pytest.approx(tuple(reference.confidence_interval(0.95)), abs=EXACT)
    assert difference.mean == pytest.approx(np.mean(second) - np.mean(first), abs=EXACT)
    assert difference.p == pytest.approx(reference.pvalue, rel=1e-9)  # two ways to the same tail


def test_undefined_images_are_left_out_and_counted() -> None:
    first, second = scores(1, 30)
    holed, other = first.copy(), second.copy()
    holed[[3, 4]] = NAN
    other[[4, 9]] = [NAN, INF]
    defined = np.delete(np.arange(30), [3, 4, 9])
    difference = find_difference(holed, other, more_is_better=True)
    expected = find_difference(first[defined], second[defined], more_is_better=True)
    assert (difference.images, difference.left_out, expected.left_out) == (27, 3, 0)
    assert (difference.mean, difference.low, difference.high, difference.better) == (
        expected.mean,
        expected.low,
        expected.high,
        expected.better,
    )


def test_nothing_defined_and_one_image() -> None:
    nothing = find_difference(np.array([NAN, 0.1]), np.array([0.1, NAN]), more_is_better=True)
    assert nothing == Difference(None, None, None, 0, 0, 2)
    assert nothing.parts() == ("undef.", "", "")
    assert find_difference(np.array([0.25]), np.array([0.5]), more_is_better=True) == Difference(0.25, None, None, 1, 1, 0)


def test_better_is_more_spc_and_less_mae_beyond_rounding() -> None:
    first, second = np.array([0.1, 0.2, 0.3, 0.4]), np.array([0.2, 0.1, 0.3 + 1e-9, 0.5])
    assert find_difference(first, second, more_is_better=True).better == 2
    assert find_difference(first, second, more_is_better=False).better == 1


@pytest.mark.parametrize(
    ("difference", "text"),
    [
        (Difference(0.0123, 0.003, 0.0209, 1, 2, 0), "+.012 [.003, .021]"),
        (Difference(-0.5, -1.25, 0.0001, 1, 2, 0), "-.500 [-1.250, .000]"),
        (Difference(-0.0001, -0.0002, 0.0001, 1, 2, 0), ".000 [.000, .000]"),
        (Difference(0.0001, None, None, 1, 1, 0), ".000"),
        (Difference(1234.5, -99.5, 6000.0, 1, 2, 0), "+1.2e+03 [-99.500, 6.0e+03]"),
    ],
)
def test_how_a_difference_reads(difference: Difference, text: str) -> None:
    assert " ".join(part for part in difference.parts() if part) == text


def side(name: str, *cells: Partner) -> Side:
    return Side(name, cells, Path(name))


def heads(**choices: list[Any]) -> list[Partner]:
    return [cell(constant(0.5), **dict(zip(choices, values, strict=True))) for values in product(*choices.values())]


def keys(pairs: tuple[tuple[Partner, Partner], ...], *names: str) -> list[tuple[Any, ...]]:
    return [tuple(vars(partner.result.cell)[name] for name in names for partner in pair) for pair in pairs]


def test_partners_agree_in_all_but_what_the_sides_differ_in() -> None:
    small, large = heads(kernel=[3], target=["H", "V"], seed=[0, 1]), heads(kernel=[5], target=["V", "H", "G"], seed=[0, 1])
    pairing = pair_cells(side("a", *small), side("b", *large))
    assert keys(pairing.pairs, "kernel", "target", "seed") == [(3, 5, t, t, s, s) for t, s in product("HV", (0, 1))]
    assert [partner.result.cell.target for partner in pairing.alone[1]] == ["G", "G"]
    assert pairing.alone[0] == ()


def test_a_value_that_both_sides_have_must_agree_though_one_side_does_not_vary() -> None:
    pairing = pair_cells(side("a", *heads(kernel=[1, 3, 5])), side("b", *heads(kernel=[3], target=["H", "V"])))
    assert keys(pairing.pairs, "kernel", "target") == [(3, 3, "H", "H")]
    assert [partner.result.cell.kernel for partner in pairing.alone[0]] == [1, 5]


def test_a_cell_can_have_several_partners() -> None:
    pairing = pair_cells(side("a", *heads(kernel=[3])), side("b", *heads(kernel=[5, 7])))
    assert keys(pairing.pairs, "kernel") == [(3, 5), (3, 7)]


def test_every_seed_is_compared_with_the_one_ridge_head() -> None:
    pairing = pair_cells(side("a", *heads(seed=[0, 1, 2])), side("b", *heads(protocol=[RidgeProtocol()], seed=[0])))
    assert keys(pairing.pairs, "seed") == [(0, 0), (1, 0), (2, 0)]
    again = pair_cells(
        side("a", *heads(protocol=[RidgeProtocol()], seed=[0])), side("b", *heads(protocol=[RidgeProtocol()], seed=[7]))
    )
    assert len(again.pairs) == 1


def test_settings_of_a_protocol_are_fields_like_any_other() -> None:
    rates = [GradientProtocol(learning_rate=rate) for rate in (0.1, 0.01)]
    pairing = pair_cells(
        side("a", *heads(kernel=[3], protocol=[*rates, RidgeProtocol()])), side("b", *heads(kernel=[5], protocol=rates))
    )
    assert [[vars(partner.result.cell.protocol)["learning_rate"] for partner in pair] for pair in pairing.pairs] == [
        [0.1] * 2,
        [0.01] * 2,
    ]
    assert [partner.result.cell.protocol.name for partner in pairing.alone[0]] == ["ridge"]
    listing = list_comparisons(compare_pairs(pairing.pairs, NATURAL)[0])
    assert (listing.head[0], [row[0] for row in listing.rows]) == ("learning_rate", ["0.1", "0.01"])
    assert [record["learning_rate"] for record in listing.records] == [0.1, 0.01]
    assert "epochs" not in listing.records[0]


def test_settings_that_only_one_protocol_has_are_no_columns() -> None:
    both: list[Protocol] = [GradientProtocol(), RidgeProtocol()]
    pairs = pair_cells(side("a", *heads(kernel=[3], protocol=both)), side("b", *heads(kernel=[5], protocol=both))).pairs
    assert list_comparisons(compare_pairs(pairs, NATURAL)[0]).head[:2] == ["protocol", "test"]


def test_no_partner_says_in_which_field() -> None:
    with pytest.raises(UsageError, match="kernel is 1, 3 on one side, 5, 7 on the other; choose one by --where"):
        pair_cells(side("a", *heads(kernel=[1, 3])), side("b", *heads(kernel=[5, 7])))


def test_no_partner_though_every_field_has_common_values() -> None:
    crossed = [*heads(kernel=[3], target=["H"]), *heads(kernel=[5], target=["V"])]
    other = [*heads(kernel=[3], target=["V"]), *heads(kernel=[5], target=["H"])]
    with pytest.raises(UsageError, match=r"no cell has a partner that agrees in .*target, kernel"):
        pair_cells(side("a", *crossed), side("b", *other))


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (cell(constant(0.5, images=5), kernel=5), "natural: other images (4 on one side, 5 on the other"),
        (cell(constant(0.5), contents={"images": "other photographs of this name"}), "natural: other images (4 on one side, 4"),
        (cell(constant(0.5), images="duts-tr"), "natural: other images"),
        (cell(constant(0.5), held_out=30), "natural: other images"),
        (cell(constant(0.5, test="black"), kernel=5), "natural: not on both sides"),
    ],
)
def test_other_images_are_never_compared(other: Partner, reason: str) -> None:
    good = cell(constant(0.75), seed=1)
    comparisons, refused = compare_pairs([(cell(constant(0.5)), other), (cell(constant(0.5)), good)], NATURAL)
    assert [comparison.spc.mean for comparison in comparisons] == [0.25]
    ((text, count),) = refused.items()
    assert (reason in text, count) == (True, 1)
    with pytest.raises(UsageError, match="no pair has a test column with the same images"):
        compare_pairs([(cell(constant(0.5)), other)], NATURAL)


def test_a_set_of_its_own_is_the_same_whatever_was_trained_on() -> None:
    both = [cell(constant(spc, test="photos"), images=images) for spc, images in ((0.5, "duts-te"), (0.75, "duts-tr"))]
    (comparison,), refused = compare_pairs([(both[0], both[1])], {"photos": "photos"})
    assert (comparison.spc.mean, refused) == (0.25, {})


def test_the_contrast_names_every_setting_that_differs() -> None:
    first, other = cell(constant(0.5)), cell(constant(0.5), kernel=5, value_range=(0.0, 255.0), normalise=True)
    comparisons, _ = compare_pairs([(first, other)], NATURAL)
    assert describe_sides(comparisons) == (
        "kernel 3, value_range [0.0, 1.0], normalise False",
        "kernel 5, value_range [0.0, 255.0], normalise True",
    )
    longer = cell(constant(0.5, test="black"), protocol=GradientProtocol(epochs=30), train_rows=80)
    comparisons, _ = compare_pairs([(cell(constant(0.5, test="black")), longer)], {"black": "black"})
    assert describe_sides(comparisons) == ("train_rows 40, epochs 15", "train_rows 80, epochs 30")
    comparisons, _ = compare_pairs([(first, cell(constant(0.5), protocol=RidgeProtocol()))], NATURAL)
    assert describe_sides(comparisons) == ("protocol report-2020", "protocol ridge")


def test_a_field_in_which_partners_differ_is_shown_of_both() -> None:
    pairs = pair_cells(side("a", *heads(kernel=[3])), side("b", *heads(kernel=[5, 7]))).pairs
    listing = list_comparisons(compare_pairs(pairs, NATURAL)[0])
    assert listing.head[0] == "kernel"
    assert [row[0] for row in listing.rows] == ["3 → 5", "3 → 7"]
    assert [(record["first_kernel"], record["second_kernel"]) for record in listing.records] == [(3, 5), (3, 7)]
    assert "kernel" not in listing.records[0]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real sweep: report with two seeds and ridge, on held-out photographs and the probes."""
    root = tmp_path_factory.mktemp("compare")
    reader = store_with_probes(root / "stores", root / "photos", 20)
    spec = SweepSpec(
        "compare",
        train=(reader.spec.images,),
        targets=("H", "V"),
        kernels=(1, 3),
        protocols=("report-2020", "ridge"),
        seeds=(0, 1),
    )
    plan = plan_sweep(spec, list_stores(root / "stores")[0], root)
    assert not run_sweep(spec, plan, root / "run", scheduler="inline").failures
    return root / "run"


def compare_json(*words: str | Path) -> list[dict[str, Any]]:
    result = cli("compare", *words, "--json")
    assert result.exit_code == 0, result.output
    records: list[dict[str, Any]] = json.loads(result.stdout)
    return records


def test_a_real_run_against_its_own_files(run: Path) -> None:
    records = compare_json(run, "--between", "protocol=report-2020,ridge")
    assert len(records) == 2 * 2 * 4  # targets, kernels; natural and three probes; the seeds of report are pooled
    files, by_id = RunFiles(run), {record.id: record for record in load_run(run)[1]}
    for row in records:
        test = "held-out" if row["test"] == "natural" else row["test"]
        first, second = (row[side].split() for side in ("first", "second"))
        assert (len(first), len(second)) == (2, 1)
        before, after = (
            np.stack([read_scores(files.scores(cell_id))[f"mae/{test}"] for cell_id in ids]) for ids in (first, second)
        )
        change = (after - before).mean(axis=0)
        assert row["mae"] == pytest.approx(change.mean(), abs=EXACT)
        assert row["mae_better"] == (change < -1e-6).sum()
        assert row["mae_images"] == (4 if test == "held-out" else 1)
        assert row["spc_images"] + row["undefined"] == row["mae_images"]
        assert [by_id[ids[0]].cell.protocol.name for ids in (first, second)] == ["report-2020", "ridge"]
        for field in ("target", "kernel"):
            assert vars(by_id[first[0]].cell)[field] == vars(by_id[second[0]].cell)[field] == row[field]


def test_seeds_are_pooled_and_widen_the_interval(tmp_path: Path) -> None:
    images = np.linspace(-0.1, 0.1, 12)
    first = write(tmp_path / "first", [cell({"held-out": (images, images)}, seed=seed) for seed in range(3)])
    later = [cell({"held-out": (images + 0.3 + 0.1 * seed, images)}, kernel=5, seed=seed) for seed in range(3)]
    (row,) = compare_json(first, write(tmp_path / "second", later))
    assert row["spc"] == pytest.approx(0.4)
    assert len(row["first"].split()) == len(row["second"].split()) == 3
    half = scipy.stats.t.ppf(0.975, 2) * 0.1 / np.sqrt(3)  # images agree, seeds do not
    assert (row["spc_low"], row["spc_high"]) == pytest.approx((0.4 - half, 0.4 + half))


def test_the_comparison_ends_with_a_summary(tmp_path: Path) -> None:
    tops = {"H": 0.5, "V": -0.5, "G": 0.0}
    noise = np.array([-0.1, 0.1, -0.1, 0.1])
    sides = [
        write(tmp_path / str(kernel), [
            cell({"held-out": (noise * (kernel == 5) + change * (kernel == 5), noise)}, target=target, kernel=kernel)
            for target, change in tops.items()
        ]) for kernel in (3, 5)
    ]  # fmt: skip
    last = cli("compare", *sides).stdout.splitlines()[-1]
    assert last.startswith("natural, mean of 3: SPC .000, MAE .000; SPC is higher in 1, lower in 1, undecided in 1")


def test_two_folders_of_one_name_are_refused(tmp_path: Path) -> None:
    sides = [
        write(tmp_path / content, [cell(constant(0.5), images="images", contents={"images": content})]) for content in "ab"
    ]
    result = cli("compare", *sides)
    assert result.exit_code == 2 and "other images" in result.stderr


def test_the_other_way_round_is_the_negative(run: Path) -> None:
    there, back = (compare_json(run, "--between", f"kernel={values}", "--test", "natural") for values in ("1,3", "3,1"))
    for forwards, other in zip(there, back, strict=True):
        assert (forwards["spc"], forwards["spc_low"]) == pytest.approx((-other["spc"], -other["spc_high"]), abs=EXACT)
        assert forwards["spc_low"] <= forwards["spc"] <= forwards["spc_high"]


def test_a_run_does_not_differ_from_itself(run: Path) -> None:
    records = compare_json(run, run, "--where", "protocol=ridge")
    assert {record["first"] == record["second"] for record in records} == {True}
    assert {record["mae"] for record in records} == {0.0}
    assert {record["spc"] for record in records} <= {0.0, None}
    assert sum(record["spc_better"] + record["mae_better"] for record in records) == 0


def test_options_choose_cells_and_columns(run: Path) -> None:
    words = (run, "--between", "kernel=1,3", "--where", "target=H", "--where", "protocol=ridge", "--test", "white")
    (record,) = compare_json(*words)
    assert (record["target"], record["protocol"], record["test"]) == ("H", "ridge", "white")
    markdown = cli("compare", *words, "--format", "markdown").stdout
    assert markdown.startswith("| test | SPC difference | better |")
    (row,) = csv.DictReader(io.StringIO(cli("compare", *words, "--format", "csv").stdout))
    assert (float(row["mae"]), row["mae_low"], row["first_kernel"]) == (record["mae"], "", "1")


def test_the_terminal_says_which_minus_which_and_aligns(tmp_path: Path) -> None:
    worse = {"held-out": ([0.5, NAN, 0.5], [0.25] * 3), "black": ([NAN], [0.25])}
    better = {"held-out": ([0.75, 0.5, 0.75], [0.125] * 3), "black": ([NAN], [1.5])}
    first = write(tmp_path / "first", [cell(worse, seed=seed) for seed in (0, 1)])
    second = write(tmp_path / "second", [cell(better, seed=seed, kernel=5) for seed in (0, 1)])
    result = cli("compare", first, second)
    assert result.exit_code == 0
    assert result.stderr == ""
    lines = result.stdout.splitlines()
    assert lines[0] == f"{second} (kernel 5) minus {first} (kernel 3)"  # however long: a pipe has no width
    rows = [re.split(r" {2,}", line.strip()) for line in lines[3:5]]
    assert rows == [
        ["natural", "+.250 [.250, .250]", "2 of 2", "1", "-.125 [-.125, -.125]", "3 of 3"],
        ["black", "undef.", "1", "+1.250", "0 of 1"],
    ]
    assert lines[3].index(".125 [") == lines[4].index(".250") + 0  # points below each other


def test_no_cell_is_dropped_silently(tmp_path: Path) -> None:
    first = write(tmp_path / "first", heads(kernel=[3], target=["H", "V"], seed=[0, 1]), unfinished=["f" * 16])
    cells = heads(kernel=[5], target=["H", "G"])
    odd = cell(constant(0.5, images=9), kernel=5, seed=1)
    second = write(tmp_path / "second", [*cells, odd])
    gone = heads(kernel=[3], target=["H"])[0].result.id
    third = write(tmp_path / "third", heads(kernel=[3], target=["H", "V"]))
    RunFiles(third).scores(gone).unlink()
    result = cli("compare", first, second, "--json")
    assert len(json.loads(result.stdout)) == 1
    lines = result.stderr.splitlines()
    assert lines[0] == f"{first}: 1 cells are not finished: {'f' * 16}"
    assert lines[1] == f"{first}: 2 of 4 cells have no partner:"
    assert [line.split(": ")[1] for line in lines[2:4]] == ["target V, seed 0", "target V, seed 1"]
    assert lines[4] == f"{second}: 1 of 3 cells have no partner:"
    assert lines[5] == f"  {cells[1].result.id}: target G, seed 0"
    assert "1 of 2 pairs are not compared on natural: other images (4 on one side, 9 on the other" in lines[6]
    assert f"{third}: 1 cells are not finished: {gone}" in cli("compare", third, third).stderr


def test_what_one_run_lacks_is_said_once(tmp_path: Path) -> None:
    run = write(tmp_path / "run", heads(kernel=[3, 5]), unfinished=["f" * 16])
    assert cli("compare", run, "--between", "kernel=3,5").stderr.count("not finished") == 1


@pytest.mark.parametrize("harm", ["cut", "other"])
def test_damaged_cells_are_named_and_left_out(tmp_path: Path, harm: str) -> None:
    cells = [cell(constant(spc), kernel=kernel) for spc, kernel in ((0.5, 3), (0.7, 5))]
    run = write(tmp_path / "run", cells)
    path = RunFiles(run).scores(cells[0].result.id)
    if harm == "cut":
        path.write_bytes(path.read_bytes()[:-3])
    else:
        path.write_bytes(RunFiles(run).scores(cells[1].result.id).read_bytes())
    result = cli("compare", run, run, "--json")
    assert result.exit_code == 0
    assert result.stderr.startswith(f"damaged: {path} ")
    assert "rerun the sweep" in result.stderr
    assert len(json.loads(result.stdout)) == 1
    assert ".500" not in result.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["RUN"],
            "two runs, or one run and --between FIELD=A,B, such as protocol=report-2020,ridge; there are 1 and no --between",
        ),
        (["RUN", "RUN", "RUN"], "there are 3"),
        (["RUN", "RUN", "--between", "kernel=1,3"], "there are 2 and --between kernel=1,3"),
        (["RUN", "--between", "kernel"], "--between 'kernel' is not accepted; give FIELD=VALUE"),
        (["RUN", "--between", "kernel=3"], "give two values"),
        (["RUN", "--between", "kernel=3,3"], "give two values"),
        (["RUN", "--between", "kernel=1,3,5"], "give two values"),
        (["RUN", "--between", "kernel=1,5"], "unknown kernel '5'; accepted: 1, 3"),
        (["RUN", "--between", "protocl=report,ridge"], "unknown field 'protocl' (did you mean 'protocol'?)"),
        (["RUN", "RUN", "--test", "photo"], "unknown test column 'photo'; accepted: natural, black, white, noise"),
        (["RUN", "RUN", "--where", "target=H2"], "unknown target 'H2' (did you mean 'H'?); accepted: H, V"),
        (["RUN", "nothing"], "nothing is not a run"),
        ([], "Missing argument"),
    ],
)
def test_a_wrong_word_is_named_with_what_is_accepted(run: Path, words: list[str], message: str) -> None:
    result = cli("compare", *(run if word == "RUN" else word for word in words))
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.output
