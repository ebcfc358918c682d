"""The sound files from which hostile inputs are drawn: small stores in both formats, images of each format, heads, weights."""

import io
import tarfile
import zipfile
from pathlib import Path

import h5py
import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from posenet_store.backbones.erasing import ErasedNetwork, Erasers
from posenet_store.heads.file import save_head
from posenet_store.heads.model import Heads
from posenet_store.heads.protocols import PROTOCOLS
from posenet_store.images.sources import load_image_set
from posenet_store.specs import FORMATS
from posenet_store.store.reader import Reader
from posenet_store.sweep.cell import Cell
from posenet_store.sweep.labels import Labels
from tests.support.small import built_store, folder, tiny_backbone, write_images

MODES = ("RGB", "L", "1", "P", "I;16", "LA", "RGBA", "CMYK", "I", "F")
SECRETS = ("secret.h5", "secret.bin", "secret.json")
"""Files outside, which inputs name and nothing may open."""


def write_samples(root: Path) -> None:
    """Write samples of everything that a stranger may send to `root`."""
    images = load_image_set(str(write_images(root / "photos", 3)))
    for name in FORMATS:
        backbone = tiny_backbone(stages=1)
        reader = built_store(root / name, images, backbone, dtype="float16", block_rows=2, file_format=name)
        folder(reader).rename(root / name / "store")
    built_store(root / "sweep", images, tiny_backbone())
    _write_images(root / "images")
    _write_heads(root / "heads", reader)
    with zipfile.ZipFile(root / "archive.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("DUTS-TE/DUTS-TE-Image/a.jpg", b"x" * 500)
        archive.writestr("DUTS-TE/b.txt", b"y")
    for name, form in (("gnu", tarfile.GNU_FORMAT), ("pax", tarfile.PAX_FORMAT)):
        with tarfile.open(root / f"{name}.tar", "w", format=form) as tar:
            for path in sorted((root / "photos").iterdir()):
                tar.add(path, f"{'long name ' * 12}{path.name}")
    (root / "outside").mkdir()
    for name in SECRETS[1:]:
        (root / "outside" / name).write_bytes(b"{}" * 4096)
    with h5py.File(root / "outside" / SECRETS[0], "w") as file:
        for name, shape in reader.spec.arrays.items():
            file.create_dataset(name, data=np.full((2, *shape), 42, "float16"), chunks=(2, *shape), compression="gzip")


def _write_images(root: Path) -> None:
    """Write a small image in every format and mode that PIL can write, whatever it is called by strangers."""
    root.mkdir()
    Image.init()
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    for form in sorted(Image.SAVE):
        for mode in MODES:
            data = io.BytesIO()
            try:
                image = Image.fromarray(pixels).convert("RGB" if mode == "I;16" else mode)
                (Image.new("I;16", (7, 9), 40000) if mode == "I;16" else image).save(data, form)
            except Exception:  # this format has no such mode
                continue
            (root / f"{form}-{mode.replace(';', '')}").write_bytes(data.getvalue())


def _write_heads(root: Path, reader: Reader) -> None:
    """Write heads that a sweep would write for a store, and weights of other programs."""
    root.mkdir()
    generator = torch.Generator().manual_seed(0)
    for name, source, inputs in (("ridge", "aligned", 3), ("paper", "f1", reader.taps[0].shape[0])):
        cell = Cell(reader.spec.fingerprint, 3, 3, source, "H", (0.0, 1.0), False, 3, 0, PROTOCOLS[name], 0)
        weight = torch.randn(1, inputs, 3, 3, generator=generator, dtype=torch.float64)
        spec = reader.spec
        metadata = {"cell": cell.to_dict(), "network_key": spec.network_key, **vars(Labels.of(spec))}
        save_head(root / f"{name}.safetensors", Heads(weight, torch.zeros(1).double(), 0), 0, metadata)
    channels, module = reader.taps[0].shape[0], reader.spec.taps[0].module
    parts = {"left": torch.ones(channels, 1), "right": torch.ones(1, channels), "mean": torch.ones(channels)}
    Erasers({"f1": module}, {"f1": parts}, ErasedNetwork.of(reader.spec), ("H",)).save(root / "eraser")
    state = torch.nn.Conv2d(3, 1, 3).state_dict()
    torch.save(state, root / "weights.pth")
    torch.save(state, root / "old.pth", _use_new_zipfile_serialization=False)
    save_file(state, root / "weights.safetensors")
