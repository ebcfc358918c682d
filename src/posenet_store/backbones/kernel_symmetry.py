"""How far a network's kernels are from being their own mirror images: what lets a convolution tell left from right.

A kernel K is the sum of an even part, (K + flip K) / 2, and an odd part, (K - flip K) / 2, which are orthogonal. Its
*antisymmetric share* is that of the odd part in the sum of its squares, ||K - flip K||^2 / (4 ||K||^2): 0 for a kernel that is
its own mirror image, 1 for one that is the negative of it. Even kernels between equal borders give maps that are mirrored when
the image is: such maps know how far the sides are, and not which side is which.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

LEFT_RIGHT, UP_DOWN = 3, 2
"""The axis of a weight [O, I, h, w] that a flip reverses."""


@dataclass(frozen=True)
class LayerSymmetry:
    """The antisymmetric shares of a layer's kernels, all together; None on an axis on which they have one number.

    `shape` is that of the weight, (outputs, inputs of a group, height, width). A chance share is that of kernels of
    independent numbers, see `compute_chance_share`.
    """

    layer: str
    shape: tuple[int, int, int, int]
    groups: int
    left_right: float | None
    up_down: float | None

    @property
    def kind(self) -> str:
        """The size of the kernels, and whether each reads a single channel.

        >>> LayerSymmetry("conv", (8, 1, 3, 3), 8, 0.1, 0.2).kind
        '3x3 depthwise'
        """
        height, width = self.shape[2:]
        return f"{height}x{width}" + (" depthwise" if self.groups > 1 and self.shape[1] == 1 else "")


def compute_antisymmetric_share(weight: Tensor, axis: int) -> float | None:
    """Return the antisymmetric share of kernels [O, I, h, w] on an axis; None where all numbers are 0, or the axis has one.

    >>> compute_antisymmetric_share(torch.tensor([[[[-1.0, 0.0, 1.0]]]]), LEFT_RIGHT)
    1.0
    >>> compute_antisymmetric_share(torch.tensor([[[[1.0, 5.0, 1.0]]]]), LEFT_RIGHT)
    0.0
    """
    kernels = weight.detach().to(torch.float64)
    total = float((kernels**2).sum())
    if weight.shape[axis] < 2 or not total:
        return None
    return float(((kernels - kernels.flip(axis)) ** 2).sum()) / (4 * total)


def compute_chance_share(side: int) -> float:
    """Return the share that is expected of kernels of independent numbers of one variance, with `side` numbers on the axis.

    Half of the squares of all numbers but those in the middle, which are their own mirror images.

    >>> compute_chance_share(3), compute_chance_share(2)
    (0.3333333333333333, 0.5)
    """
    return (side - side % 2) / (2 * side)


def measure_symmetry(module: nn.Module) -> Iterator[LayerSymmetry]:
    """Yield the shares of each two-dimensional convolution with more than one position, in the network's order."""
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Conv2d) and max(layer.kernel_size) > 1:
            weight = layer.weight
            shares = [compute_antisymmetric_share(weight, axis) for axis in (LEFT_RIGHT, UP_DOWN)]
            outputs, inputs, height, width = weight.shape
            yield LayerSymmetry(name, (outputs, inputs, height, width), layer.groups, *shares)
