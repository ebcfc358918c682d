"""Heads: initial values, prediction, files."""

from pathlib import Path

import pytest
import torch

from posenet_store.errors import UsageError
from posenet_store.heads.file import load_head, save_head
from posenet_store.heads.model import Heads, draw_head

MADE = {
    "cell": {"target": "H"}, "network_key": "k", "network": "tiny-random0", "backbone": "tiny",
    "images": "photos", "images_sha256": "i", "network_sha256": "n", "network_padding": "zeros", "weights_kind": "random",
}  # fmt: skip


def test_initial_weights_are_xavier_uniform() -> None:
    weight, _ = draw_head(15, 3, seed=1)
    bound = (6 / (15 * 9 + 9)) ** 0.5
    assert weight.abs().max() <= bound
    assert weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.15)


def test_a_seed_draws_the_same_head_and_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first, second, other = (draw_head(3, 3, seed)[0] for seed in (0, 0, 1))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize(("kernel", "padding"), [(1, 0), (3, 0), (3, 2), (7, 3)])
def test_prediction_is_torchs_convolution(kernel: int, padding: int) -> None:
    conv = torch.nn.Conv2d(4, 3, kernel, padding=padding).double()
    heads = Heads(conv.weight.detach(), conv.bias.detach(), padding)  # type: ignore[union-attr]
    inputs = torch.randn(2, 4, 28, 28, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(heads.predict(inputs), conv(inputs.double()).detach(), rtol=1e-12, atol=1e-12)


def test_a_head_survives_its_file(tmp_path: Path) -> None:
    weight, bias = draw_head(15, 3, seed=0)
    save_head(tmp_path / "head.safetensors", Heads(weight[None], bias[None], 1), 0, MADE)
    heads, made = load_head(tmp_path / "head.safetensors")
    assert torch.equal(heads.weight[0], weight)
    assert torch.equal(heads.bias[0], bias)
    assert heads.padding == 1
    assert made["cell"] == {"target": "H"}
    assert [path.name for path in tmp_path.iterdir()] == ["head.safetensors"]


@pytest.mark.parametrize("content", [b"", b"not a head", b"\x00" * 64])
def test_another_file_is_no_head(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(UsageError, match="not a head that a sweep wrote"):
        load_head(path)


def test_a_missing_head_says_where_heads_are(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="RUN/heads/"):
        load_head(tmp_path / "none.safetensors")


def test_a_head_without_its_origin_is_refused(tmp_path: Path) -> None:
    weight, bias = draw_head(3, 3, seed=0)
    save_head(tmp_path / "head.safetensors", Heads(weight[None], bias[None], 0), 0, {})
    with pytest.raises(UsageError, match="network_key"):
        load_head(tmp_path / "head.safetensors")
