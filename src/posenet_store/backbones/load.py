"""Load a frozen Backbone: torchvision's or timm's by name, or the user's own network."""

import re
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from posenet_store.backbones import timm_models, torchvision_models
from posenet_store.backbones.backbone import Backbone, one_network_at_a_time, preprocess
from posenet_store.backbones.checks import check_names, is_timm
from posenet_store.backbones.device import parse_device
from posenet_store.backbones.erasing import erase_inside, read_erasers
from posenet_store.backbones.hed import find_hed_file
from posenet_store.backbones.inference import check_compute, is_compiled, prepare_network, set_precision
from posenet_store.backbones.lite0 import find_lite0_file
from posenet_store.backbones.maps import MapFormat
from posenet_store.backbones.measure import measure_taps, order_modules
from posenet_store.backbones.padding import check_no_zeros, check_padding, replace_padding
from posenet_store.backbones.positions import check_positions, replace_positions
from posenet_store.backbones.taps import list_tap_modules
from posenet_store.backbones.torchvision_models import cut_at_taps
from posenet_store.backbones.weights import (
    IMAGENET,
    change_input,
    compute_state_digest,
    load_weights,
    make_source_absolute,
)
from posenet_store.errors import PosenetStoreError, UsageError, first_line, is_out_of_memory, unknown
from posenet_store.files import sha256
from posenet_store.specs import LEARNED, PIXELS, TAP_SETS, TRAINED, WEIGHTS_KINDS, ZEROS, BackboneSpec, Preprocess, Tap


def _compile(module: nn.Module, taps: Sequence[Tap], inputs: Tensor, compute: str) -> nn.Module:
    """Compile the network up to its taps for batches of any size, and run it once on `inputs`, a batch of two.

    Raises PosenetStoreError if torch can't compile it here.
    """
    try:
        compiled = cast(nn.Module, torch.compile(cut_at_taps(module, taps)))
        with torch.inference_mode(), set_precision(compute, inputs.device):
            torch._dynamo.mark_dynamic(inputs, 0)
            compiled(inputs)
    except Exception as error:  # a missing compiler or an unsupported operation can raise anything
        raise PosenetStoreError(
            f"torch can't compile this network here ({first_line(error)}); leave --compile out, or install a C++ compiler"
        ) from None
    return compiled


@one_network_at_a_time
def check_backbone(spec: BackboneSpec) -> None:
    """Raise UsageError if `load_backbone` would not accept `spec`; no parameters are read, downloaded or drawn."""
    name, zoo = _check_names(spec), _find_zoo(spec)
    if spec.erase:
        read_erasers(spec.erase)
    if name != PIXELS:
        size = spec.size or zoo.find_preprocess(name).size
        module = replace_padding(_build_empty(zoo, name, size), spec.padding).eval()
        with torch.device("meta"):
            replace_positions(module, spec.positions, name)
            _find_taps(name, module, spec.taps, size, spec.padding)


def _build_empty(zoo: Any, name: str, size: int) -> nn.Module:
    """Return a network without numbers in its parameters."""
    try:
        with torch.device("meta"):
            module: nn.Module = zoo.build_network(name, size)
    except NotImplementedError:  # torchvision computes a RegNet's widths with tensors
        module = zoo.build_network(name, size).to("meta")
    return module


def _find_zoo(spec: BackboneSpec) -> Any:
    """Return the module that builds and loads the network: both have the same functions."""
    return timm_models if is_timm(spec.name or "") else torchvision_models


def _check_names(spec: BackboneSpec, emulate: bool = False) -> str:
    """Return the network's full name.

    Raises UsageError for a name, device, precision, padding or weights that do not exist or do not fit.
    """
    check_names(spec)
    device = parse_device(spec.device)
    if not emulate:
        check_compute(spec.compute, device)
    name: str = _find_zoo(spec).complete_name(spec.name or "")
    check_padding(name, spec.padding)
    check_positions(spec.positions)
    if spec.weights in (files := {"hed": find_hed_file, "lite0": find_lite0_file}) and name != PIXELS:
        files[spec.weights]()
    return name


