"""The page in a real browser, Debian's Chromium without a screen: clicks, keys, themes, paper, and hostile names."""

import csv
import json
import re
from collections.abc import Iterator
from itertools import pairwise, product
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from PIL import Image

from posenet_store.heads.protocols import RidgeProtocol
from posenet_store.report.html.page import write_page
from tests.support.processes import program
from tests.support.runs import predicted, write

sync_api = pytest.importorskip(
    "playwright.sync_api", reason="pip install playwright (in the dev extra) to test the page's clicks"
)

HOSTILE = "<script>alert(1)</script>"
IMAGE = '"><img src=x onerror=alert(1)>'
CELLS = 600
ROW = "#cells-body tr"


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of 600 cells whose title, image set, network and folder are attacks."""
    root = tmp_path_factory.mktemp("browser")
    networks = ("pixels", f"vgg16-{HOSTILE}", "resnet18-random0")
    cells = [
        predicted(
            count=4,
            strength=seed / 100,
            network=network,
            target=target,
            seed=seed,
            kernel=kernel,
            protocol=RidgeProtocol(),
            images=IMAGE,
        )
        for network, target, kernel, seed in product(networks, ("H", "G"), (3, 5), range(50))
    ]
    run = write(root / "a 'b' <i>", cells, title=HOSTILE)
    (run / "results.csv").write_text("")
    return write_page([run], root / "report.html")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    path = program("chromium", ["chromium"])
    with sync_api.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield running
        running.close()


class Tab:
    """An open page and everything that it complained about or asked for."""

    def __init__(self, browser: Any, file: Path, **look: Any) -> None:
        self.context = browser.new_context(**({"viewport": {"width": 1200, "height": 900}} | look))
        self.context.grant_permissions(["clipboard-read", "clipboard-write"])
        self.page = self.context.new_page()
        self.trouble: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.trouble.append(message.text))
        self.page.on("pageerror", lambda error: self.trouble.append(str(error)))
        self.page.on("dialog", self._alarm)
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(file.as_uri())

    def _alarm(self, dialog: Any) -> None:
        self.trouble.append(f"dialog {dialog.message}")
        dialog.dismiss()

    def column(self, number: int) -> list[str]:
        """The texts of a column of the cell table, as shown."""
        return list(self.page.locator(f"{ROW} > :nth-child({number})").all_inner_texts())

    def place(self, name: str) -> int:
        """The number of the column with a heading, from 1."""
        return int(self.page.locator("#cells-head th").all_inner_texts().index(name)) + 1


@pytest.fixture
def tab(browser: Any, page_file: Path) -> Iterator[Tab]:
    """The page; whatever a test does, nothing may be complained about or asked of a network."""
    opened = Tab(browser, page_file)
    yield opened
    assert opened.trouble == []
    asked = [url for url in opened.requests if not url.startswith(("data:", "blob:"))]
    assert asked == [page_file.as_uri()]
    opened.context.close()


def spc(text: str) -> float:
    return float(text.split()[0])


def test_a_column_is_sorted_by_a_click_and_turned_by_another(tab: Tab) -> None:
    column = tab.place("SPC")
    heading = tab.page.locator("#cells-head th").nth(column - 1)
    assert heading.get_attribute("aria-sort") == "none"
    heading.locator("button").click()
    best = [spc(text) for text in tab.column(column)]
    assert heading.get_attribute("aria-sort") == "descending"
    assert best == sorted(best, reverse=True)
    assert len(best) == 10
    heading.locator("button").click()
    worst = [spc(text) for text in tab.column(column)]
    assert heading.get_attribute("aria-sort") == "ascending"
    assert worst == sorted(worst)
    assert max(worst) < max(best)
    tab.page.locator("#cells-head th").nth(tab.place("seed") - 1).locator("button").click()
    seeds = [int(text) for text in tab.column(tab.place("seed"))]
    assert seeds == sorted(seeds)  # as numbers: 10 after 9
    assert heading.get_attribute("aria-sort") == "none"


def test_search_filters_by_every_word_and_the_rest_comes_on_demand(tab: Tab) -> None:
    assert tab.page.locator("#cells-count").inner_text() == f"10 of {CELLS} cells shown, {CELLS} in all"
    tab.page.locator("#cells-more").click()
    assert len(tab.column(1)) == 110
    tab.page.locator("#cells-search").fill("resnet18 target=g kernel=5 seed=7")
    assert len(tab.column(1)) == 1
    assert tab.page.locator("#cells-count").inner_text() == f"1 of 1 cells shown, {CELLS} in all"
    tab.page.locator("#cells-search").fill("nothing like it")
    assert tab.column(1) == []
    tab.page.locator("#cells-search").fill("seed=4 kernel=3 target=h")
    assert set(tab.column(tab.place("seed"))) == {"4"}  # and not 40 to 49
    tab.page.locator("#cells-search").fill("nothing like it")
    assert not tab.page.locator("#cells-more").is_visible()


def test_a_command_is_copied_by_a_click(tab: Tab, page_file: Path) -> None:
    cell = tab.column(1)[0]
    button = tab.page.locator(f"{ROW} button").first
    button.click()
    copied = tab.page.evaluate("navigator.clipboard.readText()")
    folder = str(page_file.parent / "a 'b' <i>").replace("'", "'\"'\"'")
    assert copied == f"python cli.py evaluate --head '{folder}/heads/{cell}.safetensors' --store 'my stores/STORE'"
    assert button.inner_text() == "copied"
    tab.page.locator("#made button").click()
    assert tab.page.evaluate("navigator.clipboard.readText()") == "python cli.py sweep by_hand.toml --stores 'my stores'"


def test_everything_is_reached_by_the_keyboard(tab: Tab) -> None:
    tab.page.keyboard.press("Tab")
    assert tab.page.evaluate("document.activeElement.textContent") == "to the answer"
    button = tab.page.locator("#cells-head th button").nth(tab.place("SPC") - 1)
    button.focus()
    assert tab.page.evaluate("getComputedStyle(document.activeElement).cursor") == "pointer"
    tab.page.keyboard.press("Enter")
    assert tab.page.locator("#cells-head th").nth(tab.place("SPC") - 1).get_attribute("aria-sort") == "descending"
    summary = tab.page.locator("#table summary")
    summary.focus()
    tab.page.keyboard.press("Space")
    assert tab.page.locator("#table details").get_attribute("open") is not None
    assert tab.page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_it_is_a_document_that_a_screen_reader_can_walk(tab: Tab) -> None:
    levels = [int(tag[1]) for tag in tab.page.evaluate("[...document.querySelectorAll('h1,h2,h3')].map(h => h.tagName)")]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    for question in (
        "[...document.querySelectorAll('table')].filter(t => !t.caption && !t.closest('figure'))",
        "[...document.querySelectorAll('th')].filter(t => !t.scope)",
        "[...document.querySelectorAll('figure svg')].filter(n => n.role !== 'img' || !n.querySelector('title'))",
        "[...document.querySelectorAll('[id]')].filter(n => document.querySelectorAll(`[id=\"${n.id}\"]`).length > 1)",
        "[...document.querySelectorAll('[aria-labelledby]')].filter(n => !document.getElementById("
        "n.getAttribute('aria-labelledby')))",
        "[...document.querySelectorAll('input,select')].filter(n => !n.labels.length)",
    ):
        assert tab.page.evaluate(f"{question}.map(n => n.outerHTML.slice(0, 80))") == [], question
    assert {"header", "nav", "main"} <= set(tab.page.evaluate("[...document.querySelectorAll('*')].map(n => n.localName)"))


def test_hostile_names_are_shown_and_do_nothing(tab: Tab) -> None:
    assert tab.page.title() == HOSTILE
    assert tab.page.locator("h1").inner_text() == HOSTILE
    tab.page.locator("#cells-search").fill("vgg16")
    assert set(tab.column(tab.place("network"))) == {f"vgg16-{HOSTILE}"}
    assert f"All cells: images {IMAGE}, input aligned, padding 0, protocol ridge." in tab.page.locator("#cells").inner_text()
    assert tab.page.locator("img:not([src^='data:image/png']), script:not([id]):not(:last-of-type)").count() == 0
    assert tab.page.locator("[onerror]").count() == 0


def test_no_foreign_script_could_run(page_file: Path, browser: Any, tmp_path: Path) -> None:
    """Even if escaping failed: the policy allows the page's own script only, and nothing from elsewhere."""
    broken = tmp_path / "broken.html"
    html = page_file.read_text(encoding="utf-8")
    attack = '<script>document.title="owned"</script><img src="https://example.org/x.png" onerror="document.title=\'owned\'">'
    broken.write_text(html.replace("<main>", f"<main>{attack}"), encoding="utf-8")
    opened = Tab(browser, broken)
    assert opened.page.title() == HOSTILE
    assert len(opened.trouble) >= 2
    assert all("Content Security Policy" in text for text in opened.trouble)
    opened.context.close()


