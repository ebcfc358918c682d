"""Run a network once to find out in which order its taps come and what maps they return."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from posenet_store.backbones.backbone import Backbone, one_network_at_a_time, run_taps
from posenet_store.backbones.maps import MapFormat, convert_to_map, count_prefix, find_format
from posenet_store.errors import UsageError, unknown
from posenet_store.specs import TAP_SETS, TOKENS_SUFFIX, Tap


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
def measure_taps(module: nn.Module, modules: Sequence[str], size: int) -> tuple[tuple[Tap, ...], MapFormat]:
    """Return the taps f1, f2, ... with their shapes for a size x size image, and the format of their maps.

    Modules that would overwrite a tap's output in place, as VGG's ReLU does behind a convolution, no longer do so. Raises
    UsageError for a module that returns no map, or runs after the last.
    """
    named = [(f"f{number}", path) for number, path in enumerate(modules, 1)]
    outputs, overwritten = _run_and_compare(module, named, size)
    if overwritten:
        for part in module.modules():
            if getattr(part, "inplace", False):
                part.inplace = False  # type: ignore[assignment]
        outputs, overwritten = _run_and_compare(module, named, size)
    if overwritten:
        raise UsageError(f"what module {overwritten[0]} returns is overwritten in place by what follows; choose that as a tap")
    form, taps = find_format(module), []
    for name, path in named:
        if name not in outputs:
            raise UsageError(f"module {path} does not run before {named[-1][1]}, the last tap; choose others as taps")
        try:
            taps.append(Tap(name, path, tuple(convert_to_map(outputs[name], form).shape[1:])))  # type: ignore[arg-type]
        except UsageError as error:
            raise UsageError(f"module {path} {error}: no map [B, C, H, W]; choose another as a tap") from None
    prefixed = any(count_prefix(output, form) for output in outputs.values())
    return tuple(taps), form if prefixed else replace(form, prefix=())


def count_tokens(backbone: Backbone) -> tuple[int, ...]:
    """Return how many class and register tokens are set aside from each tap; raises UsageError if none is from any."""
    size = backbone.preprocess.size
    outputs = backbone.features(torch.zeros(1, size, size, 3, dtype=torch.uint8), tokens=True)
    counts = tuple(outputs[tap.name + TOKENS_SUFFIX].shape[1] for tap in backbone.taps)
    if not any(counts):
        raise UsageError(f"{backbone.name} has no class or register tokens to keep; leave --keep-tokens out")
    return counts


@torch.no_grad()  # inference mode would not count what is written
def _run_and_compare(module: nn.Module, named: Sequence[tuple[str, str]], size: int) -> tuple[dict[str, Tensor], list[str]]:
    """Return the output of each tap (name, module path), and the modules whose output was written to afterwards."""
    versions: dict[str, int] = {}

    def make_hook(path: str) -> object:
        return lambda _module, _inputs, output: versions.update({path: getattr(output, "_version", 0)})

    handles = [module.get_submodule(path).register_forward_hook(make_hook(path)) for _, path in named]  # type: ignore[arg-type]
    try:
        outputs = run_taps(module, named, torch.zeros(1, 3, size, size))
    finally:
        for handle in handles:
            handle.remove()
    return outputs, [
        path for name, path in named if name in outputs and getattr(outputs[name], "_version", 0) != versions[path]
    ]
