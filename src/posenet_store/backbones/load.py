"""Load a frozen Backbone: torchvision's by name, or the user's own network."""

import re
from collections.abc import Sequence
from copy import deepcopy
from typing import cast

import torch
from torch import Tensor, nn

from posenet_store.backbones.backbone import Backbone, one_network_at_a_time, preprocess, run_taps
from posenet_store.backbones.checks import check_names
from posenet_store.backbones.device import parse_device
from posenet_store.backbones.hed import find_hed_file
from posenet_store.backbones.inference import check_compute, is_compiled, prepare_network, set_precision
from posenet_store.backbones.padding import check_padding, replace_padding
from posenet_store.backbones.taps import list_tap_modules
from posenet_store.backbones.torchvision_models import (
    build_network,
    check_backbone_name,
    cut_at_taps,
    drop_classifier,
    load_network,
)
from posenet_store.backbones.weights import (
    IMAGENET,
    change_input,
    compute_state_digest,
    load_weights,
    make_source_absolute,
)
from posenet_store.errors import PosenetStoreError, UsageError, first_line, unknown
from posenet_store.specs import PIXELS, TAP_SETS, TRAINED, WEIGHTS_KINDS, BackboneSpec, Preprocess, Tap


@one_network_at_a_time
def order_modules(module: nn.Module, modules: Sequence[str], size: int) -> tuple[str, ...]:
    """Return modules in the order in which they run; raises UsageError for one that does not run exactly once.

    >>> order_modules(nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU()), ["1", "0"], 8)
    ('0', '1')
    """
    known = dict(module.named_modules())
    if absent := [path for path in modules if path not in known or not path]:
        raise unknown("tap set, or module of the network,", absent[0], [*TAP_SETS, *(path for path in known if path)])
    order: list[str] = []
    handles = [known[path].register_forward_hook(lambda *_, path=path: order.append(path)) for path in modules]
    try:
        with torch.inference_mode():
            module(torch.zeros(1, 3, size, size))
    finally:
        for handle in handles:
            handle.remove()
    if wrong := next((path for path in modules if order.count(path) != 1), None):
        raise UsageError(f"module {wrong} is named twice or not passed once in a forward pass; choose others as taps")
    return tuple(order)


@one_network_at_a_time
def measure_taps(module: nn.Module, modules: Sequence[str], size: int) -> tuple[Tap, ...]:
    """Return the taps f1, f2, ... with their shapes for a size x size image.

    Modules that would overwrite a tap's output in place, as VGG's ReLU does behind a convolution, no longer do so.
    """
    named = [(f"f{number}", path) for number, path in enumerate(modules, 1)]
    outputs, overwritten = _run_and_compare(module, named, size)
    if overwritten:
        for part in module.modules():
            if getattr(part, "inplace", False):
                part.inplace = False  # type: ignore[assignment]
        outputs, overwritten = _run_and_compare(module, named, size)
    if flat := [path for name, path in named if outputs[name].dim() != 4]:
        raise UsageError(f"module {flat[0]} returns no map [B, C, H, W]; choose another as a tap")
    if overwritten:
        raise UsageError(f"what module {overwritten[0]} returns is overwritten in place by what follows; choose that as a tap")
    return tuple(Tap(name, path, tuple(outputs[name].shape[1:])) for name, path in named)  # type: ignore[arg-type]


@torch.no_grad()  # inference mode would not count what is written
def _run_and_compare(module: nn.Module, named: Sequence[tuple[str, str]], size: int) -> tuple[dict[str, Tensor], list[str]]:
    """Return the output of each tap (name, module path), and the modules whose output was written to afterwards."""
    versions: dict[str, int] = {}

    def make_hook(path: str) -> object:
        return lambda _module, _inputs, output: versions.update({path: output._version})

    handles = [module.get_submodule(path).register_forward_hook(make_hook(path)) for _, path in named]  # type: ignore[arg-type]
    try:
        outputs = run_taps(module, named, torch.zeros(1, 3, size, size))
    finally:
        for handle in handles:
            handle.remove()
    return outputs, [path for name, path in named if outputs[name]._version != versions[path]]


