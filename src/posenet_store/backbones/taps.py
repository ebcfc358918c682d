"""List the tap modules of each torchvision network; no other file has their names. timm lists those of its own.

The tap set `report` taps VGG after each pooling layer and ResNet after maxpool and each layer, as the reproducibility
report does; `official` taps VGG at the ReLU before the pooling and ResNet after its four layers only, as the authors' code
does. Other families have the same taps in both sets: the last block of each resolution, every block of a ViT.
"""

import re
from collections.abc import Sequence

from posenet_store.errors import UsageError, suggest
from posenet_store.specs import PIXELS, TAP_SETS

PIXEL_TAP = "image"
EVERY = "every:"

_VGG_POOLS = {
    "vgg11": (2, 5, 10, 15, 20),
    "vgg13": (4, 9, 14, 19, 24),
    "vgg16": (4, 9, 16, 23, 30),
    "vgg19": (4, 9, 18, 27, 36),
    "vgg11_bn": (3, 7, 14, 21, 28),
    "vgg13_bn": (6, 13, 20, 27, 34),
    "vgg16_bn": (6, 13, 23, 33, 43),
    "vgg19_bn": (6, 13, 26, 39, 52),
}
_LAYERS = "layer1 layer2 layer3 layer4"

# pattern of torchvision model names -> {tap set: module names}
_FAMILIES: tuple[tuple[str, dict[str, str]], ...] = (
    *(
        (
            name,
            {
                "report": " ".join(f"features.{pool}" for pool in pools),
                "official": " ".join(f"features.{pool - 1}" for pool in pools),
            },
        )
        for name, pools in _VGG_POOLS.items()
    ),
    (r"(resnet|resnext|wide_resnet)\d.*", {"report": f"maxpool {_LAYERS}", "official": _LAYERS}),
    (
        r"densenet\d+",
        {"report": "features.relu0 features.denseblock1 features.denseblock2 features.denseblock3 features.norm5"},
    ),
    (r"regnet_.*", {"report": "stem trunk_output.block1 trunk_output.block2 trunk_output.block3 trunk_output.block4"}),
    (r"convnext_.*", {"report": "features.1 features.3 features.5 features.7"}),
    (r"efficientnet_v2_s", {"report": "features.1 features.2 features.3 features.5 features.6"}),
    (r"efficientnet_(b\d|v2_[ml])", {"report": "features.1 features.2 features.3 features.5 features.7"}),
    (r"mobilenet_v2", {"report": "features.1 features.3 features.6 features.13 features.17"}),
    (r"mobilenet_v3_large", {"report": "features.1 features.3 features.6 features.12 features.15"}),
    (r"mobilenet_v3_small", {"report": "features.0 features.1 features.3 features.8 features.11"}),
    (r"mnasnet.*", {"report": "layers.7 layers.8 layers.9 layers.11 layers.13"}),
    (r"shufflenet_v2_.*", {"report": "conv1 maxpool stage2 stage3 stage4"}),
    (r"swin_.*", {"report": "features.1 features.3 features.5 features.7"}),
    *(
        (rf"vit_{size}_\d+", {"report": " ".join(f"encoder.layers.encoder_layer_{number}" for number in range(depth))})
        for size, depth in (("b", 12), ("l", 24), ("h", 32))
    ),
)


NAMES = (
    *(PIXELS, *_VGG_POOLS),
    *(f"resnet{depth}" for depth in (18, 34, 50, 101, 152)),
    *("resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d", "wide_resnet50_2", "wide_resnet101_2"),
    *(f"densenet{depth}" for depth in (121, 161, 169, 201)),
    *(f"convnext_{size}" for size in ("tiny", "small", "base", "large")),
    *(f"efficientnet_{size}" for size in ("b0", "b1", "b2", "b3", "b4", "b5", "b6", "b7", "v2_s", "v2_m", "v2_l")),
    *("mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small"),
    *(f"mnasnet{width}" for width in ("0_5", "0_75", "1_0", "1_3")),
    *(f"shufflenet_v2_x{width}" for width in ("0_5", "1_0", "1_5", "2_0")),
    *(f"swin_{size}" for size in ("t", "s", "b", "v2_t", "v2_s", "v2_b")),
    *("vit_b_16", "vit_b_32", "vit_l_16", "vit_l_32", "vit_h_14"),
)
"""Networks to suggest for a name that is near; torchvision says which there are."""


def check_tap_set(tap_set: str) -> None:
    """Raise UsageError for `every:N` without a number from 1."""
    if tap_set.startswith(EVERY) and not re.fullmatch(r"[1-9]\d*", tap_set.removeprefix(EVERY)):
        raise UsageError(f"--taps {tap_set} is not accepted; give a whole number from 1, as in every:3")


def select_taps(stages: Sequence[str], tap_set: str) -> tuple[str, ...]:
    """Return a network's tap modules: its stages, every N-th of them that ends with the last, or the user's own choice.

    >>> select_taps([f"blocks.{number}" for number in range(12)], "every:4")
    ('blocks.3', 'blocks.7', 'blocks.11')
    """
    check_tap_set(tap_set)
    if tap_set in TAP_SETS:
        return tuple(stages)
    if tap_set.startswith(EVERY):
        return tuple(stages)[:: -int(tap_set.removeprefix(EVERY))][::-1]
    return tuple(tap_set.split(","))


def list_tap_modules(backbone: str, tap_set: str = "report") -> tuple[str, ...]:
    """Return the module names of the taps f1, f2, ... of a torchvision model.

    `tap_set` may also be what `select_taps` accepts. Raises UsageError for a model without an entry.

    >>> list_tap_modules("resnet152")
    ('maxpool', 'layer1', 'layer2', 'layer3', 'layer4')
    >>> list_tap_modules("vgg16", "official")
    ('features.3', 'features.8', 'features.15', 'features.22', 'features.29')
    >>> list_tap_modules("resnet18", "layer1.0,layer1.1")
    ('layer1.0', 'layer1.1')
    """
    if backbone == PIXELS:
        return (PIXEL_TAP,)
    for pattern, sets in _FAMILIES:
        if re.fullmatch(pattern, backbone):
            return select_taps(sets.get(tap_set, sets["report"]).split(), tap_set)
    if tap_set not in TAP_SETS and not tap_set.startswith(EVERY):
        return select_taps((), tap_set)
    raise UsageError(
        f"unknown backbone {backbone!r}{suggest(backbone, NAMES)}; accepted: pixels, vgg16, resnet152 and torchvision's other "
        "vgg*, resnet*, resnext*, wide_resnet*, densenet*, regnet_*, convnext_*, efficientnet_*, mobilenet_*, mnasnet*, "
        "shufflenet_*, swin_*, vit_*, and timm:NAME"
    )
