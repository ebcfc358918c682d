"""Backbone: a frozen torchvision CNN with weights, preprocessing and named taps; the only owner of torchvision."""

import re
import warnings
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from pickle import UnpicklingError
from typing import cast
from urllib.error import URLError

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor

from posenet_store.compute import autocast, check_compute, is_compiled, prepare
from posenet_store.errors import PosenetStoreError, UsageError, first_line, unknown
from posenet_store.padding import check_padding, repad
from posenet_store.specs import ZEROS, Preprocess, Tap
from posenet_store.states import unwrapped
from posenet_store.taps import PIXELS, tap_modules
from posenet_store.weights import Weights, fed, resolve, state_digest

LARGEST = 4097
"""One more than the largest side of an image that is looked at for one that fits."""


class _LastTap(Exception):
    """Raised by the last tap's hook: nothing behind it is computed."""


class _Pixels(nn.Module):
    """No network at all: the preprocessed image is its only tap (the paper's "PosENet alone")."""

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        pixels: Tensor = self.image(images)
        return pixels


@dataclass(frozen=True)
class Backbone:
    """A frozen network in evaluation mode on one device; `taps` are in the order of the forward pass."""

    name: str
    weights: str
    weights_sha256: str
    tap_set: str
    taps: tuple[Tap, ...]
    preprocess: Preprocess
    module: nn.Module
    device: torch.device
    compute: str = "float32"
    padding: str = ZEROS

    def inputs(self, images: Tensor) -> Tensor:
        """Preprocess uint8 [B, S, S, 3] into float32 [B, 3, S, S] on the backbone's device."""
        return preprocess(images.to(self.device, non_blocking=True), self.preprocess)

    @torch.inference_mode()
    def features(self, images: Tensor) -> dict[str, Tensor]:
        """Return {tap name: float32 [B, C, H, W]} of uint8 images [B, S, S, 3], from one forward pass."""
        with autocast(self.compute, self.device):
            if is_compiled(self.compute):
                outputs: dict[str, Tensor] = self.module(self.inputs(images))
            else:
                outputs = tapped(self.module, [(tap.name, tap.module) for tap in self.taps], self.inputs(images))
        return {tap.name: outputs[tap.name].float() for tap in self.taps}


