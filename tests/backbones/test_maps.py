"""Channels last and tokens against maps made by hand."""

import pytest
import torch
import torchvision
from torch import Tensor, nn

from posenet_store.backbones.load import wrap_backbone
from posenet_store.backbones.maps import MapFormat, convert_to_map, find_format
from posenet_store.backbones.torchvision_models import build_network
from posenet_store.errors import UsageError
from posenet_store.specs import unit

IMAGES = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


class Tokens(nn.Module):
    """Gives each image as 8 x 8 patches of a mean colour, after `prefix` tokens that are -1."""

    def __init__(self, prefix: int, rows: int = 8) -> None:
        super().__init__()
        self.prefix, self.rows, self.out = prefix, rows, nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        patches = nn.functional.adaptive_avg_pool2d(images, (self.rows, 8)).flatten(2).transpose(1, 2)
        tokens: Tensor = self.out(torch.cat([-torch.ones(len(images), self.prefix, 3), patches], dim=1))
        return tokens


@pytest.mark.parametrize("prefix", [0, 1, 5])
def test_patch_tokens_become_a_map_and_the_others_are_set_aside(prefix: int) -> None:
    module = Tokens(prefix)
    module.num_prefix_tokens = prefix  # type: ignore[assignment]
    backbone = wrap_backbone(module, "own", ["out"], unit(32), device="cpu")
    (actual,) = backbone.features(IMAGES).values()
    expected = nn.functional.adaptive_avg_pool2d(IMAGES.permute(0, 3, 1, 2) / 255, 8)
    torch.testing.assert_close(actual, expected)
    assert backbone.form.prefix == ("prefix",) * prefix


@pytest.mark.parametrize(("prefix", "rows"), [(1, 8), (0, 7)])
def test_tokens_that_are_no_square_grid_are_refused_with_their_number(prefix: int, rows: int) -> None:
    with pytest.raises(UsageError, match=f"module out returns {prefix + 8 * rows} tokens"):
        wrap_backbone(Tokens(prefix, rows), "own", ["out"], unit(32), device="cpu")


def test_a_tuple_is_refused_with_its_kind() -> None:
    module = nn.Sequential(nn.Flatten(1, 2), nn.LSTM(32, 4))
    with pytest.raises(UsageError, match="module 1 returns a tuple"):
        wrap_backbone(module, "own", ["1"], unit(32), device="cpu")


@pytest.mark.parametrize(
    ("shape", "channels_last", "expected"),
    [
        ((2, 96, 56, 56), False, (2, 96, 56, 56)),
        ((2, 56, 56, 96), False, (2, 96, 56, 56)),  # only one of them can be square
        ((2, 56, 56, 96), True, (2, 96, 56, 56)),
        ((2, 96, 56, 56), True, (2, 96, 56, 56)),  # the patch embedding of a network whose blocks are channels last
        ((2, 8, 4, 6), False, (2, 8, 4, 6)),
    ],
)
def test_where_the_channels_are_shows_in_the_shape(
    shape: tuple[int, ...], channels_last: bool, expected: tuple[int, ...]
) -> None:
    assert convert_to_map(torch.zeros(shape), MapFormat(channels_last)).shape == expected


@pytest.mark.parametrize("channels_last", [False, True])
def test_the_network_says_where_they_are_if_all_sides_are_equal(channels_last: bool) -> None:
    output = torch.arange(8.0).view(1, 2, 2, 2)
    expected = output.permute(0, 3, 1, 2) if channels_last else output
    torch.testing.assert_close(convert_to_map(output, MapFormat(channels_last)), expected)


def test_torchvisions_transformers_are_known() -> None:
    with torch.device("meta"):
        assert find_format(build_network("vit_b_16")) == MapFormat(prefix=("class",))
        assert find_format(build_network("swin_t")) == MapFormat(channels_last=True)


def test_the_patches_of_torchvisions_vit_are_its_tokens_without_the_first() -> None:
    torch.manual_seed(0)
    module = torchvision.models.VisionTransformer(32, 8, 2, 2, 12, 12).eval()
    module.num_prefix_tokens = 1
    backbone = wrap_backbone(module, "own", ["encoder.layers.encoder_layer_0"], unit(32), device="cpu")
    outputs: list[Tensor] = []
    module.encoder.layers[0].register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    with torch.inference_mode():
        module(backbone.inputs(IMAGES))
    (actual,) = backbone.features(IMAGES).values()
    for row, column in ((0, 0), (0, 3), (2, 1)):
        torch.testing.assert_close(actual[:, :, row, column], outputs[0][:, 1 + 4 * row + column])
