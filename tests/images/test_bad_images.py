"""A folder with every bad and odd image at once: no build stops, and every file is accounted for exactly once."""

import json
import os
import re
import shutil
import struct
import unicodedata
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from PIL import Image

from posenet_store.backbones.backbone import Backbone
from posenet_store.backbones.load import load_backbone
from posenet_store.cli import main
from posenet_store.errors import BuildError
from posenet_store.extraction.build import build_store, plan_store
from posenet_store.images.decode import decode
from posenet_store.images.sources import load_image_set
from posenet_store.specs import FORMATS, BackboneSpec
from posenet_store.store.reader import Reader, open_store
from tests.support.small import built_store, tiny_backbone, write_images

SOUND = 12
ODD = {  # name -> size: readable, whatever they are called
    "one pixel.png": (1, 1),
    "wide.png": (20_000, 3),
    "\u732b \u00e9.png": (40, 30),
    "two\nlines.png": (41, 30),
    "red\x1b[31m.png": (42, 30),
    "<script>alert(1)</script>.png": (43, 30),  # the slash makes a folder of it
}
KINDS = ("moving.gif", "sixteen.png", "print.jpg", "palette.png")
BAD = {  # name -> why it is quarantined
    "empty.png": r"the file is empty \(0 bytes\)",
    "empty\nagain.png": r"the file is empty \(0 bytes\)",
    "text\x1b[32m.jpg": "not an image of an accepted format: JPEG, PNG",
    "cut.jpg": "broken image: .*truncated",
    "bomb.png": "broken image: .*3600000000 pixels",
    "dangling.png": "can't be read: No such file or directory",
    "round.png": "can't be read: Too many levels of symbolic links",
}
LEFT_OUT = (".hidden.png", "notes\n.txt", "pipe.png")


def bomb() -> bytes:
    """A PNG of less than a hundred bytes that claims 60,000 x 60,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def write_bad(folder: Path) -> None:
    for name in ("empty.png", "empty\nagain.png"):
        (folder / name).touch()
    (folder / "text\x1b[32m.jpg").write_text("<html>404 Not Found</html>")
    picture(200, 200).save(folder / "cut.jpg")
    os.truncate(folder / "cut.jpg", 9000)
    (folder / "bomb.png").write_bytes(bomb())
    (folder / "dangling.png").symlink_to("nowhere.png")
    (folder / "round.png").symlink_to("round.png")


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve sound images, the odd, the bad, and what is left out; and a folder that holds itself."""
    folder = write_images(tmp_path_factory.mktemp("bad") / "zoo", SOUND)
    for name, size in ODD.items():
        (folder / name).parent.mkdir(exist_ok=True)
        picture(*size).save(folder / name)
    first, *others = (picture(40, 30, seed) for seed in range(3))
    first.save(folder / "moving.gif", save_all=True, append_images=others)
    Image.fromarray(np.random.default_rng(0).integers(0, 1 << 16, (30, 40), dtype=np.uint16)).save(folder / "sixteen.png")
    picture(40, 30).convert("CMYK").save(folder / "print.jpg")
    picture(40, 30).convert("P").save(folder / "palette.png")
    write_bad(folder)
    (folder / "loop").symlink_to(".", target_is_directory=True)
    for name in LEFT_OUT[:2]:
        (folder / name).touch()
    os.mkfifo(folder / "pipe.png")
    return folder


@pytest.fixture(scope="module")
def pixels() -> Backbone:
    return load_backbone(BackboneSpec("pixels", device="cpu"))


def files_below(folder: Path) -> list[str]:
    """Every file that is there, found without the package's own walk."""
    return sorted(Path(parent, file).relative_to(folder).as_posix() for parent, _, files in os.walk(folder) for file in files)


def values_of(folder: Path, name: str, backbone: Backbone) -> dict[str, NDArray[np.float32]]:
    """The taps of one image, decoded alone."""
    pixels = decode((folder / name).read_bytes(), backbone.preprocess.size)
    return {tap: value.numpy() for tap, value in backbone.features(torch.from_numpy(pixels[None].copy())).items()}


def check(reader: Reader, folder: Path, backbone: Backbone, left_out: Iterable[str]) -> None:
    """Every file is a readable row, a quarantined row or left out; readable rows are right, the others are passed over."""
    reasons = {entry["image_id"]: entry["reason"] for entry in reader.manifest["quarantined"]}
    readable = [row for row in range(len(reader.ids)) if reader.readable[row]]
    good = [reader.ids[row] for row in readable]
    assert sorted([*good, *reasons, *left_out]) == files_below(folder)
    assert sorted(left_out) == sorted(LEFT_OUT)
    assert len(good) == SOUND + len(ODD) + len(KINDS)
    assert reasons.keys() == BAD.keys()
    assert all(re.fullmatch(f"{reason}.*", reasons[name]) for name, reason in BAD.items()), reasons
    for row, name in zip(readable, good, strict=True):
        for array, expected in values_of(folder, name, backbone).items():
            np.testing.assert_allclose(reader.read(array, row, row + 1), expected, rtol=2**-10, atol=1e-5)
    stored = reader.read("aligned", 0, len(reader.ids))
    assert np.isnan(stored[~reader.readable]).all()
    scanned = np.concatenate([values["aligned"] for values in reader.scan(["aligned"])])
    np.testing.assert_array_equal(scanned, stored[reader.readable])
    batches = reader.batches(["aligned"], 0, len(reader.ids), batch_size=5, seed=0, epoch=0)
    mixed = np.concatenate([batch["aligned"] for batch in batches])
    order = np.concatenate(reader.epoch(["aligned"], 0, len(reader.ids), seed=0, epoch=0))
    assert sorted(order) == readable
    np.testing.assert_array_equal(mixed, stored[order])


