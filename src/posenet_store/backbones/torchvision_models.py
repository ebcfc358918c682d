"""Build torchvision's networks by name, with downloaded, loaded or random parameters."""

import errno
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from urllib.error import URLError

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor

from posenet_store.backbones.weights import IMAGENET, Weights, compute_state_digest
from posenet_store.errors import PosenetStoreError, UsageError, first_line, unknown
from posenet_store.files import sha256_file
from posenet_store.specs import PIXELS, Preprocess, Tap
from posenet_store.state_dicts import is_finite, unwrap_state_dict

CLASSIFIERS = ("classifier", "fc", "head", "heads")
"""What torchvision calls the layers behind the last tap."""


class _Pixels(nn.Module):
    """No network: the preprocessed image is the only tap (the paper's "PosENet alone")."""

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        pixels: Tensor = self.image(images)
        return pixels


def build_network(name: str, size: int | None = None) -> nn.Module:
    """Return a torchvision network with random parameters, without any inside `torch.device("meta")`.

    `size` is not needed: networks take any, or 224. Transformers get the attributes by which `maps` knows their tokens.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        module: nn.Module = torchvision.models.get_model(name, weights=None)
    if isinstance(module, torchvision.models.VisionTransformer):
        module.num_prefix_tokens = 1
    if isinstance(module, torchvision.models.SwinTransformer):
        module.output_fmt = "NHWC"
    return module


def find_preprocess(name: str) -> Preprocess:
    """Return how images are prepared for a network: for all of torchvision's alike."""
    return IMAGENET


def find_licence(name: str) -> str:
    """Return the licence of torchvision's weights, which are all IMAGENET1K_V1, as torchvision's README says."""
    return "BSD-3-Clause (torchvision); the terms of ImageNet may apply too"