@lru_cache
def _constants(spec: Preprocess, device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and deviation, float32 [1, 3, 1, 1]; kept, as sending them to a GPU would wait for what runs there."""
    mean, std = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (spec.mean, spec.std))
    return mean, std


def preprocess(images: Tensor, spec: Preprocess) -> Tensor:
    """Turn uint8 [B, S, S, 3] RGB into float32 [B, 3, S, S]: reorder, scale, subtract the mean, divide by std.

    >>> preprocess(torch.full((1, 1, 1, 3), 255, dtype=torch.uint8), Preprocess(1, 1 / 255, (0.5,) * 3, (0.5,) * 3))[0, :, 0, 0]
    tensor([1., 1., 1.])
    """
    channels = images.permute(0, 3, 1, 2)
    if spec.order == "BGR":
        channels = channels.flip(1)
    mean, std = _constants(spec, images.device)
    return (channels.to(torch.float32) * spec.scale - mean) / std


def tapped(module: nn.Module, taps: Sequence[tuple[str, str]], inputs: Tensor) -> dict[str, Tensor]:
    """Run `module` once and return what comes out of each (name, module path); stops behind the last one."""
    outputs: dict[str, Tensor] = {}
    last = taps[-1][0]

    def keep(name: str) -> object:
        def hook(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            outputs[name] = output
            if name == last:
                raise _LastTap

        return hook

    handles = [module.get_submodule(path).register_forward_hook(keep(name)) for name, path in taps]  # type: ignore[arg-type]
    try:
        module(inputs)
    except _LastTap:
        pass
    finally:
        for handle in handles:
            handle.remove()
    return outputs


def _build(name: str) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        module: nn.Module = torchvision.models.get_model(name, weights=None)
    return module


def _imagenet_state(name: str) -> Mapping[str, Tensor]:
    """torchvision's own IMAGENET1K_V1 file, downloaded once into torch's cache and checked by its hash."""
    entry = getattr(torchvision.models.get_model_weights(name), "IMAGENET1K_V1", None)
    if entry is None:
        raise UsageError(f"torchvision has no `imagenet` weights for {name}; accepted here: a file, random:SEED")
    cache = Path(torch.hub.get_dir(), "checkpoints")
    kept = cache / Path(entry.url).name
    try:
        loaded: object = entry.get_state_dict(progress=True, check_hash=True, weights_only=True)
    except (URLError, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", error)
        raise PosenetStoreError(
            f"the weights of {name} can't be downloaded ({reason}). On a machine with network, fetch {entry.url} "
            f"and place it in {cache}, or give the file: --weights FILE.pth"
        ) from None
    except OSError:
        raise  # no room, or no permission: the file is not to blame
    except Exception as error:  # a damaged file in the cache, whose hash torch does not check, can end anywhere in its reader
        reason = first_line(error)
        if isinstance(error, UnpicklingError):  # torch's own text advises to allow the code
            reason = "there are no tensors in it, or there is code, which is never run"
        raise PosenetStoreError(f"the downloaded weights of {name} are damaged: {reason}; delete {kept} if it exists") from None
    return unwrapped(loaded, kept)


def _load(module: nn.Module, state: Mapping[str, Tensor], name: str) -> None:
    """Load `state`; parts of the network that no tap needs (its classifier) may be missing from it."""
    own = module.state_dict()
    foreign = sorted(set(state) - set(own))
    wrong = sorted(key for key in set(state) & set(own) if state[key].shape != own[key].shape)
    needed = (key for key in set(own) - set(state) if not key.endswith("num_batches_tracked"))
    missing = sorted(key for key in needed if not key.startswith(("classifier.", "fc.")))
    for problem, keys in (("has foreign entries", foreign), ("has entries of another shape", wrong), ("lacks", missing)):
        if keys:
            raise UsageError(f"the weights do not fit {name}: the file {problem}: {', '.join(keys[:3])} ({len(keys)} in all)")
    own.update(state)  # `own` carries the version of each module, which MNASNet insists on and no safetensors file has
    module.load_state_dict(own)


def _parametrised(name: str, weights: Weights) -> tuple[nn.Module, str]:
    """Return the network with its parameters, and their digest."""
    if name == PIXELS:
        return _Pixels(), state_digest({})
    if weights.seed is not None:
        with torch.random.fork_rng():
            torch.manual_seed(weights.seed)
            module = _build(name)
        return module, state_digest(module.state_dict())
    found = _imagenet_state(name) if weights.state is None else weights.state
    # torchvision's DenseNet files still say `denselayer1.norm.1.weight`, its modules `denselayer1.norm1.weight`
    state = {re.sub(r"(\.denselayer\d+\.(?:norm|conv))\.([12]\.)", r"\1\2", key): value for key, value in found.items()}
    module = _build(name)
    _load(module, state, name)
    return module, state_digest(state)


def _without_classifier(module: nn.Module) -> nn.Module:
    """Drop the fully connected layers, which no tap reads (500 MB of VGG's)."""
    for head in ("classifier", "fc"):
        if hasattr(module, head):
            setattr(module, head, nn.Identity())
    return module


def tap_shapes(module: nn.Module, modules: Sequence[str], size: int) -> tuple[Tap, ...]:
    """Return the taps f1, f2, ... with the shapes that a size x size image gives."""
    named = [(f"f{number}", path) for number, path in enumerate(modules, 1)]
    with torch.inference_mode():
        outputs = tapped(module, named, torch.zeros(1, 3, size, size))
    return tuple(Tap(name, path, tuple(outputs[name].shape[1:])) for name, path in named)  # type: ignore[arg-type]


def _taps_of(name: str, module: nn.Module, modules: Sequence[str], size: int) -> tuple[Tap, ...]:
    """`tap_shapes`; where nothing is left of the image before the last tap, a UsageError with the size that it takes."""
    try:
        return tap_shapes(module, modules, size)
    except RuntimeError:
        bare = deepcopy(module).to("meta")  # shapes only
        least = bisect_left(range(LARGEST), True, lo=size, key=lambda side: _fits(bare, modules, side))
        if least == LARGEST:
            raise
        raise UsageError(
            f"{name}: nothing is left of a {size}x{size} image before its last tap; give --size {least} or more"
        ) from None


def _fits(module: nn.Module, modules: Sequence[str], size: int) -> bool:
    try:
        tapped(module, list(zip(modules, modules, strict=True)), torch.zeros(1, 3, size, size, device="meta"))
    except RuntimeError:
        return False
    return True


def device_named(name: str) -> torch.device:
    """Return the torch device for auto, cpu, cuda or cuda:K; raises UsageError if it does not exist here."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise unknown("device", name, ("auto", "cpu", "cuda", "cuda:K"))
    if name == "cpu":
        return torch.device(name)
    if not torch.cuda.is_available():
        raise UsageError(f"--device {name}: this machine has no usable CUDA device; use --device auto or cpu")
    device, count = torch.device(name), torch.cuda.device_count()
    if (device.index or 0) >= count:
        raise UsageError(
            f"--device {name}: this machine has {count} CUDA device{'s' * (count > 1)}, the last is cuda:{count - 1}"
        )
    return device


def _compiled(module: nn.Module, taps: Sequence[Tap], example: Tensor, compute: str) -> nn.Module:
    """Return a compiled network that returns its taps, run once; raises PosenetStoreError where torch can't compile it."""
    cut = create_feature_extractor(module, {tap.module: tap.name for tap in taps}, suppress_diff_warning=True)
    compiled = cast(nn.Module, torch.compile(cut.eval()))
    try:
        with torch.inference_mode(), autocast(compute, example.device):
            compiled(example)
    except Exception as error:  # a missing compiler, an operation it can't do: whatever ends its own machinery
        raise PosenetStoreError(
            f"torch can't compile this network here ({first_line(error)}); leave --compile out, or install a C++ compiler"
        ) from None
    return compiled


def load_backbone(
    name: str,
    weights: str = "imagenet",
    tap_set: str = "report",
    device: str = "auto",
    compute: str = "float32",
    padding: str = ZEROS,
    preprocess: str = "weights",
    size: int | None = None,
) -> Backbone:
    """Return the frozen Backbone `name`; raises UsageError for unknown names, PosenetStoreError for broken weights.

    `compute` is one of `specs.COMPUTES`: the precision of convolutions (others than float32 by autocast), and whether the
    network is compiled. In each of them batch normalisation is folded into the convolutions before it.
    `padding` is the convolutions' (`padding.py`), `preprocess` and `size` are the input's (`weights.fed`); the parameters
    are the same for all.

    >>> backbone = load_backbone("pixels", device="cpu")
    >>> {tap: tuple(value.shape) for tap, value in backbone.features(torch.zeros(2, 28, 28, 3, dtype=torch.uint8)).items()}
    {'f1': (2, 3, 28, 28)}
    """
    where = device_named(device)
    check_compute(compute, where)
    compute = "float32" if name == PIXELS else compute  # nothing is computed
    modules = tap_modules(name, tap_set)
    if name != PIXELS and name not in torchvision.models.list_models(module=torchvision.models):
        raise unknown("backbone", name, (PIXELS, *torchvision.models.list_models(module=torchvision.models)))
    check_padding(name, padding)
    found = fed(resolve(weights, name), preprocess, size)
    module, digest = _parametrised(name, found)
    module = repad(_without_classifier(module), padding).eval().requires_grad_(False)
    taps = _taps_of(name, module, modules, found.preprocess.size)
    module = prepare(module.to(where), modules, compute)
    if is_compiled(compute):
        side = found.preprocess.size
        module = _compiled(module, taps, torch.zeros(1, 3, side, side, device=where), compute)
    kept_set = "" if name == PIXELS else tap_set
    return Backbone(name, found.label, digest, kept_set, taps, found.preprocess, module, where, compute, padding)
