"""Channels ranked by mirror images, and exact heads without the first ones."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from posenet_store.errors import UsageError
from posenet_store.heads.moments import MomentAccumulator
from posenet_store.heads.protocols import RidgeProtocol
from posenet_store.heads.ridge import solve_ridge
from posenet_store.heads.targets import make_target_map
from posenet_store.images.sources import load_image_set
from posenet_store.resampling import resize_to_grid
from posenet_store.store.reader import Reader
from posenet_store.sweep.channel_removal import DRAWS, rank_channels, score_without
from posenet_store.sweep.pooling import pool_features
from tests.support.runs import cli
from tests.support.small import built_store, folder, tiny_backbone, write_images


@pytest.fixture(scope="module")
def readers(tmp_path_factory: pytest.TempPathFactory) -> list[Reader]:
    """The stores of 20 images and of their mirror images."""
    home = tmp_path_factory.mktemp("channels")
    write_images(home / "photos", 20)
    sets = [load_image_set(f"{home}/photos{way}") for way in ("", "@mirrored")]
    return [built_store(home / "stores", images, tiny_backbone(), "readout") for images in sets]


def test_channels_are_ranked_by_the_definition(readers: list[Reader]) -> None:
    plain, mirrored = (reader.read("f3", 0, 20).astype(np.float64).mean(axis=(2, 3)) for reader in readers)
    differences = np.abs(plain - mirrored).mean(axis=0)
    ranking = rank_channels(*(pool_features(reader, "f3") for reader in readers))
    assert ranking.channels.tolist() == sorted(range(16), key=lambda channel: -differences[channel])
    np.testing.assert_allclose(ranking.differences, np.sort(differences)[::-1], rtol=1e-9)
    np.testing.assert_allclose(ranking.signed, (plain - mirrored).mean(axis=0)[ranking.channels], rtol=1e-9, atol=1e-12)


def test_heads_without_channels_are_those_of_a_tap_that_never_had_them(readers: list[Reader]) -> None:
    order = rank_channels(*(pool_features(reader, "f3") for reader in readers)).channels.tolist()
    features = resize_to_grid(torch.from_numpy(readers[0].read("f3", 0, 20).astype(np.float32)), corners=False)
    removals = score_without(readers[0], "f3", order, [0, 5], ["H", "G"])
    assert [(removal.target, removal.removed) for removal in removals] == [("H", 0), ("G", 0), ("H", 5), ("G", 5)]
    for removal in removals:
        rest = features[:, sorted(order[removal.removed :])]
        goal = make_target_map(removal.target, 28)
        groups = []
        for start, stop in RidgeProtocol().split_rows(16):
            sums = MomentAccumulator(1, 0)
            sums.add(rest[start:stop])
            groups.append(sums.moments())
        (head,) = solve_ridge([group for group in groups if group], [torch.from_numpy(goal.copy())], RidgeProtocol())
        maps = (torch.einsum("bchw,c->bhw", rest[16:].double(), head.weight[:, 0, 0]) + head.bias).numpy()
        expected = [spearmanr(values.ravel(), goal.ravel()).statistic for values in maps]
        np.testing.assert_allclose(removal.spc, expected, atol=1e-6)  # sums of other order of the channels' products
        assert removal.random.shape == (4, DRAWS)
        if not removal.removed:
            np.testing.assert_allclose(removal.random, np.tile(removal.spc[:, None], DRAWS), atol=1e-12)


def test_one_channel_at_least_remains(readers: list[Reader]) -> None:
    with pytest.raises(UsageError, match="16 channels can't be removed"):
        score_without(readers[0], "f3", list(range(16)), [0, 16], ["H"])


def test_the_command_prints_both_tables(readers: list[Reader], tmp_path: Path) -> None:
    words: tuple[str | Path, ...] = ("channels", *map(folder, readers))
    rows = list(csv.DictReader(io.StringIO(cli(*words, "--remove", "0", "--remove", "4", "--format", "csv").stdout)))
    assert [(row["target"], row["removed"]) for row in rows] == [(t, k) for t in ("H", "V", "G") for k in ("0", "4")]
    assert all(float(row["spc_low"]) <= float(row["spc"]) <= float(row["spc_high"]) for row in rows)
    ranked = list(csv.DictReader(io.StringIO(cli(*words, "--tap", "f2", "--list", "--format", "csv").stdout)))
    assert len(ranked) == 12
    assert cli(*words).stdout.count("H ") == 2  # without 0 and 10 of 16 channels
    assert "removed" in cli(*words, "--remove", "1", "--target", "abs-ramp:0").stdout
    for wrong in (["--tap", "f9"], ["--target", "HH"], ["--remove", "16"]):
        assert cli(*words, *wrong).exit_code == 2
    assert cli("channels", folder(readers[0]), tmp_path).exit_code == 2
    images = load_image_set(str(write_images(tmp_path / "photos", 3)))
    other = built_store(tmp_path / "stores", images, tiny_backbone(), "aligned")
    assert cli("channels", folder(readers[0]), folder(other)).exit_code == 2
    assert cli("channels", folder(other), folder(other)).exit_code == 2
