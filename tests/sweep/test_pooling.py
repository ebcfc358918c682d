"""Pooled features, and classifying from them where an image was placed."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from posenet_store.errors import UsageError
from posenet_store.images.sources import load_image_set
from posenet_store.sweep.pooling import classify_places, pool_features
from tests.support.runs import cli
from tests.support.small import built_store, tiny_backbone, write_images
from tests.support.terminal import show_in_terminal


def test_pooled_features_are_means_over_positions(tmp_path: Path) -> None:
    images = load_image_set(str(write_images(tmp_path / "photos", 6)))
    reader = built_store(tmp_path / "stores", images, tiny_backbone(), "readout")
    expected = reader.read("f3", 0, 6).astype(np.float64).mean(axis=(2, 3))
    np.testing.assert_allclose(pool_features(reader, "f3").numpy(), expected, rtol=1e-12)


def test_places_that_features_know_are_told_and_others_are_not() -> None:
    rng = np.random.default_rng(0)
    places = rng.integers(0, 4, 400)
    features = torch.from_numpy(np.eye(4)[places] + rng.normal(0, 0.1, (400, 4)))
    assert classify_places(features, places.tolist(), 4).share == 1
    chance = classify_places(torch.from_numpy(rng.normal(0, 1, (400, 4))), places.tolist(), 4)
    assert chance.images == 80
    assert chance.find_bounds()[0] < 0.25 < chance.find_bounds()[1]
    with pytest.raises(UsageError, match="too few"):
        classify_places(features[:20], places[:20].tolist(), 4)


def test_the_command_compares_grids_and_paddings(tmp_path: Path) -> None:
    words: list[str | Path] = ["pooling", "--images", write_images(tmp_path / "photos", 40), "--device", "cpu"]
    words += ["--stores", tmp_path / "stores"]
    words += ["--backbone", "resnet18", "--weights", "random:0", "--size", "64", "--grid", "2", "--paddings", "zeros,circular"]
    rows = json.loads(cli(*words, "--json").stdout)
    assert [(row["grid"], row["padding"], row["images"], row["chance"]) for row in rows] == [
        (2, "zeros", 8, 0.25),
        (2, "circular", 8, 0.25),
    ]
    assert all(row["low"] <= row["accuracy"] <= row["high"] for row in rows)
    assert "2x2   .250" in show_in_terminal(80, *words)
    assert cli(*words, "--paddings", "zeros,x").exit_code == 2
    assert cli(*words, "--grid", "1").exit_code == 2
