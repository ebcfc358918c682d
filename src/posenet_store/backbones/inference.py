"""Speed up a frozen network: fold batch normalisation into convolutions, use channels last and cast the weights once."""

from collections import Counter, OrderedDict
from collections.abc import Collection, Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from posenet_store.errors import UsageError
from posenet_store.specs import COMPILED, get_precision

CAST = (nn.Conv2d, nn.Linear)
"""Layers that autocast computes in lower precision; their weights are cast once instead of in every pass."""


CONVOLUTIONS = ("torch.nn.modules.conv.Conv2d", "timm.layers.conv2d_same.Conv2dSame")
"""Classes that use their weights as they are; others, which change them in every pass, can't take up a normalisation."""

NORMALISATIONS = ("torch.nn.modules.batchnorm.BatchNorm2d", "timm.layers.norm_act.BatchNormAct2d")
"""Classes that can be folded; timm's has its activation inside, which stays."""

ON_CUDA_ONLY = ("float16", "tf32")


def check_compute(compute: str, device: torch.device) -> None:
    """Raise UsageError if `device` does not support `compute`."""
    if (precision := get_precision(compute)) in ON_CUDA_ONLY and device.type == "cpu":
        raise UsageError(f"--precision {precision} needs a CUDA device; on a CPU use bfloat16 or float32")


def get_dtype(compute: str) -> torch.dtype:
    """Return the dtype of weights and features inside the network.

    >>> get_dtype("bfloat16+compile"), get_dtype("tf32")
    (torch.bfloat16, torch.float32)
    """
    precision = get_precision(compute)
    return torch.float32 if precision == "tf32" else getattr(torch, precision)


@contextmanager
def set_precision(compute: str, device: torch.device) -> Iterator[None]:
    """Compute with `compute` in the context: lower precisions by autocast, TF32 only where it is asked for.

    torch's own default is TF32 in cuDNN's convolutions, which keeps 10 of float32's 23 bits.
    """
    dtype = get_dtype(compute)
    low = nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)
    with low, _allow_tf32(get_precision(compute) == "tf32") if device.type == "cuda" else nullcontext():
        yield


@contextmanager
def _allow_tf32(allowed: bool) -> Iterator[None]:
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32
    cudnn.allow_tf32 = matmul.allow_tf32 = allowed
    try:
        yield
    finally:
        cudnn.allow_tf32, matmul.allow_tf32 = before


def _is_inside(path: str, module: str) -> bool:
    return path == module or path.startswith(f"{module}.")


class _Tracer(torch.fx.Tracer):
    """Follows a network down to its convolutions and normalisations, whatever their class does inside."""

    def is_leaf_module(self, module: nn.Module, path: str) -> bool:
        return isinstance(module, nn.Conv2d | nn.BatchNorm2d) or bool(super().is_leaf_module(module, path))


def _get_class(module: nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"


def fold_batch_norm(module: nn.Module, taps: Collection[str]) -> None:
    """Fold every BatchNorm2d that is the only reader of a Conv2d into it, in place, and leave nothing or its activation.

    `taps` are module names whose outputs must not change: a convolution that is tapped before its normalisation is not
    folded. Both must be in evaluation mode and called once.

    >>> pair = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2), nn.ReLU()).eval()
    >>> fold_batch_norm(pair, ["2"]); pair[1]
    Sequential()
    """
    try:
        graph = _Tracer().trace(module)
    except Exception:  # the code of a user's network may depend on its input; it is not folded
        return
    nodes = [node for node in graph.nodes if node.op == "call_module"]
    calls = Counter(node.target for node in nodes)
    for node in nodes:
        source = node.args[0] if node.args else None
        if not isinstance(source, torch.fx.Node) or source not in nodes:
            continue
        name, after = str(source.target), str(node.target)
        conv, norm = module.get_submodule(name), module.get_submodule(after)
        once = len(source.users) == calls[name] == calls[after] == 1
        tapped = any(_is_inside(name, tap) and not _is_inside(after, tap) for tap in taps)
        if once and not tapped and _get_class(conv) in CONVOLUTIONS and _get_class(norm) in NORMALISATIONS:
            module.set_submodule(name, fuse_conv_bn_eval(conv, norm))  # type: ignore[type-var,arg-type]
            module.set_submodule(after, nn.Sequential(OrderedDict(norm.named_children())).eval())  # names stay: taps


def prepare_network(module: nn.Module, taps: Collection[str], compute: str) -> nn.Module:
    """Fold the network, use channels last and cast the weights that autocast would cast; in place."""
    fold_batch_norm(module, taps)
    for part in module.modules():
        if isinstance(part, CAST):
            part.to(get_dtype(compute))
    return module.requires_grad_(False).to(memory_format=torch.channels_last)


def is_compiled(compute: str) -> bool:
    """Return whether the network runs through torch.compile.

    >>> is_compiled("bfloat16+compile"), is_compiled("float32")
    (True, False)
    """
    return compute.endswith(COMPILED)