def _compile(module: nn.Module, taps: Sequence[Tap], inputs: Tensor, compute: str) -> nn.Module:
    """Compile the network up to its taps for batches of any size, and run it once on `inputs`, a batch of two.

    Raises PosenetStoreError if torch can't compile it here.
    """
    compiled = cast(nn.Module, torch.compile(cut_at_taps(module, taps)))
    try:
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
    name = spec.name or ""
    _check_names(spec)
    if name != PIXELS:
        with torch.device("meta"):
            module, size = build_network(name), spec.size or IMAGENET.size
            module = replace_padding(drop_classifier(module), spec.padding).eval()
            _find_taps(name, module, spec.taps, size)


def _check_names(spec: BackboneSpec, emulate: bool = False) -> None:
    """Raise UsageError for a name, device, precision, padding or weights that do not exist or do not fit."""
    name = spec.name or ""
    check_names(spec)
    device = parse_device(spec.device)
    if not emulate:
        check_compute(spec.compute, device)
    check_backbone_name(name)
    check_padding(name, spec.padding)
    if spec.weights == "hed" and name != PIXELS:
        find_hed_file()


def _find_taps(name: str, module: nn.Module, tap_set: str, size: int) -> tuple[Tap, ...]:
    """Return the taps of a network with their shapes; raises UsageError for unknown modules and for too small images."""
    modules = list_tap_modules(name, tap_set)
    if tap_set not in TAP_SETS:
        modules = order_modules(module, modules, size)
    try:
        return measure_taps(module, modules, size)
    except RuntimeError as error:
        if not re.search("input size|negative dimension", str(error)):  # torch's words on the CPU, and on meta until 2.7
            raise
        raise UsageError(
            f"{name}: nothing is left of a {size}x{size} image before its last tap; give a larger --size"
        ) from None


@one_network_at_a_time
def load_backbone(spec: BackboneSpec | str, *, emulate: bool = False) -> Backbone:
    """Load a frozen torchvision network, given as a spec or by its name.

    Raises UsageError for unknown names, PosenetStoreError for broken weights.
    `compute` is one of `specs.COMPUTES`: the precision of convolutions (by autocast unless float32), and whether the network
    is compiled. Batch normalisation is always folded into the convolution before it. `padding` (see `padding`), `preprocess`
    and `size` (see `weights.change_input`) leave the parameters as they are. `emulate` accepts on a CPU what only GPUs compute
    fast or at all: to plan what other machines will compute.

    >>> backbone = load_backbone(BackboneSpec("pixels", device="cpu"))
    >>> {tap: tuple(value.shape) for tap, value in backbone.features(torch.zeros(2, 28, 28, 3, dtype=torch.uint8)).items()}
    {'f1': (2, 3, 28, 28)}
    """
    spec = BackboneSpec(spec) if isinstance(spec, str) else spec
    _check_names(spec, emulate)
    name = spec.name or ""
    device = parse_device("cpu" if name == PIXELS else spec.device)  # pixels: nothing is computed
    compute = "float32" if name == PIXELS else spec.compute
    weights = change_input(load_weights(spec.weights, name), spec.preprocess, spec.size)
    module, digest = load_network(name, weights)
    module = replace_padding(drop_classifier(module), spec.padding).eval().requires_grad_(False)
    size = weights.preprocess.size
    taps = _find_taps(name, module, spec.taps, size)
    modules = tuple(tap.module for tap in taps)
    module = prepare_network(module.to(device), modules, compute)
    if is_compiled(compute):
        with torch.inference_mode():  # as in every later pass: torch compiles for other tensors anew
            inputs = preprocess(torch.zeros(2, size, size, 3, dtype=torch.uint8, device=device), weights.preprocess)
        module = _compile(module, taps, inputs, compute)
    return Backbone(
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
    )


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

    `module` takes float32 [B, 3, S, S], preprocessed as `preprocess` says. `taps` are names of its modules that return
    [B, C, H, W], in any order. `name` and `weights` appear in tables and folders; `weights_kind` is "random" for an
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
    shapes = measure_taps(frozen, modules, preprocess.size)
    prepared = prepare_network(frozen.to(target), modules, "float32")
    return Backbone(name, weights, digest, ",".join(modules), shapes, preprocess, prepared, target, weights_kind=weights_kind)
