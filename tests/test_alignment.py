"""The report's transformation, restated image by image."""

import torch
import torch.nn.functional as F
from torch import Tensor

from posenet_store.alignment import aligned, full

SHAPES = ((64, 112, 112), (128, 56, 56), (256, 28, 28), (512, 14, 14), (512, 7, 7))


def features(seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, *shape, generator=generator).relu() * 100 for shape in SHAPES]


def test_aligned_is_the_reports_interpolation_of_each_image_and_tap() -> None:
    taps = features()
    for image in range(2):
        # The report's code: one image at a time, the feature map as one volume of size [C, H, W].
        volumes = [tap[image][None, None] for tap in taps]
        expected = [F.interpolate(v, size=(3, 28, 28), mode="trilinear", align_corners=False)[0, 0] for v in volumes]
        torch.testing.assert_close(aligned(taps)[image], torch.cat(expected), rtol=1e-6, atol=1e-6)


def test_taps_follow_one_another() -> None:
    constant = [torch.full((1, *shape), float(number)) for number, shape in enumerate(SHAPES)]
    assert aligned(constant)[0, :, 5, 5].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4]


def test_only_six_channels_of_a_tap_are_read() -> None:
    """The report's largest departure from the paper: of 512 channels, 84, 85, 255, 256, 426 and 427 matter."""
    taps = features()
    read = {84, 85, 255, 256, 426, 427}
    changed = [tap.clone() for tap in taps]
    changed[4][:, [c for c in range(512) if c not in read]] += 1000
    assert torch.equal(aligned(changed), aligned(taps))
    for channel in read:
        one = [tap.clone() for tap in taps]
        one[4][:, channel] += 1000
        assert not torch.equal(aligned(one), aligned(taps))


def test_an_image_at_the_grids_own_size_is_left_alone() -> None:
    image = torch.rand(2, 3, 28, 28, generator=torch.Generator().manual_seed(0)) * 255
    assert torch.equal(aligned([image]), image)
    assert torch.equal(full([image]), image)


def test_full_keeps_all_channels() -> None:
    taps = features()
    found = full(taps)
    assert found.shape == (2, 1472, 28, 28)
    expected = F.interpolate(taps[1], (28, 28), mode="bilinear", align_corners=False)
    torch.testing.assert_close(found[:, 64:192], expected, rtol=1e-6, atol=1e-6)
