"""Turn what a network's modules return into maps [B, C, H, W]: channels last, or tokens of a transformer.

Images are square, and so are the maps: where height or width is, shows in the shape. Networks follow timm's conventions:
`output_fmt` is "NHWC" if channels come last, and `num_prefix_tokens` counts the tokens before those of the patches.
"""

from dataclasses import dataclass
from math import isqrt

from torch import Tensor, nn

from posenet_store.errors import UsageError


@dataclass(frozen=True)
class MapFormat:
    """How a network's modules return maps; `prefix` names the tokens that precede the patches and are set aside."""

    channels_last: bool = False
    prefix: tuple[str, ...] = ()


CHANNELS_FIRST = MapFormat()
TOKENS = {"cls_token": "class", "class_token": "class", "dist_token": "distillation", "reg_token": "register"}
"""Attributes of timm's and torchvision's transformers, parameters [1, number, C] -> what their tokens are."""


def find_format(module: nn.Module) -> MapFormat:
    """Return the format of a network's maps.

    >>> from torch import zeros
    >>> network = nn.Module(); network.num_prefix_tokens = 3
    >>> network.cls_token, network.reg_token = (nn.Parameter(zeros(1, count, 192)) for count in (1, 2))
    >>> find_format(network).prefix
    ('class', 'register', 'register')
    """
    count = getattr(module, "num_prefix_tokens", 0)
    tokens = ((name, getattr(module, attribute, None)) for attribute, name in TOKENS.items())
    names = tuple(name for name, token in tokens if isinstance(token, Tensor) for _ in range(token.shape[1]))
    return MapFormat(getattr(module, "output_fmt", "") == "NHWC", names if len(names) == count else ("prefix",) * count)


def count_prefix(output: object, form: MapFormat) -> int | None:
    """Return how many tokens of a module's output [B, N, C] precede those of a square grid of patches, None if it has none.

    Networks whose class token joins the patches late (CaiT) have none at first.
    """
    tokens = output.shape[1] if isinstance(output, Tensor) and output.dim() == 3 else 0
    counts = (count for count in (len(form.prefix), 0) if tokens > count and isqrt(tokens - count) ** 2 == tokens - count)
    return next(counts, None)


def take_prefix(output: Tensor, form: MapFormat) -> Tensor:
    """Return the tokens [B, N, C] of a module's output that precede its patches; N is 0 for a map.

    >>> from torch import zeros
    >>> form = MapFormat(prefix=("class",))
    >>> [tuple(take_prefix(zeros(shape), form).shape) for shape in ((2, 1 + 14 * 14, 192), (2, 3, 7, 7))]
    [(2, 1, 192), (2, 0, 3)]
    """
    prefix = count_prefix(output, form)
    return output.flatten(2).transpose(1, 2)[:, :0] if prefix is None else output[:, :prefix]


def convert_to_map(output: object, form: MapFormat) -> Tensor:
    """Return the map [B, C, H, W] of a module's output; raises UsageError, with what came, if it is none.

    >>> from torch import zeros
    >>> tuple(convert_to_map(zeros(2, 1 + 14 * 14, 192), MapFormat(prefix=("class",))).shape)
    (2, 192, 14, 14)
    """
    if not isinstance(output, Tensor):
        raise UsageError(f"returns a {type(output).__name__}")
    if output.dim() == 4:
        _, second, third, fourth = output.shape
        last = second == third and (form.channels_last or third != fourth)
        return output.permute(0, 3, 1, 2) if last else output
    if (prefix := count_prefix(output, form)) is not None:
        side = isqrt(output.shape[1] - prefix)
        patches: Tensor = output[:, prefix:].transpose(1, 2).unflatten(2, (side, side))
        return patches
    if output.dim() == 3:
        raise UsageError(f"returns {output.shape[1]} tokens, which are no square grid of patches")
    raise UsageError(f"returns a tensor of shape {list(output.shape[1:])} for each image")
