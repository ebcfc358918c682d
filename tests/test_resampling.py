"""The report's transformation, restated image by image."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from posenet_store.resampling import align_taps, resize_to_grid

SHAPES = ((64, 112, 112), (128, 56, 56), (256, 28, 28), (512, 14, 14), (512, 7, 7))
# C channels to 3: output d reads around (d + 1/2) C/3 - 1/2, so two neighbours each
READ = (
    {10, 11, 31, 32, 52, 53},
    {20, 21, 63, 64, 106, 107},
    {42, 43, 127, 128, 212, 213},
    {84, 85, 255, 256, 426, 427},
    {84, 85, 255, 256, 426, 427},
)


def features(seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, *shape, generator=generator).relu() * 100 for shape in SHAPES]


def test_aligned_is_the_reports_interpolation_of_each_image_and_tap() -> None:
    taps = features()
    for image in range(2):
        # The report's code: one image at a time, the feature map as one volume of size [C, H, W].
        volumes = [tap[image][None, None] for tap in taps]
        expected = [F.interpolate(v, size=(3, 28, 28), mode="trilinear", align_corners=False)[0, 0] for v in volumes]
        torch.testing.assert_close(align_taps(taps)[image], torch.cat(expected), rtol=1e-6, atol=1e-6)


def test_taps_follow_one_another() -> None:
    constant = [torch.full((1, *shape), float(number)) for number, shape in enumerate(SHAPES)]
    assert align_taps(constant)[0, :, 5, 5].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4]


@pytest.mark.parametrize("number", range(5))
def test_only_six_channels_of_a_tap_are_read(number: int) -> None:
    """The report's largest departure from the paper: of 512 channels, 84, 85, 255, 256, 426 and 427 matter."""
    tap, read = features()[number], READ[number]
    changed = tap.clone()
    changed[:, [c for c in range(tap.shape[1]) if c not in read]] += 1000
    assert torch.equal(align_taps([changed]), align_taps([tap]))
    for channel in read:
        copy = tap.clone()
        copy[:, channel] += 1000
        assert not torch.equal(align_taps([copy]), align_taps([tap]))


def test_an_image_at_the_grids_own_size_is_left_alone() -> None:
    image = torch.rand(2, 3, 28, 28, generator=torch.Generator().manual_seed(0)) * 255
    assert torch.equal(align_taps([image]), image)
    assert torch.equal(resize_to_grid(image, False), image)
    assert torch.equal(resize_to_grid(image, True), image)


@pytest.mark.parametrize("corners", [False, True])
@pytest.mark.parametrize("number", range(5))
def test_all_channels_are_resized_as_torch_does(number: int, corners: bool) -> None:
    tap = features()[number]
    expected = F.interpolate(tap, (28, 28), mode="bilinear", align_corners=corners)
    torch.testing.assert_close(resize_to_grid(tap, corners), expected, rtol=1e-6, atol=1e-6)
