"""The command line around stores: builds on Dask workers, copies, probes, and stores behind URLs."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torchvision
from distributed import LocalCluster

from posenet_store.images.sources import load_image_set
from posenet_store.store.reader import open_store
from tests.support.runs import cli
from tests.support.servers import serve
from tests.support.small import built_store, contents, folder, tiny_backbone, write_images

RESNET = ("--backbone", "resnet18", "--weights", "random:0", "--dtype", "float32", "--layout", "aligned", "--no-probes")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("cli") / "photos", 6)


@pytest.fixture(scope="module")
def store(photos: Path) -> Path:
    result = cli("build-store", "--images", photos, "--stores", photos.parent / "stores", *RESNET)
    assert result.exit_code == 0, result.output
    return Path(result.stdout.splitlines()[-1])


@pytest.mark.system
def test_dask_workers_build_the_same_store(tmp_path: Path) -> None:
    """600 images, three blocks: both workers get some."""
    photos = write_images(tmp_path / "photos", 600)
    words = ("build-store", "--images", photos, "--backbone", "pixels", "--layout", "aligned", "--no-probes", "--stores")
    alone = cli(*words, tmp_path / "alone")
    shared = cli(*words, tmp_path / "shared", "--scheduler", "local", "--workers", "2")
    assert shared.exit_code == 0, shared.output
    assert contents(Path(shared.stdout.splitlines()[-1])) == contents(Path(alone.stdout.splitlines()[-1]))
    with LocalCluster(n_workers=1, host="127.0.0.1", dashboard_address="127.0.0.1:0", silence_logs="ERROR") as cluster:
        there = cli(*words, tmp_path / "there", "--scheduler", cluster.scheduler_address)
    assert contents(Path(there.stdout.splitlines()[-1])) == contents(Path(alone.stdout.splitlines()[-1]))


@pytest.mark.system
def test_a_part_that_fails_is_reported_and_the_build_is_not_sealed(photos: Path, tmp_path: Path) -> None:
    folder = write_images(tmp_path / "photos", 6)
    (folder / "image002.png").write_bytes(b"")
    words = ("build-store", "--images", folder, "--backbone", "pixels", "--no-probes", "--stores", tmp_path / "stores")
    result = cli(*words, "--scheduler", "local")
    assert result.exit_code == 1
    assert "part 1/1 failed: 1 of 6 images are unreadable" in result.stderr
    assert "1 of 1 parts failed" in result.stderr
    assert not list(tmp_path.glob("stores/*/manifest.json"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        pytest.param(
            ["--scheduler", "tcp://127.0.0.1:1"], "no Dask scheduler answers at tcp://127.0.0.1:1", marks=pytest.mark.system
        ),
        (["--scheduler", "cluster"], "unknown scheduler 'cluster'"),
        (["--scheduler", "local", "--part", "1/2"], "leave out --part"),
    ],
)
def test_a_scheduler_that_is_none_is_a_sentence(photos: Path, tmp_path: Path, words: list[str], message: str) -> None:
    result = cli("build-store", "--images", photos, "--backbone", "pixels", "--stores", tmp_path, *words)
    assert result.exit_code == 2
    assert message in result.stderr


def test_the_probe_of_the_right_weights_agrees_and_of_others_does_not(store: Path) -> None:
    right = cli("verify", store, "--probe")
    assert right.exit_code == 0, right.output
    assert right.stdout.count("probe f") == 5
    wrong = cli("verify", store, "--probe", "--weights", "random:1", "--json")
    assert wrong.exit_code == 1
    assert min(json.loads(wrong.stdout)["probe"].values()) > 0.01
    assert "no longer gives what the store holds: f1 by" in wrong.stderr


def test_a_repair_takes_weights_from_the_store_wherever_it_runs(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), tmp_path / "mine.pth")
    words = (
        "--backbone",
        "resnet18",
        "--weights",
        "mine.pth",
        "--preprocess",
        "unit",
        "--taps",
        "layer1,layer2",
        "--no-probes",
    )
    built = cli("build-store", "--images", photos, "--stores", tmp_path / "stores", "--layout", "aligned", *words)
    damaged = Path(built.stdout.splitlines()[-1])
    (damaged / "commits/b00000.json").unlink()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    result = cli("verify", damaged, "--repair", "--images", photos)
    assert result.exit_code == 0, result.output
    assert cli("verify", damaged, "--deep", "--probe").exit_code == 0


def test_a_network_of_ones_own_has_no_weights_on_record(photos: Path, tmp_path: Path) -> None:
    own = folder(built_store(tmp_path, load_image_set(str(photos)), tiny_backbone()))
    result = cli("verify", own, "--probe")
    assert (result.exit_code, "--weights" in result.stderr) == (2, True), result.output


def test_inspect_shows_spread_and_compression_and_of_a_growing_store_too(store: Path, photos: Path, tmp_path: Path) -> None:
    facts = json.loads(cli("inspect", store, "--json").stdout)
    assert 0.5 < facts["compression"] < 5
    assert facts["arrays"]["aligned"]["std"] > 0
    many = write_images(tmp_path / "photos", 300)
    words = ("build-store", "--images", many, "--backbone", "pixels", "--layout", "aligned", "--no-probes")
    part = cli(*words, "--stores", tmp_path, "--part", "1/2")
    growing = json.loads(cli("inspect", part.stdout.splitlines()[-1], "--json").stdout)
    assert growing["state"] == "1 of 2 blocks"
    assert growing["arrays"]["aligned"]["count"] == 256 * 3 * 28 * 28


@pytest.fixture
def url(store: Path) -> Iterator[str]:
    with serve(store) as location:
        yield location


def test_convert_prints_the_copys_path(store: Path, url: str, tmp_path: Path) -> None:
    for location in (str(store), url):
        result = cli("convert", location, "--format", "hdf5", "--stores", tmp_path)
        assert result.exit_code == 0, result.output
        assert open_store(result.stdout.splitlines()[-1]).spec.format == "hdf5"
    assert cli("convert", url, "--format", "zarr").exit_code == 2
    assert cli("convert", tmp_path / "none", "--format", "zarr").exit_code == 2


def test_a_store_behind_a_url_is_inspected_and_verified(store: Path, url: str) -> None:
    near, far = (json.loads(cli("inspect", location, "--json").stdout) for location in (store, url))
    assert near == far
    result = cli("verify", url, "--deep")
    assert (result.exit_code, result.stderr) == (0, f"{store.name}: 0 faults (every byte)\n")
    assert "not a folder here" in cli("verify", url, "--repair", "--images", store).stderr
