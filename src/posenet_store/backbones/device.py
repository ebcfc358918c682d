"""Find the device that a name means, say why no GPU can be used, and describe what computes."""

import platform
import re
import warnings
from pathlib import Path
from typing import Any

import torch

from posenet_store.backbones.checks import check_device
from posenet_store.errors import UsageError, first_line

NVIDIA = Path("/dev/nvidiactl")
"""Exists where NVIDIA's driver does."""


def parse_device(name: str) -> torch.device:
    """Return the torch device for auto, cpu, cuda or cuda:K; raises UsageError if it does not exist or can't be used here."""
    check_device(name)
    if name == "cpu" or (name == "auto" and find_cuda_fault()):
        return torch.device("cpu")
    device = torch.device("cuda" if name == "auto" else name)
    if fault := find_cuda_fault(device):
        raise UsageError(f"--device {name}: {fault}; use --device auto or cpu")
    return device


def find_cuda_fault(device: torch.device | None = None) -> str | None:
    """Return why torch can't use a GPU (None: the first one) on this machine, None if it can."""
    with warnings.catch_warnings(record=True) as caught:  # torch says there what it thinks of the driver
        warnings.simplefilter("always")
        available = torch.cuda.is_available()
    if not available:
        reason = f"torch for CUDA {torch.version.cuda} finds none: is there a driver, and was a GPU granted to this job?"
        if torch.version.cuda is None:
            reason = "this torch is built without CUDA"
        elif caught:
            reason = first_line(caught[-1].message)  # type: ignore[arg-type]
        return f"this machine has no usable CUDA device ({reason})"
    index, count = (device.index if device else None) or 0, torch.cuda.device_count()
    if index >= count:
        return f"this machine has {count} CUDA device{'s' * (count > 1)}, the last is cuda:{count - 1}"
    capability, architectures = torch.cuda.get_device_capability(index), torch.cuda.get_arch_list()
    if not _has_kernels(capability, architectures):
        return (
            f"this torch has no kernels for {torch.cuda.get_device_name(index)} of compute capability "
            f"{'.'.join(map(str, capability))}, only for {' '.join(architectures)}"
        )
    return None


def _has_kernels(capability: tuple[int, int], architectures: list[str]) -> bool:
    """Return whether kernels built for `architectures` run on a GPU of `capability`.

    Machine code (sm) runs on GPUs of its generation that are no older; intermediate code (compute) on all later ones.

    >>> _has_kernels((8, 9), ["sm_75", "sm_86"]), _has_kernels((7, 0), ["sm_75"]), _has_kernels((12, 0), ["compute_90"])
    (True, False, True)
    """
    for kind, major, minor in (match.groups() for name in architectures if (match := re.match(r"(\w+)_(\d+)(\d)", name))):
        built = int(major), int(minor)
        if built <= capability and (kind == "compute" or built[0] == capability[0]):
            return True
    return not architectures


def explain_cpu() -> str | None:
    """Return why `auto` takes the CPU although the machine seems to have a GPU; None if it takes a GPU, or there is none."""
    return find_cuda_fault() if NVIDIA.exists() or torch.cuda.is_available() else None


def describe_device(device: torch.device) -> str:
    """Return a device for people.

    >>> describe_device(torch.device("cpu"))
    'cpu'
    """
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)


def describe_place(compute: str, device: torch.device) -> str:
    """Return how and where a network computes, for people: the precision, the device and this machine's name."""
    return f"in {compute} on {describe_device(device)} of {platform.node()}"


def collect_device(device: torch.device) -> dict[str, Any]:
    """Return what a store records of the device that computed it.

    >>> collect_device(torch.device("cpu"))
    {'device': 'cpu'}
    """
    if device.type == "cpu":
        return {"device": "cpu"}
    return {
        "device": torch.cuda.get_device_name(device),
        "capability": ".".join(map(str, torch.cuda.get_device_capability(device))),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }
