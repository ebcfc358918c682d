"""The sums of a moment group: what is added, in which form it is taken from a block, and what that costs."""

from collections.abc import Hashable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from posenet_store.heads.device_moments import DeviceMomentAccumulator, count_images_of_device
from posenet_store.heads.moments import MomentAccumulator, Moments
from posenet_store.heads.products import count_images_per_product
from posenet_store.heads.tap_moments import TapMomentAccumulator, count_coordinates
from posenet_store.heads.tap_sums import TapSumAccumulator
from posenet_store.specs import GRID
from posenet_store.sweep.assemble import InputBlock
from posenet_store.sweep.cell import output_size
from posenet_store.sweep.grouping import MomentGroup, select_channels
from posenet_store.sweep.inputs import Input
from posenet_store.sweep.stopwatch import repeat_random_image


@dataclass(frozen=True)
class GroupSums:
    """The sums of a moment group, of blocks as they lie in the store: of taps at their own sizes, or of unfolded inputs.

    Those of all channels keep the sums of each tap's maps too (see `MomentGroup.keeps_maps`).
    """

    group: MomentGroup
    accumulator: MomentAccumulator | TapMomentAccumulator | DeviceMomentAccumulator
    maps: TapSumAccumulator | None

    @classmethod
    def start(cls, group: MomentGroup, source: Input, device: str | None = None) -> "GroupSums":
        """Return the sums of no image yet; a `device` makes the second moments, if there is one."""
        maps = TapSumAccumulator() if group.keeps_maps(source) else None
        if device is not None:
            return cls(group, DeviceMomentAccumulator(torch.device(device), *group.shape, source.aligns_corners), maps)
        sums = TapMomentAccumulator(source.aligns_corners) if group.reads_taps else MomentAccumulator(*group.shape)
        return cls(group, sums, maps)

    def add(self, block: InputBlock) -> None:
        """Add the images of a block."""
        if isinstance(self.accumulator, MomentAccumulator):
            self.accumulator.add(select_channels(block.grid, self.group.channels))
        else:
            self.accumulator.add(block.taps if self.group.reads_taps else [select_channels(block.grid, self.group.channels)])
        if self.maps is not None:
            self.maps.add(block.stored)

    def moments(self) -> Moments | None:
        """Return the sums, None if there was no image; raises PosenetStoreError if a feature is not finite."""
        moments = self.accumulator.moments()
        return moments and replace(moments, taps=self.maps.sums if self.maps else ())

    def to_tensors(self) -> dict[str, Tensor]:
        """Return what is kept of the sums; raises PosenetStoreError if a feature is not finite."""
        moments = self.moments()
        return moments.to_tensors() if moments else {}


@dataclass(frozen=True)
class SumsTrial:
    """Sums of random images for a plan: each step adds as many as are multiplied at a time."""

    group: MomentGroup
    source: Input
    device: str | None = None

    @property
    def kind(self) -> Hashable:
        """What tells it from other work."""
        taps = self.source if self.group.reads_taps else None
        return "moments", self.device, self.group.width, self.group.shape, taps

    @property
    def _numbers(self) -> int:
        """How many numbers of an image are multiplied."""
        if self.group.reads_taps:
            return count_coordinates(self.source.tap_shapes)
        return (self.group.unknowns - 1) * output_size(*self.group.shape) ** 2

    @property
    def images(self) -> int:
        """The images of a step."""
        if self.device is not None:
            return count_images_of_device(self.group.unknowns - 1)
        return count_images_per_product(self._numbers)

    @property
    def memory(self) -> int:
        """Bytes of a step: the numbers, and as many that they are made from."""
        return 2 * self.images * self._numbers * 8

    def add_steps(self, steps: int) -> None:
        """Sum the images of that many steps."""
        group_sums, images = GroupSums.start(self.group, self.source, self.device), steps * self.images
        sums, maps = group_sums.accumulator, group_sums.maps
        shapes = self.source.tap_shapes if self.group.reads_taps else [(self.group.width, GRID)]
        taps = [repeat_random_image(images, channels, side) for channels, side in shapes]
        if isinstance(sums, MomentAccumulator):
            sums.add(taps[0])
        else:
            sums.add(taps)
        if isinstance(sums, DeviceMomentAccumulator):
            sums.wait()
        if maps is not None:
            maps.add([torch.rand(1, *shape).expand(images, -1, -1, -1) for shape in self.source.stored_shapes])
