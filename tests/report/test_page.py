"""The page: self-contained, escaped, with every answer, table and figure the records allow."""

import base64
import hashlib
import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from itertools import product
from pathlib import Path

import pytest

from posenet_store.cli import main
from posenet_store.errors import UsageError
from posenet_store.images.sources import load_image_set
from posenet_store.report.html.page import write_page
from posenet_store.report.text_table import format_interval
from posenet_store.store.catalogue import list_stores
from posenet_store.sweep.plan import plan_sweep
from posenet_store.sweep.results import RunFiles, load_run
from posenet_store.sweep.run import run_sweep
from posenet_store.sweep.spec import SweepSpec
from tests.support.runs import cli, predicted, write
from tests.support.small import built_store, tiny_backbone, write_images

HOSTILE = '<script>alert("x")</script>&'


class Tags(HTMLParser):
    """Counts tags and collects text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("href", "src") and tag != "use"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Path]]:
    """Two runs on a store whose image set has a hostile name."""
    root = tmp_path_factory.mktemp("page")
    backbone = tiny_backbone(name="vgg16")
    images = load_image_set(str(write_images(root / "photos", 12)))
    built_store(root / "stores", load_image_set("probes"), backbone)
    built_store(root / "stores", replace(images, name="evil <b>"), backbone)
    spec = SweepSpec(title=HOSTILE, train=("evil*", "evil <b>"), protocols=("report-2020", "ridge"), seeds=(0, 1))
    infos = list_stores(root / "stores")[0]
    made = []
    for name, sweep in (("table2", spec), ("kernels", replace(spec, kernels=(1, 3), paddings=(0, 1), protocols=("ridge",)))):
        run_sweep(sweep, plan_sweep(sweep, infos, root), root / name, scheduler="inline")
        made.append(root / name)
    yield made


@pytest.fixture(scope="module")
def html(runs: list[Path]) -> str:
    return write_page(runs, runs[0] / "report.html").read_text(encoding="utf-8")


def test_it_has_the_table_three_figures_and_provenance(html: str) -> None:
    for text in ("Table 2.", "Effect of the kernel size", "How it was made", "published: report", "torch ", "best constant"):
        assert text in html
    names = re.findall(r'<section id="([^"]+)"', html)
    assert names == [
        "summary", "table", "table2", "kernels", "paddings", "errors", "border", "maps", "cells", "published", "made",
    ]  # fmt: skip
    assert html.count("<svg") == len(re.findall("<figure>", html)) == 6
    assert html.count('<figure class="strip"') == 1


def test_the_summary_comes_first_and_answers(html: str) -> None:
    summary = html[html.index('<section id="summary"') : html.index('<section id="table"')]
    assert "<strong>vgg16-random0 (untrained)</strong>: " in summary
    assert html.index('<p class="lead">vgg16-random0 (untrained): ') < html.index("<main>")
    assert re.search(r"SPC of H from kernel size 1 to 3: .*\[.*\] to ", summary)


def test_table_2_has_intervals_p_and_what_never_learnt(html: str, runs: list[Path]) -> None:
    table = html[html.index('<section id="table"') : html.index('<section id="table2"')]
    folded, _, everything = table.partition('<template id="all-rows">')
    assert len(re.findall(r'<tr class="ours', folded)) == 5  # targets of one protocol
    rows = re.findall(r'<tr class="ours.*?</tr>', everything, re.DOTALL)
    assert len(rows) == 5 * 2  # targets, protocols; seeds pooled
    assert all("vgg16-random0 (untrained)" in row and "p " in row for row in rows)
    (first,) = [row for row in json.loads(cli("table", runs[0], "--json").stdout) if row["numbers"] == "ours: ridge"
                and (row["target"], row["test"]) == ("H", "natural")]  # fmt: skip
    assert format_interval((first["spc_low"], first["spc_high"])) in table


def test_every_cell_has_its_numbers_and_command(html: str, runs: list[Path]) -> None:
    (text,) = re.findall(r'id="cells-data">(.*?)</script>', html)
    data = json.loads(text)
    records = {record.id: record for run in runs for record in load_run(run)[1]}
    assert {cell[0] for cell in data["cells"]} == set(records)
    assert data["tests"] == ["natural", "black", "white", "noise"]
    for identity, values, entries, command in data["cells"]:
        record = records[identity]
        assert dict(zip(data["fields"], values, strict=True))["target"] == record.cell.target
        assert entries[0][0] == pytest.approx(record.scores["held-out"].spc, rel=1e-3)
        assert entries[0][1] <= entries[0][0] <= entries[0][2]
        assert 1e-4 <= entries[0][6] <= entries[0][7] <= 1
        words = shlex.split(identity.join(data["commands"][command]))
        assert words[words.index("--head") + 1] in {str(RunFiles(run).head(identity)) for run in runs}
        assert words[words.index("--store") + 1].endswith(record.cell.store[:8])
        command_line = main.commands["evaluate"]
        command_line.make_context("evaluate", words[words.index("evaluate") + 1 :])  # its words are accepted


def test_it_needs_no_network_and_links_to_the_numbers(html: str, runs: list[Path]) -> None:
    parser = Tags()
    parser.feed(html)
    links = [link for link in parser.links if not link.startswith(("#", "data:image/png;base64,"))]
    assert list(dict.fromkeys(links)) == ["results.csv", "../kernels/results.csv"]
    for link in links:
        assert (runs[0] / link).is_file()
    assert parser.tags.count("script") == 2  # the data and its table
    assert not {"link", "iframe", "object"} & set(parser.tags)
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]+)"', html)
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in unescape(policy)
    assert "default-src 'none'" in unescape(policy)


def test_hostile_names_are_text(html: str) -> None:
    assert HOSTILE not in html
    assert "&lt;script&gt;" in html
    assert "evil <b>" not in html
    assert "evil &lt;b&gt;" in html


def test_figures_say_in_words_what_they_show_with_the_numbers_behind(html: str) -> None:
    words = re.findall(r'<desc id="(\w+)-desc">([^<]+)</desc>', html)
    assert [name for name, _ in words] == ["table2", "kernels", "paddings", "errors", "border", "maps"]
    assert re.search(r"SPC .* at kernel size 1, 3", dict(words)["kernels"])
    kernels = html[html.index('<section id="kernels"') : html.index('<section id="paddings"')]
    assert kernels.count("<tr>") == 1 + 5 * 2  # a heading; targets and sizes; published numbers are of trained networks


def test_one_run_alone_gives_the_figures_it_can(runs: list[Path], tmp_path: Path) -> None:
    html = write_page(runs[:1], tmp_path / "one.html").read_text()
    assert '<section id="maps"' in html
    assert '<section id="kernels"' not in html


def test_many_rows_of_table_2_are_cut_and_said(tmp_path: Path) -> None:
    cells = [predicted(target=target, network=f"net{number}", kernel=5) for number, target in product(range(230), ("H", "V"))]
    html = write_page([write(tmp_path / "run", cells)], tmp_path / "page.html").read_text()
    assert "The first 400 of 462 rows; the table of cells has all." in html
    assert html.count('<tr class="ours') == 399 - 1
    assert len(json.loads(re.findall(r'id="cells-data">(.*?)</script>', html)[0])["cells"]) == 460
    assert len(html) < 3e6


@pytest.mark.parametrize("count", [2, 40])
def test_networks_are_compared_stage_by_stage(tmp_path: Path, count: int) -> None:
    names = [f"<i>{number}-{kind}" for number in range(count // 2) for kind in ("hed", "random0")]
    cells = [
        predicted(network=name, target=target, input=f"full:{stage}", kernel=1)
        for name, target, stage in product(names, ("H", "V"), ("f1", "f2"))
    ]
    html = write_page([write(tmp_path / "run", cells)], tmp_path / "page.html").read_text()
    (section,) = re.findall('<section id="networks".*?<h2 id="(?:stages|table2)-h"', html, re.DOTALL)
    assert section.count('<tr class="ours first">') == 2 * count // 2  # a target and architecture
    assert section.count("<details open>") == 1
    assert "<i>" not in html
    rows = re.findall(r'<tr class="[^"]*"><th scope="row">(.*?)</th>', section)
    assert ["untrained" in row for row in rows] == [False, True] * count
    records = json.loads(cli("leaderboard", tmp_path / "run", "--json").stdout)
    assert all(format_interval((record["spc_low"], record["spc_high"])) in section for record in records)
    assert section.count("python cli.py sweep by_hand.toml") == 2 * count  # as text, and to copy


def test_the_page_is_the_same_every_time(runs: list[Path], tmp_path: Path, html: str) -> None:
    assert write_page(runs, runs[0] / "again.html").read_text() == html


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a run"):
        write_page([tmp_path], tmp_path / "x.html")
