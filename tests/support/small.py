"""Small real things that several tests need: image folders, a network of three stages, built stores."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from torch import nn

from posenet_store.backbones.backbone import Backbone
from posenet_store.backbones.measure import measure_taps
from posenet_store.backbones.weights import compute_state_digest
from posenet_store.extraction.build import build_store, plan_store
from posenet_store.files import read_json, sha256_file
from posenet_store.images.image_set import ImageSet
from posenet_store.images.sources import load_image_set
from posenet_store.specs import Preprocess
from posenet_store.store.reader import Reader, open_store
from posenet_store.threads import set_threads

Result = TypeVar("Result")


def write_images(folder: Path, count: int, seed: int = 0) -> Path:
    """Write `count` smooth random PNGs of different sizes."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        small = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8))
        small.resize((40 + number % 7, 36), Image.Resampling.BICUBIC).save(folder / f"image{number:03d}.png")
    return folder


def tiny_backbone(seed: int = 0, name: str = "tiny", scale: float = 1.0, size: int = 32, stages: int = 3) -> Backbone:
    """Return a random network with taps f1 [8, 16, 16], f2 [12, 8, 8], f3 [16, 4, 4] on 32x32 images: fast, zero-padded.

    Other sizes of the input are for tests of memory, fewer stages for tests of many builds.
    """
    torch.manual_seed(seed)
    channels = [(3, 8), (8, 12), (12, 16)][:stages]
    module = nn.Sequential(
        *(nn.Sequential(nn.Conv2d(i, o, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)) for i, o in channels)
    ).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(scale)
    module.requires_grad_(False)
    taps, _ = measure_taps(module, ["0", "1", "2"][:stages], size)
    preprocess = Preprocess(size, 1 / 255, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    digest, device = compute_state_digest(module.state_dict()), torch.device("cpu")
    return Backbone(name, f"random{seed}", digest, "report", taps, preprocess, module, device, weights_kind="random")


def built_store(
    root: Path,
    images: ImageSet,
    backbone: Backbone,
    layout: str = "native",
    dtype: str = "float32",
    block_rows: int = 4,
    file_format: str = "zarr",
) -> Reader:
    """Build a store with small blocks and open it."""
    plan = plan_store(images, backbone, layout, dtype, block_rows, file_format)
    return open_store(build_store(images, backbone, plan, root, batch_size=2).path)


def store_with_probes(root: Path, folder: Path, count: int = 14, seed: int = 0) -> Reader:
    """Write images to `folder`; build their store and the probes' for the tiny network; return the former."""
    backbone = tiny_backbone(seed)
    built_store(root, load_image_set("probes"), backbone)
    return built_store(root, load_image_set(str(write_images(folder, count))), backbone)


def contents(store: Path) -> dict[str, str]:
    """Digests of a store's data and records, and the id in its manifest; leftovers of killed writes are not part of it."""
    told_apart = ("plan.json", "manifest.json", "whole.h5")  # times and commands; HDF5 leaves stray bytes in a view
    files = (path for path in store.rglob("*") if path.is_file() and not path.name.endswith(".tmp"))
    digests = {path.relative_to(store).as_posix(): sha256_file(path) for path in files if path.name not in told_apart}
    return digests | {"store_id": str(read_json(store / "manifest.json")["store_id"])}


def folder(reader: Reader) -> Path:
    """Return where a local store is."""
    return Path(str(reader.files))


def in_threads(count: int, work: Callable[[], Result]) -> Result:
    """Return what some work gives with that many threads."""
    before = torch.get_num_threads()
    set_threads(count)
    try:
        return work()
    finally:
        set_threads(before)