def _find_taps(name: str, module: nn.Module, tap_set: str, size: int, padding: str) -> tuple[tuple[Tap, ...], MapFormat]:
    """Return a network's taps with their shapes, and the format of their maps.

    Raises UsageError for modules that can't be tapped, for a size that does not fit, and if another padding leaves zeros.
    """
    modules = timm_models.list_taps(name, module, tap_set) if is_timm(name) else list_tap_modules(name, tap_set)
    try:
        if padding != ZEROS:
            check_no_zeros(module, size, name, padding)
        if tap_set not in TAP_SETS:
            modules = order_modules(module, modules, size)
        taps, form = measure_taps(module, modules, size)
        if is_timm(name) and not next(module.parameters()).is_meta:
            timm_models.check_stages(module, taps, size)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise _explain_size(name, size, error) from None
    return taps, form


def _explain_size(name: str, size: int, error: Exception) -> Exception:
    """Return the UsageError for an image of a size that a network does not take, any other error as it is."""
    if re.search("input size|negative dimension", str(error)):  # torch's words on the CPU, and on meta until 2.7
        return UsageError(f"{name}: nothing is left of a {size}x{size} image before its last tap; give a larger --size")
    own = (timm_models if is_timm(name) else torchvision_models).find_preprocess(name).size
    if size == own or is_out_of_memory(error):
        return error
    return UsageError(f"{name} does not take {size}x{size} images ({first_line(error)}); give --size {own}")


@one_network_at_a_time
def load_backbone(spec: BackboneSpec | str, *, emulate: bool = False) -> Backbone:
    """Load a frozen network of torchvision or timm, given as a spec or by its name.

    Raises UsageError for unknown names, PosenetStoreError for broken weights.
    `compute` is one of `specs.COMPUTES`: the precision of convolutions (by autocast unless float32), and whether the network
    is compiled. Batch normalisation is always folded into the convolution before it. `padding` (see `padding`), `preprocess`
    and `size` (see `weights.change_input`) leave the parameters as they are; `positions` (see `positions`) replaces a
    transformer's position embeddings. `emulate` accepts on a CPU what only GPUs compute fast or at all: to plan what other
    machines will compute.

    >>> backbone = load_backbone(BackboneSpec("pixels", device="cpu"))
    >>> {tap: tuple(value.shape) for tap, value in backbone.features(torch.zeros(2, 28, 28, 3, dtype=torch.uint8)).items()}
    {'f1': (2, 3, 28, 28)}
    """
    spec = BackboneSpec(spec) if isinstance(spec, str) else spec
    name, zoo = _check_names(spec, emulate), _find_zoo(spec)
    device = parse_device("cpu" if name == PIXELS else spec.device)  # pixels: nothing is computed
    compute = "float32" if name == PIXELS else spec.compute
    weights = load_weights(spec.weights, name, zoo.find_preprocess(name), zoo.find_licence(name))
    weights = change_input(weights, spec.preprocess, spec.size)
    module, digest = zoo.load_network(name, weights)
    module = replace_padding(module, spec.padding).eval().requires_grad_(False)
    if spec.positions != LEARNED:
        replace_positions(module, spec.positions, name)
        digest = sha256(f"positions {spec.positions} {digest}".encode())
        weights = replace(weights, label=f"{weights.label}-positions-{spec.positions}")
    size = weights.preprocess.size
    taps, form = _find_taps(name, module, spec.taps, size, spec.padding)
    modules = tuple(tap.module for tap in taps)
    module = prepare_network(module.to(device), modules, compute)
    if is_compiled(compute):
        with torch.inference_mode():  # as in every later pass: torch compiles for other tensors anew
            inputs = preprocess(torch.zeros(2, size, size, 3, dtype=torch.uint8, device=device), weights.preprocess)
        module = _compile(module, taps, inputs, compute)
    backbone = Backbone(
        name=name,
        weights=weights.label,
        weights_sha256=digest,
        tap_set="" if name == PIXELS else spec.taps if spec.taps in TAP_SETS else ",".join(modules),
        taps=taps,
        preprocess=weights.preprocess,
        module=module,
        device=device,
        compute=compute,
        padding=spec.padding,
        weights_kind=weights.kind,
        weights_source=make_source_absolute(spec.weights),
        licence=weights.licence,
        positions=spec.positions,
        form=form,
    )
    return erase_inside(backbone, spec.erase) if spec.erase else backbone


