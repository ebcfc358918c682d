"""Threads that share a network, as those of a Dask worker do, get the features and parameters that they get alone."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from posenet_store.backbones.load import load_backbone, wrap_backbone
from posenet_store.specs import BackboneSpec
from posenet_store.threads import read_cpu_quota
from tests.support.small import tiny_backbone

THREADS = 4


@pytest.mark.parametrize(("text", "cores"), [("max 100000", None), ("250000 100000", 2), ("50000 100000", 1), (None, None)])
def test_a_container_has_the_cores_of_its_time(tmp_path: Path, text: str | None, cores: int | None) -> None:
    if text:
        (tmp_path / "cpu.max").write_text(text)
    assert read_cpu_quota(tmp_path / "cpu.max") == cores


def test_passes_of_several_threads_do_not_mix() -> None:
    backbone = tiny_backbone(size=64)
    images = [torch.randint(0, 256, (8, 64, 64, 3), dtype=torch.uint8) for _ in range(THREADS)]
    alone = [backbone.features(pixels) for pixels in images]
    with ThreadPoolExecutor(THREADS) as executor:
        together = list(executor.map(backbone.features, images * 8))
    for number, features in enumerate(together):
        for name, expected in alone[number % THREADS].items():
            assert torch.equal(features[name], expected), (number, name)


def test_networks_that_threads_load_at_once_are_those_of_their_seeds() -> None:
    specs = [BackboneSpec("resnet18", weights=f"random:{number % 2}", device="cpu") for number in range(THREADS)]
    alone = [load_backbone(spec).weights_sha256 for spec in specs[:2]]
    with ThreadPoolExecutor(THREADS) as executor:
        together = [backbone.weights_sha256 for backbone in executor.map(load_backbone, specs)]
    assert together == alone * 2


def test_a_network_of_ones_own_is_wrapped_while_others_are() -> None:
    module = tiny_backbone().module
    with ThreadPoolExecutor(THREADS) as executor:
        wrapped = list(executor.map(lambda number: wrap_backbone(module, f"net{number}", ["2", "0"], device="cpu"), range(8)))
    assert {tuple(tap.module for tap in backbone.taps) for backbone in wrapped} == {("0", "2")}
