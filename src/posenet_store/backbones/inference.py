"""Speed up a frozen network: fold batch normalisation into convolutions, channels last, weights in one precision."""

from collections import Counter
from collections.abc import Collection
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from posenet_store.errors import UsageError
from posenet_store.specs import COMPILED, get_precision

CAST = (nn.Conv2d, nn.Linear)
"""Layers that autocast computes in the lower precision; their weights are cast once instead of in every pass."""


def check_compute(compute: str, device: torch.device) -> None:
    """Raise UsageError if `device` cannot compute that way."""
    if get_precision(compute) == "float16" and device.type == "cpu":
        raise UsageError("--precision float16 needs a CUDA device; on a CPU use bfloat16 or float32")


def autocast(compute: str, device: torch.device) -> AbstractContextManager[object]:
    """Return the context in which a network of this `compute` runs."""
    precision = get_precision(compute)
    return nullcontext() if precision == "float32" else torch.autocast(device.type, getattr(torch, precision))


def _inside(path: str, module: str) -> bool:
    return path == module or path.startswith(f"{module}.")


def fold_batch_norm(module: nn.Module, taps: Collection[str]) -> None:
    """Fold, in place, every BatchNorm2d that alone reads a Conv2d into it and leave an identity behind.

    `taps` are module names whose outputs must stay what they were: a convolution that is read between the two is left alone.
    Both must be in evaluation mode and called once.

    >>> pair = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2), nn.ReLU()).eval()
    >>> fold_batch_norm(pair, ["2"]); pair[1]
    Identity()
    """
    try:
        graph = torch.fx.Tracer().trace(module)
    except Exception:  # a user's network whose code depends on its input is left unfolded
        return
    nodes = [node for node in graph.nodes if node.op == "call_module"]
    calls = Counter(node.target for node in nodes)
    for node in nodes:
        norm, source = module.get_submodule(str(node.target)), node.args[0]
        if type(norm) is not nn.BatchNorm2d or not isinstance(source, torch.fx.Node) or source not in nodes:
            continue
        conv, name, after = module.get_submodule(str(source.target)), str(source.target), str(node.target)
        once = len(source.users) == calls[name] == calls[after] == 1
        read = any(_inside(name, tap) and not _inside(after, tap) for tap in taps)
        if type(conv) is nn.Conv2d and once and not read:
            module.set_submodule(name, fuse_conv_bn_eval(conv, norm))
            module.set_submodule(after, nn.Identity().eval())


def prepare_network(module: nn.Module, taps: Collection[str], compute: str) -> nn.Module:
    """Fold the network, lay its weights out channels last and cast those that autocast would cast; in place."""
    fold_batch_norm(module, taps)
    precision = getattr(torch, get_precision(compute))
    for part in module.modules():
        if isinstance(part, CAST):
            part.to(precision)
    return module.requires_grad_(False).to(memory_format=torch.channels_last)


def is_compiled(compute: str) -> bool:
    """True if the network is to go through torch.compile.

    >>> is_compiled("bfloat16+compile"), is_compiled("float32")
    (True, False)
    """
    return compute.endswith(COMPILED)