def check_printed(result: Result) -> None:
    """No name moves the cursor, colours the terminal or begins a line."""
    lines = result.output.split("\n")
    assert not [line for line in lines if any(unicodedata.category(c) == "Cc" for c in line)]
    assert not [line for line in lines if line.startswith(("lines.png", "again.png", ".txt"))]


def cli(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words], color=True)  # as a terminal: click takes nothing out


@pytest.mark.parametrize("name", FORMATS)
def test_a_build_goes_through_every_bad_and_odd_image(zoo: Path, tmp_path: Path, name: str) -> None:
    images, backbone = load_image_set(str(zoo)), tiny_backbone()
    plan = plan_store(images, backbone, "native", "float16", 4, name)
    outcome = build_store(images, backbone, plan, tmp_path, max_unreadable=0.5)
    assert (outcome.extracted, outcome.missing) == (len(images), 0)
    check(open_store(outcome.path), zoo, backbone, images.ignored)


@pytest.mark.parametrize("name", FORMATS)
def test_the_command_line_goes_through_every_bad_and_odd_image(zoo: Path, tmp_path: Path, pixels: Backbone, name: str) -> None:
    words = ("build-store", "--backbone", "pixels", "--images", zoo, "--stores", tmp_path, "--format", name, "--no-probes")
    result = cli(*words, "--max-unreadable", "0.5")
    assert result.exit_code == 0, result.output
    check_printed(result)
    store = Path(result.stdout.splitlines()[-1])
    assert f"{len(LEFT_OUT)} files" in result.stderr
    assert "left out: .hidden.png, notes\\n.txt, pipe.png" in result.stderr
    check(open_store(store), zoo, pixels, load_image_set(str(zoo)).ignored)
    quarantined = [line for line in result.stderr.splitlines() if line.startswith("quarantined: ")]
    assert len(quarantined) == len(BAD)
    assert "quarantined: empty\\nagain.png: the file is empty (0 bytes)" in quarantined
    again = cli(*words)  # what is quarantined already stops no complete store
    assert (again.exit_code, "complete; nothing to do" in again.stderr) == (0, True)
    for shown in (cli("verify", store, "--deep"), cli("inspect", store), cli("stores", "--stores", tmp_path), again):
        assert shown.exit_code == 0
        check_printed(shown)
    facts = json.loads(cli("inspect", store, "--json").stdout)
    assert {entry["image_id"] for entry in facts["quarantined"]} == BAD.keys()
    (listed,) = json.loads(cli("stores", "--stores", tmp_path, "--json").stdout)
    rows = SOUND + len(ODD) + len(KINDS) + len(BAD)
    assert (listed["rows"], listed["quarantined"], listed["state"]) == (rows, len(BAD), "sealed")


def test_without_leave_a_build_stops_with_examples_and_the_way_out(zoo: Path, tmp_path: Path) -> None:
    allowed = r"\d of 29 images are unreadable, more than the 1\.0% allowed \(.*\)\. Fix or remove them, .*--max-unreadable"
    with pytest.raises(BuildError, match=re.compile(allowed, re.DOTALL)) as caught:
        built_store(tmp_path, load_image_set(str(zoo)), tiny_backbone())
    assert any(f"{name}: " in str(caught.value) for name in BAD)
    result = cli("build-store", "--backbone", "pixels", "--images", zoo, "--stores", tmp_path, "--no-probes")
    assert (result.exit_code, result.stdout) == (1, "")
    assert re.search(f"error: {allowed}", result.stderr, re.DOTALL)
    assert not list(tmp_path.glob("pixels-*/manifest.json"))


def test_the_examples_of_a_stopped_build_are_printed_harmlessly(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "photos", 2)
    for name in ("empty\nagain.png", "red\x1b[31m.png"):
        (folder / name).touch()
    result = cli("build-store", "--backbone", "pixels", "--images", folder, "--stores", tmp_path / "stores", "--no-probes")
    assert result.exit_code == 1
    assert "unreadable, more than" in result.stderr
    check_printed(result)


@pytest.mark.parametrize("name", FORMATS)
def test_an_image_that_changes_under_the_build_stops_it(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And costs the block in hand: its bytes put back, the same command goes on."""
    monkeypatch.setattr("posenet_store.images.reading.WAITS", ())
    photos, backbone = write_images(tmp_path / "photos", 14), tiny_backbone()
    images, copy = load_image_set(str(photos)), shutil.copytree(photos, tmp_path / "kept")
    expected = built_store(tmp_path / "whole", images, backbone, file_format=name)
    (photos / expected.ids[-1]).write_bytes(b"other")
    with pytest.raises(BuildError, match=rf"{expected.ids[-1]} can't be read \(it changed while the store was being built"):
        built_store(tmp_path / "stores", images, backbone, file_format=name)
    shutil.copy(copy / expected.ids[-1], photos)
    plan = plan_store(images, backbone, "native", "float32", 4, name)
    assert build_store(images, backbone, plan, tmp_path / "stores", batch_size=2).extracted == 2
    assert open_store(tmp_path / "stores" / plan.spec.folder).manifest["store_id"] == expected.manifest["store_id"]
