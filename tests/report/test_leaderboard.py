"""Networks in order: which heads count, how architectures are sorted, intervals, commands, and what 80 columns show."""

import csv
import io
import json
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from posenet_store.errors import UsageError
from posenet_store.heads.protocols import RidgeProtocol
from posenet_store.report.figures.curves import AXES, draw_axis
from posenet_store.report.leaderboard import RankedNetwork, rank_networks
from posenet_store.report.pairs import Partner
from posenet_store.report.run import open_run
from posenet_store.report.scores import EMPTY
from posenet_store.sweep.results import RunFiles, read_run, write_run
from tests.support.runs import cell, cli, constant, write
from tests.support.terminal import show_in_terminal

BUILD = "/usr/bin/posenet-store build-store --backbone vgg16 --images 'my photos'"
RIDGE = RidgeProtocol()


def heads(network: str, spc: dict[tuple[str, str], float]) -> list[Partner]:
    """Return exact heads of a network by (target, stage), with scores that vary from image to image."""
    draw = np.random.default_rng(len(network))
    return [
        cell(
            {"held-out": (value + draw.normal(0, 0.02, 5), [0.2] * 5)},
            network, target=target, input="full" if stage == "all" else f"full:{stage}", kernel=1, protocol=RIDGE,
        )
        for (target, stage), value in spc.items()
    ]  # fmt: skip


def board_of(cells: Iterable[Partner], order: str | None = None) -> list[RankedNetwork]:
    results = [partner.result for partner in cells]
    return rank_networks(results, EMPTY, lambda result: ("", ""), order).networks


