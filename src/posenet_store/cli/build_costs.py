"""Estimate and print what a build costs, for `build-store --plan`."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posenet_store.cli.output import format_bytes, format_time, print_json, print_line
from posenet_store.files import find_existing
from posenet_store.store.chunking import count_row_bytes
from posenet_store.store.plan import find_folder

if TYPE_CHECKING:
    from posenet_store.backbones.backbone import Backbone
    from posenet_store.images.image_set import ImageSet
    from posenet_store.store.plan import Plan
    from posenet_store.store.reader import Reader
    from posenet_store.sweep.build_sums import BuildSums


def estimate_costs(
    plan: "Plan",
    base: "Reader | None",
    images: "ImageSet",
    backbone: "Backbone",
    root: Path,
    batch_size: int | None,
    sums: "BuildSums | None",
) -> dict[str, Any]:
    """Return what a build costs, with the sums that it makes; of a store that extends another one, what the new images cost."""
    from posenet_store.extraction.forward import choose_batch_size, describe_computation
    from posenet_store.extraction.plan import estimate_build
    from posenet_store.store.formats import count_files
    from posenet_store.store.sharing import count_copied

    spec, size = plan.spec, batch_size or choose_batch_size(backbone, plan.spec.block_rows)
    expected, copied = estimate_build(images, backbone, plan, size), count_copied(base, root)
    if sums is not None:
        cost = sums.estimate_cost()
        expected = replace(expected, seconds=expected.seconds + cost.seconds, memory=expected.memory + cost.memory)
    return {
        "store": str(find_folder(root, spec)),
        "images": spec.rows,
        "extends": base and base.name,
        "new_images": len(images),
        "taps": {tap.name: {"module": tap.module, "shape": list(tap.shape)} for tap in spec.taps},
        "bytes": count_row_bytes(spec) * (len(images) + copied),
        "bytes_on_disk": expected.bytes * (len(images) + copied) // len(images),
        "files": count_files(spec),
        "blocks": len(plan.bounds),
        "seconds": round(expected.seconds, 1),
        "memory": expected.memory,
        "gpu_memory": expected.gpu_memory,
        "computed_on": describe_computation(backbone, size),
        "free_bytes": shutil.disk_usage(find_existing(root)).free,
    }


def print_costs(facts: dict[str, Any], as_json: bool) -> None:
    """Print what a build costs."""
    if as_json:
        print_json(facts)
        return
    print_line(f"store   {facts['store']}")
    print_line(f"images  {facts['images']:,} in {facts['blocks']:,} blocks")
    if facts["extends"]:
        print_line(f"new     {facts['new_images']:,} of them; the others are those of {facts['extends']}")
    for name, tap in facts["taps"].items():
        print_line(f"tap     {name}  {tap['module']}  {'x'.join(map(str, tap['shape']))}")
    size, on_disk = format_bytes(facts["bytes"]), format_bytes(facts["bytes_on_disk"])
    print_line(f"size    about {on_disk} in {facts['files']:,} files, {size} before compression")
    print_line(f"time    about {format_time(facts['seconds'])} on this machine, measured on one batch")
    print_line(f"memory  {format_bytes(facts['memory'])}, whatever the number of images")
    if facts["gpu_memory"]:
        print_line(f"gpu     {format_bytes(facts['gpu_memory'])} of {facts['computed_on']['device']}")
    print_line(f"free    {format_bytes(facts['free_bytes'])} on the disk of {facts['store']}")
    if facts["free_bytes"] < facts["bytes"]:
        print_line("warning: the free disk is less than the uncompressed size", err=True)
