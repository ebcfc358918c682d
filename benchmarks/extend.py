"""What does it cost to extend a store, beside building a store of the new images alone?

An untrained ResNet-18 on generated photographs (JPEG, 500x400, as in benchmarks/extract.py): native layout, zstd, float16. The
store that is extended has four times as many images as are new, and 20, whose block is read and written again.

extend_vs_alone     seconds of extending the store by the images : of a store of these images alone (the median of three
                    rounds); 1 means that the images of the first store cost nothing
build_vs_alone      seconds of a store of all images : of a store of the new images alone, which an extension spares
disk_vs_alone       bytes on the disk that the extended store adds : that a store of the new images alone adds
digests_again       seconds of loading unchanged images, whose digests are kept : of loading them for the first time

    python benchmarks/extend.py [--images 64] [--json]
"""

import os
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from command import Figures, report_step, run
from extract import write_photographs
from posenet_store.backbones.load import load_backbone
from posenet_store.extraction.build import build_store, plan_store
from posenet_store.extraction.extend import extend_store
from posenet_store.images.hash_cache import RECENT, VARIABLE
from posenet_store.images.image_set import ImageSet
from posenet_store.images.sources import load_image_set
from posenet_store.specs import BackboneSpec
from posenet_store.store.removal import Removal

ROUNDS = 3
TIMES, TAIL = 4, 20
LOADS = 5


def time_call(work: Callable[[], object]) -> float:
    """Return the seconds that a call takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def measure_loading(photos: Path, cache: Path) -> float:
    """Return the seconds of loading images with kept digests : of hashing them."""
    time.sleep(RECENT)  # digests of files that have just changed are not kept
    os.environ[VARIABLE] = "off"
    hashing = min(time_call(lambda: load_image_set(str(photos))) for _ in range(LOADS))
    os.environ[VARIABLE] = str(cache)
    load_image_set(str(photos))
    return min(time_call(lambda: load_image_set(str(photos))) for _ in range(LOADS)) / hashing


def measure(images: int, root: Path) -> tuple[Figures, Figures]:
    """Return the ratios, and the seconds and bytes of each build."""
    photos = load_image_set(str(write_photographs(root / "photos", TAIL + (TIMES + 1) * images)))
    first, new = photos.take(len(photos) - images), photos.select(range(len(photos) - images, len(photos)))
    backbone = load_backbone(BackboneSpec("resnet18", "random:0", device="cpu"))

    def build(subset: ImageSet, name: str) -> Path:
        plan = plan_store(subset, backbone, "native", "float16")
        return build_store(subset, backbone, plan, root / name, advance=lambda count: None).path

    report_step(f"a store of {len(first)} images")
    base = build(first, "base")
    seconds: dict[str, list[float]] = {"alone": [], "extended": [], "all": []}
    for number in range(ROUNDS):
        report_step(f"round {number + 1} of {ROUNDS}: {images} new images")
        alone, extended = root / f"alone{number}", root / "base" / f"extended{number}"
        seconds["alone"].append(time_call(lambda: build(new, alone.name)))  # noqa: B023
        seconds["extended"].append(
            time_call(lambda: extend_store(base, new, backbone, extended, advance=lambda count: None))  # noqa: B023
        )
        if number == 0:
            report_step(f"a store of all {len(photos)} images")
            seconds["all"].append(time_call(lambda: build(photos, "all")))
    added = {name: Removal.of(root, path, "").bytes for name, path in (("extended", extended), ("alone", alone))}
    medians = {name: median(values) for name, values in seconds.items()}
    figures: Figures = {f"{name}: s": value for name, value in medians.items()}
    ratios: Figures = {
        "extend_vs_alone": medians["extended"] / medians["alone"],
        "build_vs_alone": medians["all"] / medians["alone"],
        "disk_vs_alone": added["extended"] / added["alone"],
        "digests_again": measure_loading(root / "photos", root / "cache"),
    }
    return ratios, figures | {f"{name}: MB added": size / 1e6 for name, size in added.items()}


if __name__ == "__main__":
    run(__doc__, 64, measure)