def test_a_phone_scrolls_down_only(browser: Any, page_file: Path) -> None:
    for width in (320, 390):
        opened = Tab(browser, page_file, viewport={"width": width, "height": 800}, has_touch=True)
        assert opened.page.evaluate("document.documentElement.scrollWidth") == width
        opened.page.locator("#cells-search").fill("seed=49")
        assert opened.page.locator("#cells-count").inner_text().startswith("10 of 12 cells")
        assert opened.trouble == []
        opened.context.close()


def luminance(colour: str) -> float:
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_readable_in_both_themes(browser: Any, page_file: Path, scheme: str) -> None:
    opened = Tab(browser, page_file, color_scheme=scheme)
    paper = luminance(opened.page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert (paper < 0.05) == (scheme == "dark")
    for selector in ("body", "a", "tr.ours .spc", ".warning", "figure svg text"):
        node = opened.page.locator(selector).first
        ink = luminance(node.evaluate("(n) => getComputedStyle(n)[n.localName === 'text' ? 'fill' : 'color']"))
        contrast = (max(ink, paper) + 0.05) / (min(ink, paper) + 0.05)
        assert contrast >= 4.5, (selector, contrast)  # WCAG 2, level AA
    opened.context.close()


def test_it_prints_with_the_table_and_figures_and_without_the_controls(tab: Tab, tmp_path: Path) -> None:
    tab.page.emulate_media(media="print", color_scheme="dark")
    assert luminance(tab.page.evaluate("getComputedStyle(document.body).backgroundColor")) == 1
    assert not tab.page.locator("nav").is_visible()
    assert not tab.page.locator("#cells-search").is_visible()
    assert tab.page.locator("#table table").is_visible()
    data = tab.page.pdf(path=tmp_path / "page.pdf", format="A4")
    assert data.startswith(b"%PDF") and len(re.findall(rb"/Type\s*/Page\b", data)) >= 2


def test_without_a_script_the_answers_and_table_2_are_there(browser: Any, page_file: Path) -> None:
    opened = Tab(browser, page_file, java_script_enabled=False)
    assert "SPC" in opened.page.locator(".lead").inner_text()
    assert opened.page.locator(".strip img").count() == 2 * 4  # two targets, and what three networks predict
    assert opened.page.locator("#table tbody tr").count() > 6
    assert opened.page.locator("#cells noscript a").is_visible()
    assert not opened.page.locator("#cells-tools").is_visible()
    opened.context.close()


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_axe_finds_no_violation(browser: Any, page_file: Path, width: int, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="in the dev extra")
    opened = Tab(browser, page_file, viewport={"width": width, "height": 900}, color_scheme=scheme, bypass_csp=True)
    opened.page.locator("details.later summary").first.click()
    violations = axe.Axe().run(opened.page).response["violations"]
    assert [(rule["id"], [node["html"][:90] for node in rule["nodes"]][:3]) for rule in violations] == []
    opened.context.close()


def test_it_stays_light_until_something_is_opened(tab: Tab) -> None:
    assert tab.page.evaluate("document.querySelectorAll('*').length") < 3000
    assert tab.page.locator("#published td").count() == 0
    tab.page.locator("#published summary").click()
    assert tab.page.locator("#published td").count() > 1000


def test_the_verdict_is_on_the_first_screen_with_the_maps_below(browser: Any, page_file: Path) -> None:
    for width, height in ((1280, 900), (390, 800)):
        opened = Tab(browser, page_file, viewport={"width": width, "height": height})
        lead, strip = (opened.page.locator(name).bounding_box() for name in (".lead", ".strip img >> nth=0"))
        assert lead["y"] < strip["y"] < height
        assert opened.page.locator(".strip tbody tr").count() == 4
        right = opened.page.locator(".strip img >> nth=-1").bounding_box()
        assert right["x"] + right["width"] <= width
        opened.context.close()


def test_the_row_headings_of_table_2_stay_in_sight_and_cover_what_passes_below(browser: Any, page_file: Path) -> None:
    opened = Tab(browser, page_file, viewport={"width": 390, "height": 800})
    opened.page.evaluate("document.querySelector('#table .scroll').scrollLeft = 150")
    heading = opened.page.locator("#rows tbody th").first
    assert heading.bounding_box()["x"] < 60
    assert "H" in heading.inner_text() and "ridge" in opened.page.locator("#rows tr.ours th").first.inner_text()
    assert "rgba" not in heading.evaluate("(n) => getComputedStyle(n).backgroundColor")  # opaque
    opened.context.close()


@pytest.mark.parametrize("form", ["svg", "png", "csv"])
def test_a_figure_is_saved_by_a_click(tab: Tab, tmp_path: Path, form: str) -> None:
    with tab.page.expect_download() as download:
        tab.page.locator(f"#kernels button[data-save={form}]").click()
    path = tmp_path / download.value.suggested_filename
    download.value.save_as(path)
    assert path.name == f"kernels.{form}"
    if form == "csv":
        rows = list(csv.reader(path.read_text().splitlines()))
        assert rows[0][:3] == ["target", "network", "SPC"] and len(rows) > 5
    elif form == "png":
        assert Image.open(path).size[0] > 1000
    else:
        assert ElementTree.parse(path).getroot().get("width")


def test_the_data_of_the_page_is_plain_json(page_file: Path) -> None:
    (text,) = re.findall(
        r'<script type="application/json" id="cells-data">(.*?)</script>', page_file.read_text(encoding="utf-8")
    )
    data = json.loads(text)
    assert len(data["cells"]) == CELLS
    assert "<" not in text
