"""Antisymmetric shares of kernels, against their definition in numpy."""

import csv
import io

import numpy as np
import pytest
import torch
from torch import nn

from posenet_store.backbones.kernel_symmetry import (
    LEFT_RIGHT,
    UP_DOWN,
    compute_antisymmetric_share,
    compute_chance_share,
    measure_symmetry,
)
from posenet_store.backbones.load import load_backbone, load_unfolded
from posenet_store.specs import BackboneSpec
from tests.support.runs import cli


@pytest.mark.parametrize("shape", [(8, 4, 3, 3), (6, 1, 5, 5), (3, 2, 7, 4)])
def test_a_share_is_that_of_the_odd_part(shape: tuple[int, ...]) -> None:
    kernels = np.random.default_rng(0).normal(size=shape)
    for axis, name in ((3, LEFT_RIGHT), (2, UP_DOWN)):
        flipped = np.flip(kernels, axis)
        odd, even = (kernels - flipped) / 2, (kernels + flipped) / 2
        share = np.sum(odd**2) / np.sum(kernels**2)
        assert np.sum(odd * even) == pytest.approx(0, abs=1e-9)
        assert compute_antisymmetric_share(torch.from_numpy(kernels), name) == pytest.approx(share, rel=1e-12)
        assert compute_antisymmetric_share(torch.from_numpy(even), name) == 0
        assert compute_antisymmetric_share(torch.from_numpy(odd), name) == pytest.approx(1)


@pytest.mark.parametrize("side", [2, 3, 4, 5, 7])
def test_chance_is_the_share_of_independent_numbers(side: int) -> None:
    kernels = torch.from_numpy(np.random.default_rng(0).normal(size=(200_000 // side**2, 1, side, side)))
    # of 200,000 numbers the share has a standard error below .002
    assert compute_antisymmetric_share(kernels, LEFT_RIGHT) == pytest.approx(compute_chance_share(side), abs=0.008)


def test_zeros_and_single_numbers_have_no_share() -> None:
    assert compute_antisymmetric_share(torch.zeros(2, 2, 3, 3), LEFT_RIGHT) is None
    assert compute_antisymmetric_share(torch.ones(2, 2, 3, 1), LEFT_RIGHT) is None


def test_layers_are_those_with_positions_and_their_own_numbers() -> None:
    wide = nn.Conv2d(4, 4, (1, 5), groups=4)
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), wide)
    first, last = measure_symmetry(module)
    assert (first.layer, first.kind, last.layer, last.kind) == ("0", "3x3", "3", "1x5 depthwise")
    assert last.up_down is None
    assert last.left_right == compute_antisymmetric_share(wide.weight, LEFT_RIGHT)


def test_batch_normalisation_is_not_folded_into_the_kernels() -> None:
    spec = BackboneSpec("resnet18", "random:0", device="cpu")
    module = load_unfolded(spec)
    assert any(isinstance(layer, nn.BatchNorm2d) for layer in module.modules())
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in load_backbone(spec).module.modules())
    shares = list(measure_symmetry(module))
    assert len(shares) == 17
    chance = [compute_chance_share(layer.shape[3]) for layer in shares]
    assert [layer.left_right for layer in shares] == pytest.approx(chance, abs=0.02)


def test_the_command_prints_what_was_measured() -> None:
    layers = list(measure_symmetry(load_unfolded(BackboneSpec("resnet18", "random:0", device="cpu"))))
    words = ("symmetry", "resnet18", "--weights", "random:0")
    rows = list(csv.DictReader(io.StringIO(cli(*words, "--format", "csv").stdout)))
    assert [row["layer"] for row in rows] == [layer.layer for layer in layers]
    assert [float(row["left_right"]) for row in rows] == [layer.left_right for layer in layers]
    assert "layer1.0.conv1  3x3" in cli(*words).stdout


@pytest.mark.parametrize(
    "words", [("vgg99",), ("pixels",), ("resnet18", "--weights", "none.pth"), ("resnet18", "--weights", "x")]
)
def test_what_has_no_kernels_is_one_sentence(words: tuple[str, ...]) -> None:
    result = cli("symmetry", *words)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
