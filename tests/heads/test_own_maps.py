"""Targets of the user's own: read safely, named by their content, resized as the published maps are, kept by a run."""

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from posenet_store.errors import DamageWarning, UsageError
from posenet_store.heads import own_maps
from posenet_store.heads.own_maps import load_maps, load_target, save_maps
from posenet_store.heads.targets import TARGETS, make_native_map, make_target_map

RAMP = make_native_map("H")


def save(path: Path, values: NDArray[Any]) -> Path:
    if path.suffix == ".npy":
        np.save(path, values)
    else:
        Image.fromarray(values).save(path)
    return path


def load(path: Path) -> str:
    return load_target(f"map:{path}")


@pytest.mark.parametrize("name", TARGETS)
def test_the_file_of_a_published_map_is_that_map(tmp_path: Path, name: str) -> None:
    target = load(save(tmp_path / "gt.png", make_native_map(name)))
    for size in (26, 28, 224):
        assert (make_target_map(target, size) == make_target_map(name, size)).all()
        assert (make_target_map(target, size, (-1, 1), True) == make_target_map(name, size, (-1, 1), True)).all()


def test_floating_point_maps_are_resized_by_the_same_filter(tmp_path: Path) -> None:
    side, size = 60, 26
    values = np.random.default_rng(0).uniform(size=(side, side))
    weights = np.empty((size, side))
    for position in range(size):  # the triangle filter, as wide as the reduction
        distance = np.abs(np.arange(side) + 0.5 - (position + 0.5) * side / size) / (side / size)
        weights[position] = np.maximum(0, 1 - distance) / np.maximum(0, 1 - distance).sum()
    target = make_target_map(load(save(tmp_path / "a.npy", values)), size)
    np.testing.assert_allclose(target, weights @ values @ weights.T, atol=2e-6)  # PIL computes in float32


def test_black_and_white_are_those_of_the_kind_of_numbers(tmp_path: Path) -> None:
    plain = make_target_map("H", 26)
    wide = RAMP.astype(np.uint16) * 257
    maps: list[NDArray[Any]] = [RAMP / 255, (RAMP / 255).astype(np.float32), wide]
    for number, values in enumerate(maps):
        target = load(save(tmp_path / f"{number}.npy", values))
        assert np.abs(make_target_map(target, 26) - plain).max() <= 0.51 / 255  # the 8-bit map is rounded
    Image.fromarray(wide).save(tmp_path / "wide.png")
    assert np.abs(make_target_map(load(tmp_path / "wide.png"), 26) - plain).max() <= 0.51 / 255


def test_a_map_is_named_by_its_content(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    names = [load(save(tmp_path / name, RAMP)) for name in ("a.png", "below/a.png", "a.npy")]
    assert len(set(names)) == 1
    assert names[0].startswith("map:a-")
    assert load(save(tmp_path / "a.png", RAMP.T)) != names[0]
    assert load(save(tmp_path / "=1 b.png", RAMP)).startswith("map:-1-b-")
    assert load_target(names[0]) == names[0]
    assert load_target("map:a.png", tmp_path) == load(tmp_path / "a.png")


def wrong_maps() -> dict[str, NDArray[Any]]:
    ramp = RAMP / 255
    return {
        "nan.npy": np.where(ramp > 0.5, np.nan, ramp), "inf.npy": np.where(ramp > 0.5, np.inf, ramp), "beyond.npy": ramp * 2,
        "below.npy": ramp - 1, "flat.npy": np.full((9, 9), 0.5), "nearly.npy": 0.5 + ramp / 1000, "grey.png": RAMP * 0 + 7,
        "oblong.png": RAMP[:9], "cube.npy": np.zeros((3, 3, 3)), "point.npy": np.zeros((1, 1)), "complex.npy": ramp + 0j,
        "objects.npy": np.array([[{}, {}], [{}, {}]]), "texts.npy": np.array([["a", "b"], ["c", "d"]]),
        "coloured.png": np.stack([RAMP, RAMP, RAMP.T], axis=2),
    }  # fmt: skip


@pytest.mark.parametrize("name", wrong_maps())
def test_what_makes_no_target_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=name):
        load(save(tmp_path / name, wrong_maps()[name]))


def crafted_header(shape: str) -> bytes:
    """The header of a .npy file of a shape, and eight bytes."""
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}}}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + bytes(8)


def crafted_png(side: int) -> bytes:
    """A PNG whose header says another size than its pixels have."""
    stream = io.BytesIO()
    Image.new("L", (4, 4)).save(stream, "PNG")
    data = stream.getvalue()
    return data[:16] + struct.pack(">II", side, side) + data[24:]


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\x93NUMPY", crafted_header("(9, 9)"), crafted_header("(99999, 99999)"), crafted_header("(-1, -1)"),
        crafted_header("(" * 50), b"\x80\x04]\x94.", b"PK\x03\x04" + bytes(64),
    ],
    ids=range(8),
)  # fmt: skip
def test_a_crafted_npy_file_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(UsageError, match=r"a\.npy"):
        load(tmp_path / "a.npy")


@pytest.mark.parametrize("content", [b"", b"GIF89a", crafted_png(9), crafted_png(60_000)], ids=range(4))
def test_a_crafted_png_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(UsageError, match=r"a\.png"):
        load(tmp_path / "a.png")


@pytest.mark.parametrize("path", ["/dev/zero", "/no/such/map.png", "/", "~nobody-knows/a.png"])
def test_what_is_no_file_is_one_sentence(path: str) -> None:
    with pytest.raises(UsageError):
        load_target(f"map:{path}")


def test_a_cell_never_names_a_file(tmp_path: Path) -> None:
    # a target comes with heads and runs of strangers
    path = save(tmp_path / "a.png", RAMP)
    with pytest.raises(UsageError, match="is not here"):
        make_target_map(f"map:{path}", 26)


def test_a_run_keeps_its_maps_for_other_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [load(save(tmp_path / "a.png", RAMP)), load(save(tmp_path / "b.npy", RAMP / 255))]
    expected = [make_native_map(name) for name in names]
    save_maps(tmp_path / "maps", ["H", *names])
    monkeypatch.setattr(own_maps, "_known", {})
    load_maps(tmp_path / "none")
    load_maps(tmp_path / "maps")
    for name, values in zip(names, expected, strict=True):
        assert (make_native_map(name) == values).all()
        assert make_native_map(name).dtype == values.dtype


def test_a_damaged_map_is_never_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = load(save(tmp_path / "a.png", RAMP))
    save_maps(tmp_path, [name])
    (path,) = tmp_path.glob("a-*.npy")
    path.write_bytes(path.read_bytes()[:-1] + b"\x07")
    monkeypatch.setattr(own_maps, "_known", {})
    with pytest.warns(DamageWarning, match="a-"):
        load_maps(tmp_path)
    with pytest.raises(UsageError, match="is not here"):
        make_native_map(name)


def test_a_map_that_vanishes_on_the_grid_is_refused(tmp_path: Path) -> None:
    speck = np.zeros((512, 512), np.uint8)
    speck[100, 100] = 20  # of 18x18 pixels that make a position
    with pytest.raises(UsageError, match="flat at the head's 28x28"):
        make_target_map(load(save(tmp_path / "speck.png", speck)), 28)
