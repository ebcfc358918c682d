"""What can be wrong with a network as the user types it, found before torch is imported."""

import re
from pathlib import Path

from posenet_store.backbones.taps import list_tap_modules
from posenet_store.errors import UsageError, unknown
from posenet_store.specs import PIXELS, BackboneSpec

WEIGHTS = ("imagenet", "hed", "random:SEED", "a .pth or .safetensors file")
SUFFIXES = (".pth", ".pt", ".safetensors")
"""Of files of weights."""
DEVICES = ("auto", "cpu", "cuda", "cuda:K")


def check_weights(source: str, backbone: str) -> None:
    """Raise UsageError if there are no such weights, or not for this backbone.

    >>> check_weights("random:7", "resnet18")
    """
    path = Path(source).expanduser()
    if backbone == PIXELS or source == "imagenet" or re.fullmatch(r"random:\d+", source):
        return
    if source == "hed":
        if backbone != "vgg16":
            raise UsageError(f"the weights `hed` are for vgg16, not {backbone}; accepted here: imagenet, a file, random:SEED")
    elif path.suffix not in SUFFIXES:
        raise unknown("weights", source, WEIGHTS)
    elif not path.is_file():
        raise UsageError(f"weights file {path} does not exist; accepted: {', '.join(WEIGHTS)}")


def check_device(name: str) -> None:
    """Raise UsageError if no device is called so; whether it is there, torch tells."""
    if not re.fullmatch(r"auto|cpu|cuda(:(0|[1-9]\d?))?", name):
        raise unknown("device", name, DEVICES)


def check_names(spec: BackboneSpec) -> None:
    """Raise UsageError if backbone, taps, weights or device can't be what they are called."""
    if spec.name is not None:
        list_tap_modules(spec.name, spec.taps)
        check_weights(spec.weights, spec.name)
    check_device(spec.device)
