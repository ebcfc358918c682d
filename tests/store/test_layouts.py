"""Layouts keep different amounts of the same features: a head gets the same tensor from each that holds its input."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from posenet_store.errors import UsageError
from posenet_store.extraction.build import plan_store
from posenet_store.images.sources import load_image_set
from posenet_store.resampling import resize_to_grid
from posenet_store.specs import DTYPES, LAYOUTS, Tap
from posenet_store.store.chunking import count_row_bytes
from posenet_store.store.reader import Reader
from posenet_store.sweep.assemble import assemble_input
from posenet_store.sweep.inputs import parse_input
from tests.support.small import built_store, tiny_backbone, write_images

ROWS = 6
INPUTS = ("full", "full:f1", "full:f3+f2", "corners", "corners:f1+f3")
# Taps are 40x40 (beyond the grid), 20x20 and 10x10.
SIDE = 80


@pytest.fixture(scope="module", params=DTYPES)
def readers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Reader]:
    root = tmp_path_factory.mktemp("layouts")
    images, backbone = load_image_set(str(write_images(root / "photos", ROWS))), tiny_backbone(size=SIDE)
    return {layout: built_store(root / "stores", images, backbone, layout, request.param) for layout in LAYOUTS}


def assembled(reader: Reader, text: str) -> torch.Tensor:
    source = parse_input(text, reader.spec)
    return assemble_input(source, {name: reader.read(name, 0, ROWS) for name in source.arrays})


@pytest.mark.parametrize("text", INPUTS)
def test_native_and_readout_give_a_head_the_same_tensor(readers: dict[str, Reader], text: str) -> None:
    """float32: the same numbers, resized before or after they were stored. float16: two roundings of 2^-11 each, the
    one of the pixels that are averaged, the other of their average."""
    native, readout = (assembled(readers[layout], text) for layout in ("native", "readout"))
    assert native.shape == readout.shape == (ROWS, parse_input(text, readers["native"].spec).channels, 28, 28)
    if readers["native"].spec.dtype == "float32":
        torch.testing.assert_close(readout, native, rtol=1e-6, atol=1e-7)
    else:
        assert (readout - native).abs().max() <= 2 * 2**-11 * native.abs().max()


@pytest.mark.parametrize("text", ["aligned", "aligned:f2"])
def test_every_layout_holds_the_same_aligned_maps(readers: dict[str, Reader], text: str) -> None:
    first, *others = (assembled(readers[layout], text) for layout in LAYOUTS)
    for other in others:
        assert torch.equal(other, first)


def test_the_two_grids_are_torchs(readers: dict[str, Reader]) -> None:
    tap = torch.from_numpy(readers["native"].read("f1", 0, ROWS)).float()
    for text, corners in (("full:f1", False), ("corners:f1", True)):
        expected = F.interpolate(tap, (28, 28), mode="bilinear", align_corners=corners)
        torch.testing.assert_close(assembled(readers["native"], text), expected)
    assert not torch.allclose(resize_to_grid(tap, True), resize_to_grid(tap, False))


def test_readout_keeps_what_is_small_as_it_is(readers: dict[str, Reader]) -> None:
    spec = readers["readout"].spec
    assert list(spec.arrays) == ["f1", "f1_corners", "f2", "f3", "aligned"]
    for name in ("f2", "f3"):
        np.testing.assert_array_equal(readers["readout"].read(name, 0, ROWS), readers["native"].read(name, 0, ROWS))
    assert count_row_bytes(spec) < count_row_bytes(readers["native"].spec)


@pytest.mark.parametrize("text", ["full", "corners"])
def test_three_channels_are_not_all(readers: dict[str, Reader], text: str) -> None:
    with pytest.raises(UsageError, match="--layout native or readout"):
        parse_input(text, readers["aligned"].spec)


def test_readout_of_vgg_is_less_than_half_of_native() -> None:
    """Uncompressed; of ResNet-152, whose taps begin at 56x56, it is 0.71."""
    shapes = ((64, 112, 112), (128, 56, 56), (256, 28, 28), (512, 14, 14), (512, 7, 7))
    plan = plan_store(load_image_set("probes"), tiny_backbone(), "native", "float16")
    taps = tuple(Tap(f"f{number}", "", shape) for number, shape in enumerate(shapes, 1))
    sizes = {layout: count_row_bytes(replace(plan.spec, taps=taps, layout=layout)) for layout in LAYOUTS}
    assert sizes["readout"] < 0.42 * sizes["native"]