@one_network_at_a_time
def load_classifier(spec: BackboneSpec) -> Backbone:
    """Load a trained network with its classifier, for `Backbone.classify`.

    Raises UsageError for pixels, random weights, weights without a classifier and a network that is to be compiled.
    """
    backbone, zoo = load_backbone(replace(spec, erase="")), _find_zoo(spec)
    if backbone.weights_kind != TRAINED or is_compiled(spec.compute):
        raise UsageError(f"{backbone.name} classifies only with trained weights, and without --compile")
    weights = load_weights(spec.weights, backbone.name, zoo.find_preprocess(backbone.name))
    module = zoo.load_classifier(backbone.name, change_input(weights, spec.preprocess, spec.size))
    module = replace_padding(module, spec.padding).eval().requires_grad_(False)
    replace_positions(module, spec.positions, backbone.name)
    prepared = prepare_network(module.to(backbone.device), [tap.module for tap in backbone.taps], spec.compute)
    backbone = replace(backbone, module=prepared)
    return erase_inside(backbone, spec.erase) if spec.erase else backbone


@one_network_at_a_time
def load_unfolded(spec: BackboneSpec) -> nn.Module:
    """Return a network's module with its parameters as they were trained, batch normalisation beside its convolutions."""
    name, zoo = _check_names(spec), _find_zoo(spec)
    module: nn.Module = zoo.load_network(name, load_weights(spec.weights, name, zoo.find_preprocess(name)))[0]
    return module


@one_network_at_a_time
def wrap_backbone(
    module: nn.Module,
    name: str,
    taps: Sequence[str],
    preprocess: Preprocess = IMAGENET,
    weights: str = "own",
    device: str = "auto",
    weights_kind: str = TRAINED,
) -> Backbone:
    """Wrap a copy of your own network as a frozen Backbone.

    `module` takes float32 [B, 3, S, S], preprocessed as `preprocess` says. `taps` are names of its modules that return maps:
    [B, C, H, W], [B, H, W, C] or patch tokens [B, N, C] (see `maps`), in any order.
    `name` and `weights` appear in tables and folders; `weights_kind` is "random" for an
    untrained network. Raises UsageError for a tap that does not exist or returns no map.

    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
    >>> backbone = wrap_backbone(net, "mine", ["2", "1"], Preprocess(32, 1 / 255, (0.5,) * 3, (0.5,) * 3))
    >>> [(tap.module, tap.shape) for tap in backbone.taps]
    [('1', (4, 32, 32)), ('2', (4, 16, 16))]
    """
    if not re.fullmatch(r"[\w.-]+", name) or not re.fullmatch(r"[\w.-]+", weights):
        raise UsageError(f"name {name!r} and weights {weights!r} become a folder's: letters, digits, dots and dashes only")
    if weights_kind not in WEIGHTS_KINDS:
        raise unknown("kind of weights", weights_kind, WEIGHTS_KINDS)
    target, digest = parse_device(device), compute_state_digest(module.state_dict())
    frozen = deepcopy(module).cpu().eval().requires_grad_(False)
    modules = order_modules(frozen, list(taps), preprocess.size)
    shapes, form = measure_taps(frozen, modules, preprocess.size)
    prepared = prepare_network(frozen.to(target), modules, "float32")
    return Backbone(
        name, weights, digest, ",".join(modules), shapes, preprocess, prepared, target,
        weights_kind=weights_kind, form=form,
    )  # fmt: skip
