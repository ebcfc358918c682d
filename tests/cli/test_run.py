"""run and experiments: from a folder of images to the page in one command, and the sweeps that come with the package."""

import json
from pathlib import Path

import pytest

from posenet_store.extraction.controls import list_networks
from posenet_store.specs import BackboneSpec
from posenet_store.store.catalogue import list_stores
from posenet_store.sweep.spec import list_experiments, load_sweep
from tests.support.runs import cli
from tests.support.small import write_images

SWEEP = 'targets = ["H"]\nseeds = [0]\nprotocols = ["ridge"]\n'
NETWORK = ("--backbone", "resnet18", "--weights", "random:1", "--size", "64")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 8 photographs in a folder whose name is a pattern, and a small sweep."""
    home = tmp_path_factory.mktemp("run")
    write_images(home / "my [photos]", 8)
    (home / "sweep.toml").write_text(SWEEP)
    return home


def test_one_command_makes_stores_heads_and_the_page_and_a_rerun_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    words = ("run", "my [photos]", *NETWORK, "--sweep", "sweep.toml")
    planned = json.loads(cli(*words, "--plan", "--json").stdout)
    assert (planned["heads"], planned["finished"]) == (3, 0)
    assert not (home / "stores").exists()
    assert not (home / "runs").exists()
    first = cli(*words)
    assert first.exit_code == 0, first.output
    page = home / first.stdout.splitlines()[-1][25:]
    assert page == home / "runs/my [photos]-resnet18-random1-64px/report.html"
    assert page.is_file()
    assert {info.spec.network for info in list_stores("stores")[0]} == {
        "resnet18-random1-64px", "resnet18-random1-64px-padding-circular", "pixels",
    }  # fmt: skip
    assert [fact["store"] for fact in planned["stores"]] == [line[25:] for line in first.stdout.splitlines()[:6]]
    before = page.stat().st_mtime_ns
    again = cli(*words)
    assert again.exit_code == 0
    assert "0 heads trained, 3 were finished before" in again.stderr
    assert page.stat().st_mtime_ns == before
    assert "complete" in cli(*words, "--plan").stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere", "--backbone", "vgg16"], "'nowhere'"),
        (["my [photos]", "--backbone", "vgg61"], "vgg61"),
        (["my [photos]", "--backbone", "vgg16", "--weights", "none.pth"], "none.pth"),
        (["my [photos]", "--backbone", "vgg16", "--weights", "imagnet"], "did you mean 'imagenet'"),
        (["my [photos]", "--backbone", "resnet18", "--weights", "hed"], "vgg16"),
        (["my [photos]", "--backbone", "vgg16", "--device", "gpu"], "gpu"),
        (["my [photos]", "--backbone", "vgg16", "--taps", "features.99"], "features.99"),
        (["my [photos]", "--backbone", "resnet18", "--padding", "none"], "--size"),
        (["my [photos]", "--backbone", "vgg16", "--sweep", "tabel2"], "did you mean 'table2'"),
        (["my [photos]", "--backbone", "vgg16", "--out", "sweep.toml"], "sweep.toml"),
    ],
)
def test_a_mistake_is_refused_before_anything_is_built(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    monkeypatch.chdir(home)
    loading = "posenet_store.backbones.torchvision_models.load_network"
    monkeypatch.setattr(loading, lambda *_: pytest.fail("parameters were loaded"))
    result = cli("run", *words, "--stores", tmp_path / "stores")
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert not (tmp_path / "stores").exists()


def test_controls_are_the_network_untrained_and_without_padding_and_the_pixels() -> None:
    networks, notes = list_networks(BackboneSpec("vgg11", "imagenet", device="cpu"))
    assert notes == ()
    assert networks["untrained"] == BackboneSpec("vgg11", "random:0", device="cpu")
    assert networks["unpadded"] == BackboneSpec("vgg11", "imagenet", device="cpu", padding="none")
    assert networks["pixels"] == BackboneSpec("pixels", device="cpu")
    assert list(list_networks(BackboneSpec("vgg11", padding="none"))[0]) == ["network", "untrained", "pixels"]
    assert list(list_networks(BackboneSpec("pixels"))[0]) == ["network"]
    networks, notes = list_networks(BackboneSpec("resnet18"), untrained=False)
    assert list(networks) == ["network", "unpadded", "pixels"]
    assert networks["unpadded"].padding == "circular" and "--size" in notes[0]
    networks, notes = list_networks(BackboneSpec("vit_b_32"), untrained=False)
    assert list(networks) == ["network", "pixels"]
    assert "left out: --padding none" in notes[0] and "changes nothing" in notes[0]


def test_experiments_are_listed_with_their_questions_and_printed(tmp_path: Path) -> None:
    listed = list_experiments()
    assert all(experiment.question.endswith(("?", ".")) for experiment in listed)
    facts = {fact["name"]: fact for fact in json.loads(cli("experiments", "--json").stdout)}
    assert set(facts) == {experiment.name for experiment in listed}
    assert facts["kernel_size"]["question"] == "does a larger readout kernel see more position?"
    text = cli("experiments").stdout
    assert all(f"{experiment.name} " in text and experiment.question in text for experiment in listed)
    copy = tmp_path / "table2.toml"
    copy.write_text(cli("experiments", "show", "table2").stdout)
    assert load_sweep(copy) == load_sweep("table2")


@pytest.mark.parametrize("words", [("experiments", "show", "tabel2"), ("sweep", "tabel2"), ("sweep", "runs/tabel2.toml")])
def test_an_unknown_experiment_suggests_the_nearest(words: tuple[str, ...]) -> None:
    result = cli(*words)
    assert result.exit_code == 2
    assert "did you mean 'table2'" in result.stderr


def test_a_folder_named_like_an_experiment_does_not_hide_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "table2").mkdir()
    assert load_sweep("table2").title
