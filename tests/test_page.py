"""The page: self-contained, escaped, with every figure the records allow."""

import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from posenet_store.catalogue import stores
from posenet_store.errors import UsageError
from posenet_store.planning import plan_sweep
from posenet_store.report.page import write_page
from posenet_store.sources import image_set
from posenet_store.sweep import run_sweep
from posenet_store.sweep_spec import SweepSpec
from support import built_store, tiny_backbone, write_images

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
    images = image_set(str(write_images(root / "photos", 12)))
    built_store(root / "stores", image_set("probes"), backbone)
    built_store(root / "stores", replace(images, name="evil <b>"), backbone)
    spec = SweepSpec(title=HOSTILE, train=("evil*", "evil <b>"), protocols=("report-2020", "ridge"), seeds=(0, 1))
    found = stores(root / "stores")[0]
    made = []
    for name, one in (("table2", spec), ("kernels", replace(spec, kernels=(1, 3), paddings=(0, 1), protocols=("ridge",)))):
        run_sweep(one, plan_sweep(one, found, root), root / name, scheduler="inline")
        made.append(root / name)
    yield made


@pytest.fixture(scope="module")
def html(runs: list[Path]) -> str:
    return write_page(runs, runs[0] / "report.html").read_text(encoding="utf-8")


def test_it_has_the_table_three_figures_and_provenance(html: str) -> None:
    for text in ("Table 2.", "Figure 3.", "Figure 4.", "Figure 5.", "How it was made", "published: report", "torch "):
        assert text in html
    assert html.count("<svg") == 3


def test_it_needs_no_network_and_links_to_the_numbers(html: str, runs: list[Path]) -> None:
    parser = Tags()
    parser.feed(html)
    links = [link for link in parser.links if not link.startswith("#")]
    assert links == ["results.csv", "../kernels/results.csv"]
    for link in links:
        assert (runs[0] / link).is_file()
    assert "script" not in parser.tags
    assert "link" not in parser.tags


def test_hostile_names_are_text(html: str) -> None:
    assert HOSTILE not in html
    assert "&lt;script&gt;" in html
    assert "evil <b>" not in html
    assert "evil &lt;b&gt;" in html


def test_figures_say_in_words_what_they_show(html: str) -> None:
    words = re.findall(r'role="img" aria-label="([^"]+)"', html)
    assert len(words) == 3
    assert re.search(r"SPC .* at kernel size 1, 3", words[1])


def test_one_run_alone_gives_the_figures_it_can(runs: list[Path], tmp_path: Path) -> None:
    html = write_page(runs[:1], tmp_path / "one.html").read_text()
    assert "Figure 3." in html
    assert "Figure 4." not in html


def test_the_page_is_the_same_every_time(runs: list[Path], tmp_path: Path, html: str) -> None:
    assert write_page(runs, runs[0] / "again.html").read_text() == html


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a run"):
        write_page([tmp_path], tmp_path / "x.html")
