"""Replace the padding of a trained network's modules; the parameters do not change.

The paper's causal experiment (arXiv 2001.08248, Table 4) removes the zero padding of VGG's convolutions and keeps the
weights. VGG is a chain of convolutions and unpadded poolings; in a ResNet two more things are padded:

- its max-pool, which torch pads with minus infinity, so that windows at the border are smaller. `none` removes that
  padding as well; with the other modes a padding layer precedes an unpadded pool.
- the sum at the end of a block. Without padding the main branch loses a border, and the skip branch must lose the same
  one. Each k x k convolution loses (k - 1) / 2 pixels of its own input on each side; in pixels of the block's input that is
  multiplied by the strides before it. The skip's *input* is cropped by the sum, so that both branches are centred on the
  same pixels, also with stride 2 (cropping the output can't do that: the unpadded convolution is centred on odd rows).

Reflected, repeated or circular borders leave every shape as it is, so any network can have them whose zeros all come from its
convolutions and max-pools; `check_no_zeros` watches one forward pass for others.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from posenet_store.errors import UsageError, unknown
from posenet_store.specs import PADDINGS, PIXELS, ZEROS

FAMILIES = ("vgg", "resnet", "resnext", "wide_resnet")
"""Networks whose padding can be removed; that of others can be replaced only."""
_LAYERS: dict[str, type[nn.Module]] = {
    "reflect": nn.ReflectionPad2d, "replicate": nn.ReplicationPad2d, "circular": nn.CircularPad2d,
}  # fmt: skip


class CroppedSkip(nn.Sequential):
    """A skip branch whose input is cropped by `margin` pixels on each side; without modules it is the identity.

    The parameters keep their names.
    """

    def __init__(self, margin: int, *modules: nn.Module) -> None:
        super().__init__(*modules)
        self.margin = margin

    def forward(self, x: Tensor) -> Tensor:
        """Crop [B, C, H, W] to [B, C, H - 2 margin, W - 2 margin] and apply the modules."""
        inner = slice(self.margin, -self.margin or None)
        cropped: Tensor = super().forward(x[..., inner, inner])  # type: ignore[no-untyped-call]
        return cropped


def check_padding(backbone: str, padding: str) -> None:
    """Raise UsageError if `backbone` does not support `padding`."""
    if padding not in PADDINGS:
        raise unknown("padding", padding, PADDINGS)
    if padding != ZEROS and backbone == PIXELS:
        raise UsageError(f"--padding {padding} is not possible for {PIXELS}, which have no padding")
    family = "".join(takewhile(lambda letter: not letter.isdigit(), backbone))
    if padding == "none" and family not in FAMILIES:
        names, others = ", ".join(f"{name}*" for name in FAMILIES), ", ".join(sorted({ZEROS, *_LAYERS}, reverse=True))
        raise UsageError(f"--padding none is not possible for {backbone}, only for {names}; accepted for it: {others}")


def _compute_margin(block: nn.Module) -> int:
    """Return how many pixels of a residual block's input its unpadded main branch loses on each side."""
    margin, stride = 0, 1
    for name, conv in block.named_children():
        if isinstance(conv, nn.Conv2d) and name != "downsample":
            margin += stride * conv.dilation[0] * (conv.kernel_size[0] // 2)
            stride *= conv.stride[0]
    return margin


class SameConv2d(nn.Conv2d):
    """A convolution with TensorFlow's uneven "SAME" padding, as timm's Conv2dSame, whose `border` is not zeros."""

    def __init__(self, conv: nn.Conv2d, border: str) -> None:
        super().__init__(1, 1, 1)  # everything is taken over from the other one
        self.__dict__.update(conv.__dict__)
        self.border = border

    def forward(self, x: Tensor) -> Tensor:
        """Pad [B, C, H, W] so that n pixels give n / stride, rounded up; an odd number of pixels has the larger half behind."""
        sides: list[int] = []
        for axis in (1, 0):  # torch wants those of the last axis first
            length, stride = x.shape[2 + axis], self.stride[axis]
            reach = self.dilation[axis] * (self.kernel_size[axis] - 1) + 1
            missing = max((-(-length // stride) - 1) * stride + reach - length, 0)
            sides += [missing // 2, missing - missing // 2]
        padded = functional.pad(x, sides, mode=self.border)
        return functional.conv2d(padded, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


def _make_pool(pool: nn.MaxPool2d, padding: str) -> nn.Module:
    """Return an unpadded max-pool, after a padding layer unless `padding` is none."""
    unpadded = nn.MaxPool2d(pool.kernel_size, pool.stride, ceil_mode=pool.ceil_mode)
    return unpadded if padding == "none" else nn.Sequential(_LAYERS[padding](pool.padding), unpadded)


def replace_padding(module: nn.Module, padding: str) -> nn.Module:
    """Give a network's convolutions and max-pools another padding, in place, and return the network.

    >>> from torch import zeros
    >>> stage = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.Conv2d(1, 1, 3, padding=1), nn.MaxPool2d(2))
    >>> replace_padding(stage, "none")(zeros(1, 1, 224, 224)).shape[2:]
    torch.Size([110, 110])
    """
    if padding == ZEROS:
        return module
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.MaxPool2d) and child.padding:
                setattr(parent, name, _make_pool(child, padding))
            elif isinstance(child, nn.Conv2d) and padding == "none":
                child.padding = (0, 0)
            elif (
                isinstance(child, nn.Conv2d) and type(child).__name__ == "Conv2dSame"
            ):  # timm's; if that is renamed, its zeros are found and refused
                setattr(parent, name, SameConv2d(child, padding))
            elif isinstance(child, nn.Conv2d):
                child.padding_mode = padding  # type: ignore[assignment]
        if padding == "none" and hasattr(parent, "downsample"):  # a residual block of torchvision's
            skip: nn.Sequential | None = parent.downsample  # type: ignore[assignment]
            parent.downsample = CroppedSkip(_compute_margin(parent), *(skip or ()))
    return module


class _ZeroWatch(TorchDispatchMode):
    """Collects the operations of a forward pass that pad with zeros, or whose windows are smaller at the border."""

    PADDED: Mapping[str, Callable[[Sequence[Any]], Any]] = {
        "convolution": lambda args: args[4],
        "constant_pad_nd": lambda args: args[1],
        "max_pool2d_with_indices": lambda args: args[3] if len(args) > 3 else 0,
        "avg_pool2d": lambda args: args[3] if len(args) > 3 else 0,
    }
    """Where each operation's arguments say how much it pads."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations: set[str] = set()

    def __torch_dispatch__(
        self, operation: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = operation.overloadpacket.__name__
        if name in self.PADDED:
            amount = self.PADDED[name](args)
            if any(amount) if isinstance(amount, Sequence) else amount:
                self.operations.add(name)
        return operation(*args, **kwargs or {})


@torch.no_grad()
def check_no_zeros(module: nn.Module, size: int, backbone: str, padding: str) -> None:
    """Raise UsageError if a network still pads with zeros for a size x size image, or never did.

    >>> check_no_zeros(replace_padding(nn.Sequential(nn.Conv2d(3, 1, 3, padding=1)), "reflect"), 8, "mine", "reflect")
    """
    convs = [child for child in module.modules() if isinstance(child, nn.Conv2d)]
    if padding != "none" and not any(isinstance(conv, SameConv2d) or any(conv.padding) for conv in convs):
        raise UsageError(f"--padding {padding} changes nothing of {backbone}: its convolutions have no padding")
    with _ZeroWatch() as watch:
        module(torch.zeros(1, 3, size, size))
    if watch.operations:
        raise UsageError(
            f"--padding {padding} is not possible for {backbone}: zeros remain in {', '.join(sorted(watch.operations))}, "
            "which are no padding of a convolution or max-pool; accepted for it: zeros"
        )
