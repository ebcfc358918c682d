"""Replace the padding of a trained network's modules; the parameters do not change.

The paper's causal experiment (arXiv 2001.08248, Table 4) removes the zero padding of VGG's convolutions and keeps the
weights. VGG is a chain of convolutions and unpadded poolings; in a ResNet two more things are padded:

- its max-pool, which torch pads with minus infinity, so that windows at the border are smaller. `none` removes that
  padding as well; with the other modes a padding layer precedes an unpadded pool.
- the sum at the end of a block. Without padding the main branch loses a border, and the skip branch must lose the same
  one. Each k x k convolution loses (k - 1) / 2 pixels of its own input on each side; in pixels of the block's input that is
  multiplied by the strides before it. The skip's *input* is cropped by the sum, so that both branches are centred on the
  same pixels, also with stride 2 (cropping the output can't do that: the unpadded convolution is centred on odd rows).
"""

from itertools import takewhile

from torch import Tensor, nn

from posenet_store.errors import UsageError, unknown
from posenet_store.specs import PADDINGS, ZEROS

FAMILIES = ("vgg", "resnet", "resnext", "wide_resnet")
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
    family = "".join(takewhile(lambda letter: not letter.isdigit(), backbone))
    if padding != ZEROS and family not in FAMILIES:
        names = ", ".join(f"{name}*" for name in FAMILIES)
        raise UsageError(f"--padding {padding} is not possible for {backbone}; accepted for it: zeros. Others are for {names}")


def _compute_margin(block: nn.Module) -> int:
    """Return how many pixels of a residual block's input its unpadded main branch loses on each side."""
    margin, stride = 0, 1
    for name, conv in block.named_children():
        if isinstance(conv, nn.Conv2d) and name != "downsample":
            margin += stride * conv.dilation[0] * (conv.kernel_size[0] // 2)
            stride *= conv.stride[0]
    return margin


def _make_pool(pool: nn.MaxPool2d, padding: str) -> nn.Module:
    """Return an unpadded max-pool, after a padding layer unless `padding` is none."""
    unpadded = nn.MaxPool2d(pool.kernel_size, pool.stride, ceil_mode=pool.ceil_mode)
    return unpadded if padding == "none" else nn.Sequential(_LAYERS[padding](pool.padding), unpadded)


def replace_padding(module: nn.Module, padding: str) -> nn.Module:
    """Give a VGG's or ResNet's convolutions and max-pools another padding, in place, and return the network.

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
            elif isinstance(child, nn.Conv2d):
                child.padding_mode = padding  # type: ignore[assignment]
        if padding == "none" and hasattr(parent, "downsample"):  # a residual block of torchvision's
            skip: nn.Sequential | None = parent.downsample  # type: ignore[assignment]
            parent.downsample = CroppedSkip(_compute_margin(parent), *(skip or ()))
    return module
