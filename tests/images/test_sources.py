"""What may stand after `--images`, and what is said about anything else."""

from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from posenet_store.errors import UsageError
from posenet_store.images import synthetic
from posenet_store.images.image_set import load_folder
from posenet_store.images.sources import DUTS, PHOTOS, load_image_set
from posenet_store.images.synthetic import PROBE_SIZE, draw_dead_leaves, make_probe
from tests.support.small import write_images

DUTS_FOLDER = "DUTS-TE/DUTS-TE-Image"


@pytest.fixture
def duts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a data root whose DUTS-TE holds three images, which is what the package expects here."""
    monkeypatch.delenv("POSENET_DATA", raising=False)
    monkeypatch.setitem(DUTS, "duts-te", (DUTS_FOLDER, 3))
    write_images(tmp_path / "data" / DUTS_FOLDER, 3)
    return tmp_path / "data"


def test_a_folder(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "mine", 3)
    images = load_image_set(str(folder))
    assert (images.name, images.ids, images.sha256) == ("mine", load_folder(folder).ids, load_folder(folder).sha256)


def test_a_single_file(tmp_path: Path) -> None:
    folder = write_images(tmp_path, 3)
    images = load_image_set(str(folder / "image001.png"))
    assert (images.name, images.ids) == ("image001", ("image001.png",))
    assert (images.read(0, 20) == load_folder(folder).read(1, 20)).all()


def test_a_single_file_may_have_any_suffix(tmp_path: Path) -> None:
    write_images(tmp_path, 1)
    path = (tmp_path / "image000.png").rename(tmp_path / "upload")
    assert load_image_set(str(path)).read(0, 20).shape == (20, 20, 3)


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(tmp_path / "pictures", 2)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(load_image_set("~/pictures")) == 2


@pytest.mark.parametrize("source", ["nowhere/images", "duts", "probe", "DUTS-TE", "", "dead-leaves"])
def test_an_unknown_source_is_refused_with_what_is_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(UsageError) as raised:
        load_image_set(source)
    message = str(raised.value)
    if source == "":  # the working folder, as everywhere
        assert "holds no image" in message
    else:
        assert repr(source) in message
        for accepted in ("folder", "file", "duts-te", "duts-tr", "probes", "photos", "synthetic:dead-leaves"):
            assert accepted in message


# DUT-S.


def test_the_published_counts_of_duts() -> None:
    assert {name: count for name, (_, count) in DUTS.items()} == {"duts-te": 5019, "duts-tr": 10553}


def test_duts_by_data_root(duts: Path) -> None:
    images = load_image_set("duts-te", duts)
    assert (images.name, len(images)) == ("duts-te", 3)
    assert images.sha256 == load_folder(duts / DUTS_FOLDER).sha256


def test_duts_by_environment(duts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSENET_DATA", str(duts))
    assert len(load_image_set("duts-te")) == 3


def test_a_data_root_goes_before_the_environment(duts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSENET_DATA", str(duts / "nowhere"))
    assert len(load_image_set("duts-te", duts)) == 3


def test_duts_without_a_root_says_how_to_give_one(duts: Path) -> None:
    with pytest.raises(UsageError, match=r"duts-te needs .*--data-root DIR or set POSENET_DATA"):
        load_image_set("duts-te")


def test_duts_not_unpacked_names_the_folder_and_the_archive(duts: Path) -> None:
    with pytest.raises(
        UsageError, match=r"DUTS-TR-Image does not exist; download it with `fetch duts-tr`, or unpack DUTS-TR\.zip below "
    ) as raised:
        load_image_set("duts-tr", duts)
    assert str(duts) in str(raised.value)


@pytest.mark.parametrize("by", ["data root", "environment"])
def test_an_incomplete_duts_names_both_counts(duts: Path, monkeypatch: pytest.MonkeyPatch, by: str) -> None:
    monkeypatch.setitem(DUTS, "duts-te", (DUTS_FOLDER, 5019))
    monkeypatch.setenv("POSENET_DATA", str(duts))
    with pytest.raises(UsageError, match=r"holds 3 images, duts-te has 5,019") as raised:
        load_image_set("duts-te", duts if by == "data root" else None)
    assert f"--images {duts / DUTS_FOLDER}" in str(raised.value)


def test_a_duts_with_too_many_images_is_refused(duts: Path) -> None:
    write_images(duts / DUTS_FOLDER / "more", 1)
    with pytest.raises(UsageError, match="holds 4 images, duts-te has 3"):
        load_image_set("duts-te", duts)


# Probes.


def test_probes_are_black_white_and_noise() -> None:
    images = load_image_set("probes")
    assert (images.name, images.ids) == ("probes", ("black", "white", "noise"))
    black, white, noise = (images.read(index, PROBE_SIZE) for index in range(3))
    assert (black == 0).all()
    assert (white == 255).all()
    assert (noise == make_probe("noise")).all()
    assert {image.shape for image in (black, white, noise)} == {(224, 224, 3)}


def test_noise_is_gaussian_without_position() -> None:
    noise = make_probe("noise").astype(float)
    clipped = np.clip(np.random.default_rng(1).normal(127.5, 50, 1_000_000), 0, 255)
    assert abs(noise.mean() - clipped.mean()) < 1
    assert abs(noise.std() - clipped.std()) < 0.5
    for axis in (0, 1):
        assert np.abs(noise.mean(axis=(axis, 2)) - noise.mean()).max() < 5 * 50 / (3 * 224) ** 0.5
    assert abs(np.corrcoef(noise[:, :, 0].ravel(), noise[:, :, 1].ravel())[0, 1]) < 0.02


def test_noise_is_seeded() -> None:
    assert (make_probe("noise", 7) == make_probe("noise", 7)).all()
    assert (make_probe("noise", 7) != make_probe("noise", 8)).any()
    assert (make_probe("noise") == make_probe("noise", 0)).all()


def test_the_digests_of_probes_are_those_of_their_pixels() -> None:
    images = load_image_set("probes")
    assert images.digests == tuple(sha256(make_probe(name).tobytes()).hexdigest() for name in images.ids)
    assert len(set(images.digests)) == 3


def test_probes_are_resized_as_images_are() -> None:
    expected = Image.fromarray(make_probe("noise")).resize((96, 96), Image.Resampling.BILINEAR)
    assert (load_image_set("probes").read(2, 96) == np.asarray(expected)).all()


# Dead leaves.


@pytest.mark.parametrize(
    ("source", "count", "seed"),
    [
        ("synthetic:dead-leaves", 512, 0),
        ("synthetic:dead-leaves?n=3", 3, 0),
        ("synthetic:dead-leaves?seed=4&n=3", 3, 4),
        ("synthetic:dead-leaves?n=3&seed=04", 3, 4),
    ],
)
def test_dead_leaves_by_count_and_seed(source: str, count: int, seed: int) -> None:
    images = load_image_set(source)
    assert (images.name, len(images), len(set(images.ids))) == ("dead-leaves", count, count)
    assert (images.read(2, 256) == draw_dead_leaves(seed, 2)).all()
    expected = Image.fromarray(draw_dead_leaves(seed, 1)).resize((64, 64), Image.Resampling.BILINEAR)
    assert (images.read(1, 64) == np.asarray(expected)).all()


def test_the_digest_of_dead_leaves_changes_with_seed_count_and_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    def digest(query: str) -> str:
        return load_image_set(f"synthetic:dead-leaves?{query}").sha256

    before = digest("n=3")
    assert before == digest("n=3&seed=0")
    assert len({before, digest("n=3&seed=1"), digest("n=4")}) == 3
    with monkeypatch.context() as patch:
        patch.setattr(synthetic, "VERSION", 99)
        assert digest("n=3") != before
    # Even if somebody forgets to count up the version.
    monkeypatch.setattr(synthetic, "draw_dead_leaves", lambda seed, index: draw_dead_leaves(seed, index) ^ 1)
    assert digest("n=3") != before


def test_more_dead_leaves_begin_with_the_same_images() -> None:
    few, many = load_image_set("synthetic:dead-leaves?n=3"), load_image_set("synthetic:dead-leaves?n=5")
    assert (few.ids, few.digests) == (many.ids[:3], many.digests[:3])
    assert len(set(many.digests)) == 5


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("synthetic:dead-leafs", r"unknown synthetic image set 'dead-leafs' \(did you mean 'dead-leaves'\?\)"),
        ("synthetic:", "unknown synthetic image set ''; accepted: dead-leaves"),
        ("synthetic", "unknown synthetic image set ''; accepted: dead-leaves"),
        ("synthetic:noise?n=3", "unknown synthetic image set 'noise'; accepted: dead-leaves"),
        (
            "synthetic:dead-leaves?sed=3",
            r"unknown option of synthetic:dead-leaves 'sed' \(did you mean 'seed'\?\); accepted: n",
        ),
        ("synthetic:dead-leaves?n", r"synthetic:dead-leaves\?n = '' is not accepted; give a whole number"),
        ("synthetic:dead-leaves?n=", r"synthetic:dead-leaves\?n = '' is not accepted; give a whole number"),
        ("synthetic:dead-leaves?n=many", r"synthetic:dead-leaves\?n = 'many' .*give a whole number from 1 to 10,000,000"),
        (f"synthetic:dead-leaves?n={10**18}", "give a whole number from 1 to"),
        (f"synthetic:dead-leaves?seed={'9' * 5000}", "give a whole number from 0 to"),
        ("synthetic:dead-leaves?n=1.5", "give a whole number"),
        ("synthetic:dead-leaves?n=-1", "give a whole number"),
        ("synthetic:dead-leaves?n=3&seed=-1", "give a whole number"),
        ("synthetic:dead-leaves?n=0", "give a whole number from 1"),
    ],
)
def test_a_wrong_synthetic_source_is_refused(source: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_image_set(source)


# Photographs.


@pytest.mark.skipif(find_spec("skimage") is None, reason="scikit-image (extra demo) is not installed")
def test_the_photographs_decode() -> None:
    images = load_image_set("photos")
    assert (images.name, images.ids) == ("photos", PHOTOS)
    assert len(images) == 8
    for index in range(8):
        photo = images.read(index, 64)
        assert photo.shape == (64, 64, 3)
        assert photo.std() > 10
    assert len(set(images.digests)) == 8


def test_photographs_without_scikit_image_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("posenet_store.images.sources.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"scikit-image; install it: pip install 'posenet-store\[demo\]'"):
        load_image_set("photos")


def test_an_unknown_probe_names_the_known() -> None:
    with pytest.raises(UsageError, match="accepted: black, white, noise"):
        make_probe("grey")