def both(value: float, stages: Sequence[str] = ("f1", "f2", "all")) -> dict[tuple[str, str], float]:
    """Return scores of H and V that rise to `value` at the last single stage."""
    return {(target, stage): value - 0.1 * (stage == "f1") for target, stage in product("HV", stages)}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two architectures, trained and untrained, the pixels, and heads of another kind; the run knows how stores were built."""
    cells = [
        *heads("resnet18-random0", both(0.99)), *heads("vgg16-random0", both(0.9)), *heads("pixels", both(0.1)),
        *heads("resnet18-imagenet", both(0.7)), *heads("vgg16-hed", both(0.75) | {("H", "f2"): float("nan")}),
        cell(constant(0.4), "vgg16-hed", protocol=RIDGE),
    ]  # fmt: skip
    root = write(tmp_path_factory.mktemp("leaderboard") / "run", cells)
    files = RunFiles(root)
    record = read_run(files)
    names = tuple(dict.fromkeys(f"net-{partner.result.cell.store[:8]}" for partner in cells))
    write_run(files, replace(record, stores=names, provenance=record.provenance | {"builds": dict.fromkeys(names, BUILD)}))
    return root


def test_untrained_networks_stand_below_the_trained_ones_of_their_architecture(run: Path) -> None:
    networks = ["resnet18-imagenet", "resnet18-random0", "vgg16-hed", "vgg16-random0", "pixels"]
    records = open_run(run).leaderboard().records
    assert list(dict.fromkeys(record["network"] for record in records)) == networks  # H of vgg16-hed is undefined at f2
    best = {record["network"]: (record["best_spc"], record["best_stage"]) for record in records}
    assert best["resnet18-imagenet"] == (pytest.approx(0.7, abs=0.05), "f2")
    assert best["vgg16-hed"] == (pytest.approx(0.65, abs=0.05), "f1")
    assert {record["architecture"] for record in records} == {"resnet18", "vgg16", "pixels"}


def test_tags_of_weights_are_no_architectures() -> None:
    cells = [partner for name in ("timm:vit_t.dino-pretrained", "timm:vit_t.mae-random0") for partner in heads(name, both(0.5))]
    assert len({network.architecture for network in board_of(cells)}) == 1


@pytest.mark.parametrize(("order", "first"), [(None, "a-hed"), ("V", "b-hed"), ("H@f1", "c-hed"), ("H+V@all", "b-hed")])
def test_the_order_is_the_users(order: str | None, first: str) -> None:
    scores = {
        "a-hed": {("H", "f1"): 0.2, ("H", "f2"): 0.9, ("V", "f1"): 0.2, ("V", "f2"): 0.5, ("H", "all"): 0.1, ("V", "all"): 0.1},
        "b-hed": {("H", "f1"): 0.1, ("H", "f2"): 0.1, ("V", "f1"): 0.1, ("V", "f2"): 0.8, ("H", "all"): 0.9, ("V", "all"): 0.9},
        "c-hed": {("H", "f1"): 0.4, ("H", "f2"): 0.1, ("V", "f1"): 0.1, ("V", "f2"): 0.1, ("H", "all"): 0.2, ("V", "all"): 0.2},
    }
    cells = [partner for name, spc in scores.items() for partner in heads(name, spc)]
    assert board_of(cells, order)[0].labels.network == first


@pytest.mark.parametrize("order", ["HH", "H@f9", "H+", "", "@f1"])
def test_an_order_that_is_none_is_told(run: Path, order: str) -> None:
    result = cli("leaderboard", run, "--sort", order)
    assert (result.exit_code, result.stdout) == (2, "")


def test_heads_on_some_stages_are_no_leaderboard(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="sweep networks"):
        board_of([cell(constant(0.5), input="aligned:f1+f2")])
    assert cli("leaderboard", write(tmp_path / "run", [cell(constant(0.5), input="aligned:f1+f2")])).exit_code == 2


def test_each_number_has_its_interval_and_commands(run: Path) -> None:
    records = list(csv.DictReader(io.StringIO(cli("leaderboard", run, "--format", "csv").stdout)))
    assert len(records) == 5 * 6
    archive = open_run(run)
    for record in records:
        (result,) = [
            each for each in archive.where(f"network={record['network']}", f"target={record['target']}", "kernel=1").results
            if (each.cell.input.partition(":")[2] or "all") == record["stage"]
        ]  # fmt: skip
        scores = archive.archive.array(result.id, "spc/held-out")
        assert scores is not None
        if np.isnan(scores).any():
            assert (record["spc"], record["spc_low"], record["undefined"]) == ("", "", "5")
        else:  # Student's t by SciPy; the texts have all digits of a double
            low, high = stats.t.interval(0.95, len(scores) - 1, scores.mean(), stats.sem(scores))
            numbers = [float(record[name]) for name in ("spc", "spc_low", "spc_high")]
            assert numbers == pytest.approx([scores.mean(), low, min(high, 1)], rel=1e-9)
        assert record["build"] == "posenet-store build-store --backbone vgg16 --images 'my photos'"
        assert record["sweep"] == "python cli.py sweep by_hand.toml --stores 'my stores'"


def test_a_run_without_a_record_of_builds_and_an_odd_command_that_is_no_command_line_are_shown(tmp_path: Path) -> None:
    run = write(tmp_path / "run", [*heads("vgg16-hed", both(0.5))])
    assert {record["build"] for record in json.loads(cli("leaderboard", run, "--json").stdout)} == {""}
    files = RunFiles(run)
    record = read_run(files)
    name = "net-vgg16-he"  # ends with the first digits of the store
    odd = record.provenance | {"builds": {name: "study 'of \x1b[31m"}}
    write_run(files, replace(record, stores=(name,), provenance=odd))
    assert {record["build"] for record in json.loads(cli("leaderboard", run, "--json").stdout)} == {
        shlex.quote("study 'of \x1b[31m")
    }


def test_heads_of_another_kind_are_counted_and_can_be_chosen(run: Path) -> None:
    text = cli("leaderboard", run).stdout
    assert "held-out images of duts-te; 30 heads with input full, kernel 1; left out: 1 with input aligned, kernel 3" in text
    chosen = json.loads(cli("leaderboard", run, "--where", "kernel=3", "--json").stdout)
    assert [(record["network"], record["stage"]) for record in chosen] == [("vgg16-hed", "all")]
    assert len(json.loads(cli("leaderboard", run, "--top", "1", "--json").stdout)) == 2 * 6


def test_names_stand_above_their_numbers_at_80_columns(tmp_path: Path) -> None:
    stages = ("f1", "f2", "f3", "f4", "f5", "all")
    names = [f"tf_efficientnet_lite{number}-{kind}" for number in range(2) for kind in ("lite0", "random0")]
    run = write(tmp_path / "run", [partner for name in names for partner in heads(name, both(0.5, stages))])
    lines = show_in_terminal(80, "leaderboard", run).splitlines()
    rows = [number for number, line in enumerate(lines) if line.startswith(("H ", "V ")) and "tf_efficientnet" in line]
    assert len(rows) == 2 * len(names)
    assert all(lines[number + 1].count("±") == len(stages) and lines[number + 1].startswith("  ") for number in rows)
    assert max(map(len, lines)) <= 80


def test_stages_are_in_the_order_of_their_numbers() -> None:
    stages = [f"f{number}" for number in range(1, 13)]
    cells = heads("timm:vit_t.mae", dict.fromkeys((("H", stage) for stage in ("all", *stages)), 0.5))
    results = [partner.result for partner in cells]
    assert rank_networks(results, EMPTY, lambda result: ("", "")).stages == (*stages, "all")
    picture = draw_axis(results, EMPTY, AXES[0])
    assert picture is not None
    assert [row[1].rpartition(" ")[2] for row in picture.rows] == [*stages, "all"]
