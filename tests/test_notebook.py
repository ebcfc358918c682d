"""What objects show of themselves, and tables and bars outside a notebook; `tests/system/test_notebook.py` runs a real one."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import posenet_store
from posenet_store import notebook
from posenet_store.errors import UsageError
from posenet_store.extraction.build import build_store, plan_store
from posenet_store.images.sources import load_image_set
from posenet_store.store.catalogue import list_stores
from posenet_store.sweep.plan import plan_sweep
from posenet_store.sweep.run import run_sweep
from posenet_store.sweep.spec import load_sweep
from tests.support.small import tiny_backbone, write_images


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder with 12 images and a sweep of one head."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "photos", 12)
    (tmp_path / "sweep.toml").write_text('train = ["photos"]\ntargets = ["H"]\nprotocols = ["ridge"]\n')
    return tmp_path


def test_paths_are_texts_with_a_home_folder_and_everything_is_shown_in_a_few_lines(home: Path) -> None:
    images, backbone = load_image_set("~/photos"), tiny_backbone()
    assert load_image_set(home / "photos").sha256 == images.sha256
    plan = plan_store(images, backbone, "aligned", "float32")
    built = build_store(images, backbone, plan, "~/stores")
    listing = list_stores()
    sweep = plan_sweep(load_sweep("~/sweep.toml"))
    assert plan_sweep(load_sweep("~/sweep.toml"), listing) == sweep
    trained = run_sweep(load_sweep("~/sweep.toml"), sweep, "~/run", scheduler="inline")
    run = posenet_store.open_run("~/run")
    shown: list[tuple[object, list[str]]] = [
        (images, ["photos", "12 images"]),
        (backbone, ["tiny", "random0", "f3 [16, 4, 4]", "cpu"]),
        (built, [str(home / "stores"), "complete", "12 images"]),
        (listing, ["1 stores", built.path.name, "sealed"]),
        (listing.stores[0], [built.path.name]),
        (sweep, ["1 heads", "1 passes"]),
        (trained, ["1 heads trained", str(home / "run")]),
        (run, ["1", "tiny-random0"]),
        (run.results[0], ["H from aligned of tiny-random0 on photos, ridge", "held-out SPC"]),
    ]  # fmt: skip
    for value, facts in shown:
        assert len(repr(value)) < 500
        assert all(fact in repr(value) for fact in facts), repr(value)


def test_tables_for_notebooks_have_the_facts_and_escape_text(home: Path) -> None:
    images, backbone = load_image_set(str(write_images(home / "<b>", 3))), tiny_backbone()
    path = build_store(images, backbone, plan_store(images, backbone, "aligned", "float32"), "stores").path
    (home / "stores/broken<i>").mkdir()
    (home / "stores/broken<i>/plan.json").write_text("{")
    listing = list_stores("~/stores")
    sweep = plan_sweep(replace(load_sweep("sweep.toml"), train=("<b>",)))
    for text in (listing._repr_html_(), listing.stores[0].spec._repr_html_(), sweep._repr_html_()):
        assert "<table>" in text
        assert "<b>" not in text
        assert "<i>" not in text
    assert "&lt;b&gt;" in listing._repr_html_()
    assert "damaged: " in listing._repr_html_()
    assert path.name.replace("<", "&lt;").replace(">", "&gt;") in sweep._repr_html_()


@pytest.mark.parametrize(
    "options", [{"batch_size": -1}, {"batch_size": 0}, {"part": (3, 2)}, {"part": (0, 1)}, {"max_unreadable": 1.5}], ids=str
)
def test_a_build_that_would_silently_do_nothing_is_refused(home: Path, options: dict[str, Any]) -> None:
    images, backbone = load_image_set(str(home / "photos")), tiny_backbone()
    with pytest.raises(UsageError, match=next(iter(options))):
        build_store(images, backbone, plan_store(images, backbone, "aligned", "float32"), "stores", **options)
    assert not (home / "stores").exists()
    with pytest.raises(UsageError, match="block_rows"):
        plan_store(images, backbone, "aligned", "float32", block_rows=-1)


def test_outside_a_notebook_a_bar_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    assert not notebook.is_notebook()
    with notebook.show_progress("x", 2, "images") as advance:
        advance(1)
    assert capsys.readouterr() == ("", "")
