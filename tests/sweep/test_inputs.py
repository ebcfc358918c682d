"""What a head reads of a store."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from posenet_store.errors import UsageError
from posenet_store.store.reader import Reader
from posenet_store.sweep.assemble import assemble_input
from posenet_store.sweep.inputs import parse_input
from tests.support.small import store_with_probes


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    root = tmp_path_factory.mktemp("inputs")
    return store_with_probes(root / "stores", root / "photos", count=6)


def test_aligned_is_three_channels_a_tap(reader: Reader) -> None:
    source = parse_input("aligned", reader.spec)
    values = {"aligned": reader.read("aligned", 0, 5)}
    assert source.channels == 9
    assert torch.equal(assemble_input(source, values), torch.from_numpy(values["aligned"]))


def test_a_stage_of_aligned_is_its_channels(reader: Reader) -> None:
    values = {"aligned": reader.read("aligned", 0, 5)}
    source = parse_input("aligned:f3+f1", reader.spec)
    stored = torch.from_numpy(values["aligned"])
    assert torch.equal(assemble_input(source, values), torch.cat([stored[:, 6:9], stored[:, :3]], dim=1))


def test_full_keeps_every_channel_and_resizes_bilinearly(reader: Reader) -> None:
    source = parse_input("full:f1+f3", reader.spec)
    assert source.channels == 8 + 16
    assert source.arrays == ("f1", "f3")
    values = {name: reader.read(name, 0, 2) for name in source.arrays}
    expected = torch.cat([F.interpolate(torch.from_numpy(values[n]), (28, 28), mode="bilinear") for n in source.arrays], 1)
    assert torch.equal(assemble_input(source, values), expected)


def test_half_precision_is_widened(reader: Reader) -> None:
    source = parse_input("aligned", reader.spec)
    assert assemble_input(source, {"aligned": np.ones((1, 9, 28, 28), np.float16)}).dtype == torch.float32


@pytest.mark.parametrize(("text", "message"), [("everything", "accepted: aligned"), ("full:f9", "accepted: f1, f2, f3")])
def test_an_unknown_input_names_the_known(reader: Reader, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_input(text, reader.spec)


def test_full_needs_a_native_store(reader: Reader) -> None:
    with pytest.raises(UsageError, match="--layout native"):
        parse_input("full", replace(reader.spec, layout="aligned"))


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("rows", [1, 11, 24])
def test_threads_resize_shares_of_the_rows(reader: Reader, rows: int, threads: int) -> None:
    """Shares are empty, of a few rows, and of several steps of a few rows."""
    source, before = parse_input("full:f1+f3", reader.spec), torch.get_num_threads()
    rng = np.random.default_rng(0)
    shapes = {name: reader.spec.arrays[name] for name in source.arrays}
    values = {name: rng.standard_normal((rows, *shape)).astype(np.float16) for name, shape in shapes.items()}
    resized = [
        F.interpolate(torch.from_numpy(value).float(), (28, 28), mode="bilinear", align_corners=False)
        for value in values.values()
    ]
    torch.set_num_threads(threads)
    try:
        assert torch.equal(assemble_input(source, values), torch.cat(resized, dim=1))
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
