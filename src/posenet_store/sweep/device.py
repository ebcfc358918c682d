"""Choose what sums second moments and solves heads: the CPU, or a GPU where that is the faster one."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from posenet_store.backbones.device import NVIDIA, collect_device, describe_device, explain_cpu, parse_device
from posenet_store.specs import StoreSpec
from posenet_store.sweep.cell import output_size
from posenet_store.sweep.inputs import parse_input
from posenet_store.sweep.plan import Pass, SweepPlan

WORTHWHILE = 1e12
"""Multiplications of the sums from which on `auto` takes a GPU: fewer are made by the CPU while a GPU would be set up."""
FAST_FLOAT64 = {(6, 0), (7, 0), (8, 0), (9, 0), (10, 0)}
"""Compute capabilities of GPUs that multiply float64 at half or a quarter of the speed of float32; others at a 64th or so."""


def choose_device(asked: str, passes: Sequence[Pass], specs: Mapping[str, StoreSpec]) -> tuple[str | None, str | None]:
    """Return what `--device` means for passes, None for the CPU, and why `auto` takes the CPU although there is a GPU.

    `specs` holds every store's spec by its fingerprint. Raises UsageError if the device does not exist or can't be used here.
    """
    if asked == "cpu" or (asked == "auto" and not (NVIDIA.exists() or torch.cuda.is_available())):
        return None, None
    device = parse_device(asked)
    if asked != "auto":
        return str(device), None
    if device.type == "cpu":
        return None, explain_cpu()
    if torch.cuda.get_device_capability(device) not in FAST_FLOAT64:
        return None, f"{describe_device(device)} multiplies float64, in which heads are solved, slowly"
    if sum(count_multiplications(task, specs[task.store]) for task in passes if task.trains) < WORTHWHILE:
        return None, "the sums of these heads are small"
    return str(device), None


def count_multiplications(task: Pass, spec: StoreSpec) -> float:
    """Return about how many multiplications the second moments of a pass take."""
    channels = parse_input(task.input, spec).channels
    shapes = {(cell.kernel, cell.padding) for cell in task.cells}
    products = sum((channels * kernel**2) ** 2 * output_size(kernel, padding) ** 2 for kernel, padding in shapes)
    return float(task.train_rows * products)


def describe_fit(device: str | None) -> dict[str, Any]:
    """Return what a cell records of the GPU that summed and solved; CPUs are left out."""
    return {} if device is None else {"computed_on": collect_device(torch.device(device))}


def set_device(plan: SweepPlan, device: str | None) -> SweepPlan:
    """Return a plan whose passes sum and solve on another device."""
    passes = (replace(task, limits=replace(task.limits, device=device)) for task in plan.passes)
    return replace(plan, passes=tuple(passes))