def _load_imagenet_state(name: str) -> Mapping[str, Tensor]:
    """Load torchvision's IMAGENET1K_V1 file, which is downloaded to torch's cache once and compared with its hash."""
    entry = getattr(torchvision.models.get_model_weights(name), "IMAGENET1K_V1", None)
    if entry is None:
        raise UsageError(f"torchvision has no `imagenet` weights for {name}; accepted here: a file, random:SEED")
    cache = Path(torch.hub.get_dir(), "checkpoints")
    file = cache / Path(entry.url).name
    _check_cached_file(file, name)
    try:
        loaded: object = entry.get_state_dict(progress=True, check_hash=True, weights_only=True)
    except (URLError, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", error)
        raise PosenetStoreError(
            f"the weights of {name} can't be downloaded ({reason}). On a machine with network, fetch {entry.url} "
            f"and place it in {cache}, or give the file: --weights FILE.pth"
        ) from None
    except OSError as error:  # a full disk or missing permission: the file is not damaged
        if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise
        raise PosenetStoreError(
            f"the weights of {name} can't be kept in {cache} ({error.strerror}); set TORCH_HOME to a folder of your own"
        ) from None
    except Exception as error:  # a file whose name has no hash can raise anything
        reason = first_line(error)
        if isinstance(error, UnpicklingError):  # torch's own message advises to allow the code
            reason = "there are no tensors in it, or there is code, which is never run"
        raise PosenetStoreError(f"the downloaded weights of {name} are damaged: {reason}; delete {file} if it exists") from None
    return unwrap_state_dict(loaded, file)


def _check_cached_file(file: Path, name: str) -> None:
    """Raise PosenetStoreError if a cached file is not the one of its name, which ends in the first digits of its SHA-256.

    torch checks what it downloads, and believes what lies in its cache.
    """
    digits = re.search(r"-([0-9a-f]{8,})\.pth$", file.name)
    if digits and file.is_file() and not (digest := sha256_file(file)).startswith(digits[1]):
        raise PosenetStoreError(
            f"the downloaded weights of {name} are damaged: their SHA-256 begins with {digest[:8]}, not {digits[1]}; "
            f"delete {file} if it exists"
        )


def _assign_state(module: nn.Module, state: Mapping[str, Tensor], name: str) -> None:
    """Assign the parameters in `state` to a network on `meta`; a classifier that `state` lacks stays on `meta`."""
    own = module.state_dict()
    foreign = sorted(set(state) - set(own))
    wrong = sorted(key for key in set(state) & set(own) if state[key].shape != own[key].shape)
    others = sorted(key for key in set(state) & set(own) if state[key].is_floating_point() != own[key].is_floating_point())
    needed = (key for key in set(own) - set(state) if not key.endswith("num_batches_tracked"))
    missing = sorted(key for key in needed if key.partition(".")[0] not in CLASSIFIERS)
    problems = {
        "has foreign entries": foreign, "has entries of another shape": wrong, "has whole numbers for others": others,
        "lacks": missing,
    }  # fmt: skip
    for problem, keys in problems.items():
        if keys:
            raise UsageError(f"the weights do not fit {name}: the file {problem}: {', '.join(keys[:3])} ({len(keys)} in all)")
    for key, value in own.items():  # `own` has each module's version, which MNASNet requires and safetensors lacks
        if key in state:
            own[key] = state[key].to(value.dtype)
            if not is_finite(own[key]):
                raise UsageError(f"the weights do not fit {name}: {key} holds numbers that {value.dtype} does not")
        elif key.endswith("num_batches_tracked"):
            own[key] = torch.zeros_like(value, device="cpu")
    module.load_state_dict(own, assign=True)


def load_network(name: str, weights: Weights) -> tuple[nn.Module, str]:
    """Build the network `name` with its parameters; return it and the digest of the parameters.

    Unless weights are random, the network is built without memory (on `meta`) and takes over the loaded tensors. Its
    classifier is dropped.
    """
    if name == PIXELS:
        return _Pixels(), compute_state_digest({})
    if weights.seed is not None:
        with torch.random.fork_rng(devices=[]):  # weights are drawn on the CPU; GPUs are left alone
            torch.manual_seed(weights.seed)
            module = build_network(name)
        digest = compute_state_digest(module.state_dict())
        return drop_classifier(module), digest
    module, state = _load_trained(name, weights)
    return drop_classifier(module), compute_state_digest(state)


def _load_trained(name: str, weights: Weights) -> tuple[nn.Module, dict[str, Tensor]]:
    """Return a network with trained parameters, and these; a classifier that they lack stays on `meta`."""
    loaded = _load_imagenet_state(name) if weights.state is None else weights.state
    # torchvision's DenseNet files have `denselayer1.norm.1.weight`, its modules `denselayer1.norm1.weight`
    state = {re.sub(r"(\.denselayer\d+\.(?:norm|conv))\.([12]\.)", r"\1\2", key): value for key, value in loaded.items()}
    with torch.device("meta"):
        module = build_network(name)
    _assign_state(module, state, name)
    return module, state


def load_classifier(name: str, weights: Weights) -> nn.Module:
    """Return a trained network with its classifier; raises UsageError if the weights have none."""
    module, _ = _load_trained(name, weights)
    if any(parameter.is_meta for parameter in module.parameters()):
        raise UsageError(f"the weights of {name} have no classifier")
    return module


def drop_classifier(module: nn.Module) -> nn.Module:
    """Drop the fully connected layers, which no tap reads (500 MB of VGG's); in place."""
    for head in CLASSIFIERS:
        if hasattr(module, head):
            setattr(module, head, nn.Identity())
    return module


def complete_name(name: str) -> str:
    """Return the full name of a network, which is `name`; raises UsageError if it is neither torchvision's nor the pixels."""
    known = torchvision.models.list_models(module=torchvision.models)
    if name != PIXELS and name not in known:
        raise unknown("backbone", name, (PIXELS, *known))
    return name


def cut_at_taps(module: nn.Module, taps: Sequence[Tap]) -> nn.Module:
    """Return a network that returns its taps by name and computes nothing else."""
    cut: nn.Module = create_feature_extractor(module, {tap.module: tap.name for tap in taps}, suppress_diff_warning=True)
    return cut.eval()
