"""Position embeddings that are zero or shuffled: what moves in the image, and what stays."""

import pytest
import torch
import torchvision
from torch import Tensor, nn

from posenet_store.backbones.positions import replace_positions
from posenet_store.errors import UsageError


@pytest.fixture
def network() -> nn.Module:
    """A ViT of 4 x 4 patches and a class token."""
    torch.manual_seed(0)
    module: nn.Module = torchvision.models.VisionTransformer(32, 8, 2, 2, 12, 12).eval()
    module.num_prefix_tokens = 1  # type: ignore[assignment]
    return module


def embedding(network: nn.Module) -> Tensor:
    return network.get_parameter("encoder.pos_embedding").detach().clone()


def patches(network: nn.Module, images: Tensor) -> Tensor:
    """The tokens of the last block, without the class token: [B, 16, C]."""
    outputs: list[Tensor] = []
    handle = network.get_submodule("encoder.layers").register_forward_hook(lambda _m, _i, output: outputs.append(output))
    with torch.inference_mode():
        network(images)
    handle.remove()
    return outputs[0][:, 1:]


def test_without_embeddings_a_network_does_not_know_where_patches_lie(network: nn.Module) -> None:
    images = torch.rand(1, 3, 32, 32)
    turned = images.roll(8, dims=3)  # by one patch
    expected = patches(network, images).view(1, 4, 4, -1).roll(1, dims=2)
    assert not torch.allclose(patches(network, turned).view(1, 4, 4, -1), expected, atol=1e-3)
    replace_positions(network, "zero", "own")
    expected = patches(network, images).view(1, 4, 4, -1).roll(1, dims=2)
    torch.testing.assert_close(patches(network, turned).view(1, 4, 4, -1), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("positions", ["zero", "shuffled"])
def test_the_class_token_keeps_its_embedding(network: nn.Module, positions: str) -> None:
    before = embedding(network)
    replace_positions(network, positions, "own")
    after = embedding(network)
    assert torch.equal(after[:, 0], before[:, 0])
    assert not torch.equal(after, before)


def test_shuffled_embeddings_are_the_same_ones_in_one_order(network: nn.Module) -> None:
    before = embedding(network)
    replace_positions(network, "shuffled", "own")
    after = embedding(network)
    assert not torch.equal(after[0, 1:], before[0, 1:])
    assert torch.equal(after[0, 1:].sort(dim=0).values, before[0, 1:].sort(dim=0).values)


def test_a_network_without_embeddings_is_refused() -> None:
    with pytest.raises(UsageError, match="no position embedding"):
        replace_positions(nn.Sequential(nn.Conv2d(3, 4, 3)), "zero", "own")
