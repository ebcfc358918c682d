"""Model cards: what they say, of any store, and that nothing a user typed is Markdown, HTML or YAML in them."""

import re
import shutil
from copy import copy
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml  # type: ignore[import-untyped]

from posenet_store.backbones.load import load_backbone
from posenet_store.errors import UsageError
from posenet_store.extraction.build import build_store, plan_store
from posenet_store.images.sources import load_image_set
from posenet_store.specs import FORMATS, BackboneSpec
from posenet_store.store.card import _write_front_matter, make_card, write_card
from posenet_store.store.catalogue import describe_store
from posenet_store.store.reader import Reader, open_store
from tests.support.runs import cli
from tests.support.servers import serve
from tests.support.small import built_store, folder, tiny_backbone, write_images

ROOT = Path(__file__).parents[2]
HOSTILE = 'a|b`` <script>x</script> ![x](http://y) "q": \n---\n# é\U0001f600'


@pytest.fixture(scope="module")
def readers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Reader]:
    """A store in both formats, of ten images, one of them unreadable."""
    root = tmp_path_factory.mktemp("card")
    photos = write_images(root / "photos", 10)
    (photos / "broken.png").write_bytes(b"no image")
    images = load_image_set(str(photos))
    plans = {form: plan_store(images, tiny_backbone(), "native", "float32", 4, form) for form in FORMATS}
    return {
        form: open_store(build_store(images, tiny_backbone(), plan, root, batch_size=2, max_unreadable=0.2).path)
        for form, plan in plans.items()
    }


