"""--padding, --preprocess and --size through the command line: into the store, its parts, its repair and its heads."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from posenet_store.cli import main
from tests.support.small import contents, write_images

NETWORK = ("--backbone", "resnet18", "--weights", "random:0", "--padding", "reflect", "--preprocess", "unit", "--size", "64")
LABEL = "resnet18-random0-unit-64px-padding-reflect"
SWEEP = 'targets = ["H"]\nprotocols = ["ridge"]\nseeds = [0]\n'


def typed(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty images and their store, and that of the probes."""
    home = tmp_path_factory.mktemp("options")
    write_images(home / "pictures", 40)
    done = typed("build-store", *NETWORK, "--images", home / "pictures", "--stores", home / "stores", "--device", "cpu")
    assert done.exit_code == 0, done.output
    (home / "store").symlink_to(done.stdout.splitlines()[-1])
    return home


def test_the_options_are_in_the_networks_name_and_in_the_stores_spec(home: Path) -> None:
    (facts, _) = json.loads(typed("stores", "--stores", home / "stores", "--json").stdout)
    assert facts["network"] == LABEL
    spec = json.loads(typed("inspect", home / "store", "--json").stdout)["spec"]
    assert spec["padding"] == "reflect"
    assert spec["preprocess"]["size"] == 64
    assert spec["preprocess"]["std"] == [1.0, 1.0, 1.0]


@pytest.mark.system
def test_dask_workers_build_the_same_store(home: Path) -> None:
    words = ("--images", home / "pictures", "--stores", home / "dask", "--device", "cpu", "--no-probes")
    done = typed("build-store", *NETWORK, *words, "--scheduler", "local", "--workers", "1")
    assert done.exit_code == 0, done.output
    assert contents(Path(done.stdout.splitlines()[-1])) == contents(home / "store")


def test_a_store_knows_with_which_options_it_is_probed_and_mended(home: Path) -> None:
    before = contents(home / "store")
    assert typed("verify", home / "store", "--probe", "--weights", "random:0", "--device", "cpu").exit_code == 0
    victim = home / "store/data.zarr/f5/c.0.0.0.0"
    victim.write_bytes(b"x" + victim.read_bytes()[1:])
    words = ("--repair", "--images", home / "pictures", "--weights", "random:0", "--device", "cpu")
    assert typed("verify", home / "store", *words).exit_code == 0
    assert contents(home / "store") == before


def test_a_head_is_scored_on_images_of_the_same_network_only(home: Path) -> None:
    (home / "sweep.toml").write_text(SWEEP)
    ran = typed("sweep", home / "sweep.toml", "--stores", home / "stores", "--run", home / "run", "--scheduler", "inline")
    assert ran.exit_code == 0, ran.output
    assert LABEL.replace("-padding-reflect", " (untrained, reflect padding)") in typed("table", home / "run").stdout
    (head,) = (home / "run/heads").glob("*.safetensors")
    words = ("evaluate", "--head", head, "--images", "probes", "--stores", home / "other", "--device", "cpu")
    scored = typed(*words, *NETWORK, "--json")
    assert scored.exit_code == 0, scored.output
    assert [row["test"] for row in json.loads(scored.stdout)] == ["black", "white", "noise"]
    refused = typed(*words, *NETWORK[:4])
    assert refused.exit_code == 2
    assert "backbone, weights, taps, padding and preprocessing must be the same" in refused.stderr
