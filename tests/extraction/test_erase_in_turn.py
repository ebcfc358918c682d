"""Erasers of several stages: nothing of the targets is left at any of them once all are erased together."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from posenet_store.backbones.backbone import Backbone
from posenet_store.backbones.erasing import Erasers, add_eraser, erase_inside
from posenet_store.errors import BuildError, UsageError
from posenet_store.extraction.erase_in_turn import fit_erasers_in_turn
from posenet_store.heads.targets import make_target_map
from posenet_store.images.image_set import ImageSet
from posenet_store.images.sources import load_image_set
from posenet_store.resampling import resize_to_grid
from posenet_store.sweep.stage_eraser import fit_stage_eraser
from tests.support.small import built_store, tiny_backbone, write_images

TARGETS = ("H", "V")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    return load_image_set(str(write_images(tmp_path_factory.mktemp("turn") / "photos", 20)))


def correlate(backbone: Backbone, images: ImageSet, target: str = "H") -> dict[str, float]:
    """Return the largest correlation of a channel with a target at each stage, over images and positions of the grid."""
    pixels = np.stack([images.read(index, 32) for index in range(len(images))])
    goal = np.tile(make_target_map(target, 28).ravel(), len(images))
    return {
        stage: max(map(abs, (_correlate(channel, goal) for channel in _flatten(maps))))
        for stage, maps in backbone.features(torch.from_numpy(pixels)).items()
    }


def _flatten(maps: torch.Tensor) -> NDArray[np.float64]:
    grid = resize_to_grid(maps, corners=False).double().numpy()
    return np.asarray(grid.transpose(1, 0, 2, 3).reshape(grid.shape[1], -1))


def _correlate(channel: NDArray[np.float64], goal: NDArray[np.float64]) -> float:
    return float(np.corrcoef(channel, goal)[0, 1]) if np.ptp(channel) else 0.0


def erase_at_all(backbone: Backbone, erasers: list[Erasers]) -> Backbone:
    for of_stages in erasers:
        for stage, module in of_stages.modules.items():
            add_eraser(backbone, module, of_stages.parts[stage])
    return backbone


def test_nothing_is_left_at_any_stage(images: ImageSet, tmp_path: Path) -> None:
    """1e-4: the running network is in float32. Each stage fitted on the plain network leaves a hundred times as much."""
    backbone = tiny_backbone()
    plain = correlate(backbone, images)
    erasers = fit_erasers_in_turn(images, backbone, TARGETS)
    assert correlate(backbone, images) == plain  # the network is as before
    assert erasers.dimensions == {"f1": 2, "f2": 2, "f3": 2}
    erasers.save(tmp_path / "all.safetensors")
    erased = erase_inside(tiny_backbone(), str(tmp_path / "all.safetensors"))
    for target in TARGETS:
        left = correlate(erased, images, target)
        assert max(left.values()) < 1e-4 < min(plain.values())
    store = built_store(tmp_path / "stores", images, tiny_backbone())
    apart = erase_at_all(tiny_backbone(), [fit_stage_eraser(store, stage, TARGETS) for stage in ("f1", "f2", "f3")])
    assert max(correlate(apart, images).values()) > 1e-2


def test_one_stage_is_as_from_the_sums_of_a_store(images: ImageSet, tmp_path: Path) -> None:
    """1e-6: the store holds the same features in float32."""
    store = built_store(tmp_path / "stores", images, tiny_backbone())
    for seed in (None, 3):
        ours = fit_erasers_in_turn(images, tiny_backbone(), TARGETS, ("f2",), seed).parts["f2"]
        theirs = fit_stage_eraser(store, "f2", TARGETS, seed).parts["f2"]
        both = [parts["left"] @ parts["right"] for parts in (ours, theirs)]
        torch.testing.assert_close(both[0], both[1], rtol=0, atol=1e-6 * float(both[1].abs().max()))


def test_random_directions_are_as_many_at_each_stage(images: ImageSet) -> None:
    draws = [fit_erasers_in_turn(images, tiny_backbone(), TARGETS, ("f3", "f1"), seed) for seed in (0, 0, 1)]
    assert [list(draw.modules) for draw in draws] == [["f1", "f3"]] * 3
    assert draws[0].dimensions == {"f1": 2, "f3": 2}
    assert draws[0].sha256 == draws[1].sha256 != draws[2].sha256
    assert draws[2].label == "erased-random1-f1+f3"


def test_what_can_not_be_erased_is_said(images: ImageSet, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'f9'"):
        fit_erasers_in_turn(images, tiny_backbone(), TARGETS, ("f9",))
    with pytest.raises(UsageError, match="erased already"):
        fit_erasers_in_turn(images, replace(tiny_backbone(), erase="f1.safetensors"), TARGETS)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/image.png").write_bytes(b"no image")
    with pytest.raises(BuildError, match="none of the 1 images"):
        fit_erasers_in_turn(load_image_set(str(tmp_path / "bad")), tiny_backbone(), TARGETS)