class Text(HTMLParser):
    """Collects the tags of HTML."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)


def split_card(card: str) -> tuple[dict[str, Any], str]:
    """Return the front matter and the Markdown below it."""
    _, matter, text = card.split("---\n", 2)
    return yaml.safe_load(matter), text


def remove_code(text: str) -> str:
    """Return Markdown without its code, as CommonMark finds it: fenced blocks, then spans between equal runs of backticks."""
    text = re.sub(r"(?ms)^(`{3,})[^`\n]*\n.*?^\1$", "", text)
    return re.sub(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)", "", text)


@pytest.mark.parametrize("form", FORMATS)
def test_a_card_says_what_a_store_holds(readers: dict[str, Reader], form: str) -> None:
    reader = readers[form]
    matter, text = split_card(make_card(folder(reader)))
    assert matter["size_categories"] == ["n<1K"]
    assert (matter["license"], "probing" in matter["tags"]) == ("unknown", True)
    for fact in (reader.spec.fingerprint, reader.spec.images_sha256, reader.spec.weights_sha256, "`float32`", f"`{form}`"):
        assert fact in text
    assert "| quarantined | 1 unreadable" in text
    assert "licence of the weights | none needed" in text
    assert "| `f1` | `0` | 11x8x16x16 | 4x8x16x16 | 0.1 MB |" in text
    for section in ("Preprocessing", "Arrays", "Statistics", "Read it", "How it was made", "Cite"):
        assert f"\n## {section}\n" in text


def test_statistics_are_those_of_the_features(tmp_path: Path) -> None:
    backbone = tiny_backbone()
    with_dead = backbone.module[0][0]  # type: ignore[index]
    with_dead.bias.data[:3], with_dead.weight.data[:3] = -1, 0  # ReLU leaves nothing of three channels
    reader = built_store(tmp_path, load_image_set(str(write_images(tmp_path / "photos", 6))), backbone)
    row = re.search(
        r"^\| `f1` \| (\S+) \| (\S+) \| (\S+) \| (\S+) \| (\S+) \| (.*?) \|$", make_card(folder(reader)), re.MULTILINE
    )
    assert row is not None
    values = reader.read("f1").astype(np.float64)
    expected = [values.min(), values.max(), values.mean(), values.std(), (values == 0).mean()]
    assert [float(number) for number in row.groups()[:5]] == pytest.approx(expected, rel=1e-3)  # printed with four digits
    constant = int((np.ptp(values[:4], axis=(0, 2, 3)) == 0).sum())
    assert (constant >= 3, row[6]) == (True, f"{constant} of 8 in 4 images")


def test_its_example_runs_where_the_store_lies(
    readers: dict[str, Reader], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = folder(readers["zarr"])
    (code,) = re.findall(r"```python\n(.*?)```", make_card(store), re.DOTALL)
    assert len([line for line in code.splitlines() if line]) == 5
    monkeypatch.chdir(store.parent)
    exec(code, {})
    assert capsys.readouterr().out.startswith("(11, 8, 16, 16) ")


def test_a_card_over_http_is_the_same(readers: dict[str, Reader]) -> None:
    store = folder(readers["hdf5"])
    with serve(store.parent) as url:
        assert make_card(f"{url}/{store.name}") == make_card(store)


@pytest.fixture
def hostile(readers: dict[str, Reader], monkeypatch: pytest.MonkeyPatch) -> str:
    """The card of a store in which every text of a user is hostile."""
    reader = readers["zarr"]
    taps = tuple(replace(tap, module=HOSTILE) for tap in reader.taps)
    spec = replace(reader.spec, backbone=HOSTILE, weights=HOSTILE, images=HOSTILE, taps=taps, weights_kind="trained")
    told = {"command": f"x '{HOSTILE}", "machine": HOSTILE, "versions": {HOSTILE: HOSTILE}, "time": [HOSTILE]}
    plan = replace(reader.plan, spec=spec, provenance=told | {"weights_licence": HOSTILE, "positions": HOSTILE})
    changed = copy(reader)
    changed.plan = plan
    info = replace(describe_store(folder(reader)), spec=spec)
    monkeypatch.setattr("posenet_store.store.card.open_store", lambda location, unsealed: changed)
    monkeypatch.setattr("posenet_store.store.card.describe_store", lambda location: info)
    return make_card(folder(reader))


def test_what_users_typed_is_code(hostile: str) -> None:
    matter, text = split_card(hostile)
    assert matter["pretty_name"].endswith("é\U0001f600")
    assert set(matter) == {"license", "pretty_name", "size_categories", "tags"}
    prose = remove_code(text)
    parser = Text()
    parser.feed(prose)
    assert parser.tags == []
    assert "](" not in prose
    assert [line for line in prose.splitlines() if line.startswith("#")] == [
        "# Features of  on ", *(f"## {name}" for name in (
            "What it holds", "Preprocessing", "Arrays", "Statistics", "Read it", "How it was made", "Cite"
        )),
    ]  # fmt: skip
    columns = {len(re.findall(r"(?<!\\)\|", line)) for line in text.splitlines() if line.startswith("|")}
    assert columns == {3, 6, 8}  # of each table; no text of a user has added one


@pytest.mark.parametrize(("count", "category"), [(999, "n<1K"), (1_000, "1K<n<10K"), (99_999, "10K<n<100K"), (10**6, "n>1M")])
def test_sizes_are_those_of_hubs(readers: dict[str, Reader], count: int, category: str) -> None:
    assert f"- {category}\n" in _write_front_matter(replace(readers["zarr"].spec, rows=count))


def test_a_file_is_never_replaced(readers: dict[str, Reader], tmp_path: Path) -> None:
    store = folder(readers["zarr"])
    assert write_card(store, tmp_path / "README.md").read_text(encoding="utf-8") == make_card(store)
    with pytest.raises(UsageError, match="exists"):
        write_card(store, tmp_path / "README.md")
    result = cli("inspect", store, "--card", "--out", tmp_path / "new.md")
    assert (result.exit_code, result.stdout.strip()) == (0, str(tmp_path / "new.md"))
    assert cli("inspect", store, "--card").stdout == make_card(store)


@pytest.mark.parametrize("words", [("--card", "--json"), ("--out", "x.md")])
def test_options_that_contradict_are_told(readers: dict[str, Reader], words: tuple[str, ...]) -> None:
    assert cli("inspect", folder(readers["zarr"]), *words).exit_code == 2


def test_a_card_in_the_folder_of_a_store_is_no_damage(readers: dict[str, Reader], tmp_path: Path) -> None:
    store = shutil.copytree(folder(readers["zarr"]), tmp_path / "store")
    write_card(store, store / "README.md")
    assert cli("verify", store, "--deep").exit_code == 0


def test_an_unfinished_store_has_a_card(readers: dict[str, Reader], tmp_path: Path) -> None:
    store = shutil.copytree(folder(readers["zarr"]), tmp_path / "store")
    (store / "manifest.json").unlink()
    for record in sorted((store / "commits").iterdir())[1:]:
        record.unlink()
    assert "not complete: 1 of 3 blocks" in make_card(store)


def test_licences_are_recorded_where_they_are_known(tmp_path: Path) -> None:
    images = load_image_set(str(write_images(tmp_path / "photos", 2)))
    licences = {}
    for name, weights in (("vgg16", "hed"), ("resnet18", "random:0"), ("pixels", "imagenet")):
        plan = plan_store(images, load_backbone(BackboneSpec(name, weights, device="cpu", size=64)), "aligned", "float32")
        licences[name] = plan.provenance.get("weights_licence")
    assert licences == {"vgg16": "MIT", "resnet18": None, "pixels": None}


def test_citations_are_those_of_the_citation_file(readers: dict[str, Reader]) -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    (bibtex,) = re.findall(r"```bibtex\n(.*?)```", make_card(folder(readers["zarr"])), re.DOTALL)
    (paper,) = citation["references"]
    authors = " and ".join(f"{author['family-names']}, {author['given-names']}" for author in paper["authors"])
    for text in (citation["title"], citation["authors"][0]["name"], paper["title"], authors, str(paper["year"])):
        assert text in bibtex
