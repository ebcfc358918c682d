"""A device, the images and the sizes that the benchmark of a GPU works with, and what comes out."""

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from command import Figures
from posenet_store.backbones.backbone import Backbone
from posenet_store.backbones.hed import find_hed_file
from posenet_store.backbones.load import load_backbone
from posenet_store.errors import UsageError
from posenet_store.extraction.build import BuildResult, build_store, plan_store
from posenet_store.files import sha256_file
from posenet_store.images.image_set import ImageSet
from posenet_store.specs import BackboneSpec
from posenet_store.store.reader import open_store

LIMITS = {"float32": 1e-4, "tf32": 3e-3, "bfloat16": 5e-2, "float16": 5e-3}
"""Of the root mean square: rounding in another order, 10 bits, 7 bits, 10 bits."""
LATE = 100_000_000  # cycles of a GPU, about 50 ms


@dataclass
class Lab:
    """The device, the images, the sizes of what is measured, and what came out."""

    device: torch.device
    root: Path
    images: ImageSet
    small: str = "resnet18"
    deep: str = "resnet152"
    vgg: str = "vgg16"
    size: int | None = None
    checked: int = 48
    batches: Sequence[int] = (16, 64, 256)
    channels: int = 1472
    seconds: float = 0.4
    ratios: Figures = field(default_factory=dict)
    figures: Figures = field(default_factory=dict)

    @property
    def cuda(self) -> bool:
        return self.device.type == "cuda"

    @property
    def precisions(self) -> tuple[str, ...]:
        return tuple(LIMITS) if self.cuda else ("float32", "bfloat16")

    def load(self, name: str, compute: str = "float32", device: str | None = None) -> Backbone:
        """Load a network on the device."""
        weights = "hed" if name == "vgg16" and has_hed() else "random:0"
        return load_backbone(BackboneSpec(name, weights, device=device or str(self.device), compute=compute, size=self.size))

    def draw_pixels(self, count: int, backbone: Backbone) -> Tensor:
        """Return random pixels in locked memory."""
        side = backbone.preprocess.size
        pixels = torch.randint(0, 256, (count, side, side, 3), dtype=torch.uint8)
        return pixels.pin_memory() if self.cuda else pixels

    def synchronize(self) -> None:
        """Wait until the device has done everything."""
        if self.cuda:
            torch.cuda.synchronize(self.device)

    def delay(self) -> None:
        """Keep the current stream of the device busy for a while."""
        if self.cuda:
            torch.cuda._sleep(LATE)

    def measure(self, work: Callable[[], object]) -> float:
        """Return the seconds of one `work`, after one that warms up."""
        work()
        self.synchronize()
        count, began = 0, time.perf_counter()
        while count < 3 or time.perf_counter() - began < self.seconds:
            work()
            count += 1
            if count % 4 == 0:
                self.synchronize()
        self.synchronize()
        return (time.perf_counter() - began) / count

    def build(
        self, backbone: Backbone, folder: str, layout: str = "native", dtype: str = "float32", **options: Any
    ) -> BuildResult:
        """Build a store of the images that are checked, or of `images`, in blocks of `rows`."""
        images, rows = options.pop("images", self.images.take(self.checked)), options.pop("rows", 16)
        plan = plan_store(images, backbone, layout, dtype, rows)
        return build_store(images, backbone, plan, self.root / folder, advance=lambda count: None, **options)


def has_hed() -> bool:
    """Return whether HED's weights are installed."""
    with contextlib.suppress(UsageError):
        return bool(find_hed_file())
    return False


def compare(actual: Tensor, expected: Tensor) -> float:
    """Return the root mean square of the difference, relative to that of `expected`."""
    actual, expected = actual.double().cpu(), expected.double().cpu()
    return float(((actual - expected).square().mean() / expected.square().mean()).sqrt())


def compare_taps(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Return the largest difference of a tap."""
    return max(compare(actual[name], value) for name, value in expected.items())


def read_arrays(path: Path) -> dict[str, Tensor]:
    """Return all features of a store."""
    reader = open_store(path)
    return {name: torch.from_numpy(reader.read(name, 0, reader.spec.rows)).float() for name in reader.spec.arrays}


def digest_data(path: Path) -> dict[str, str]:
    """Return the digests of a store's features."""
    files = sorted(file for file in (path / "data.zarr").rglob("*") if file.is_file())
    return {str(file.relative_to(path)): sha256_file(file) for file in files}
