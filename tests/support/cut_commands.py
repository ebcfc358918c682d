"""Commands that a power cut may end (see `power_cuts.Command`): small ones, called in this process."""

import csv
import json
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posenet_store.backbones.backbone import Backbone
from posenet_store.errors import PosenetStoreError, StoreError
from posenet_store.extraction.build import build_store, plan_store
from posenet_store.extraction.repair import repair_store
from posenet_store.heads.file import load_head
from posenet_store.heads.protocols import GradientProtocol
from posenet_store.images.duts import fetch_duts
from posenet_store.images.image_set import ImageSet
from posenet_store.images.sources import load_image_set
from posenet_store.store.catalogue import list_stores
from posenet_store.store.convert import convert_store
from posenet_store.store.plan import Plan
from posenet_store.store.reader import open_store
from posenet_store.store.verify import find_damage
from posenet_store.sweep.plan import plan_sweep
from posenet_store.sweep.results import Result, RunFiles, load_run, read_result, read_scores
from posenet_store.sweep.run import run_sweep
from posenet_store.sweep.spec import SweepSpec
from tests.support.small import contents, tiny_backbone, write_images

ROWS, BLOCK_ROWS = 6, 2


@dataclass(frozen=True)
class Build:
    """Build a store of three blocks; `sound` is one that nothing ever happened to."""

    images: ImageSet
    backbone: Backbone
    plan: Plan
    sound: Path

    @classmethod
    def of(cls, folder: Path, file_format: str, seed: int = 0) -> "Build":
        """Write images and build the undisturbed store below `folder`."""
        images, backbone = load_image_set(str(write_images(folder / "photos", ROWS, seed))), tiny_backbone(stages=1)
        plan = plan_store(images, backbone, "native", "float16", BLOCK_ROWS, file_format)
        return cls(images, backbone, plan, build_store(images, backbone, plan, folder, batch_size=BLOCK_ROWS).path)

    @cached_property
    def features(self) -> dict[str, NDArray[Any]]:
        """The right features, by array."""
        reader = open_store(self.sound)
        return {name: reader.read(name) for name in reader.spec.arrays}

    def find_store(self, disk: Path) -> Path:
        """Return where the store lies."""
        return disk / "stores" / self.sound.name

    def run(self, disk: Path) -> object:
        """Build it, or resume it."""
        return build_store(self.images, self.backbone, self.plan, disk / "stores", batch_size=BLOCK_ROWS)

    def digest(self, disk: Path) -> dict[str, str]:
        """Return the digests of data and records, and the store's id."""
        return contents(self.find_store(disk))

    def check(self, disk: Path) -> None:
        """Verify the store deeply and read it, sealed or not: what is read is right, and each error has been listed."""
        store = self.find_store(disk)
        try:
            damaged = any(find_damage(store, deep=True))
        except PosenetStoreError:
            damaged = True
        errors = self._read(store, unsealed=False)
        assert damaged == bool(errors), f"`verify --deep` finds damage: {damaged}; errors of the reader: {errors}"
        self._read(store, unsealed=True)

    def _read(self, store: Path, unsealed: bool) -> list[str]:
        try:
            reader = open_store(store, unsealed)
        except PosenetStoreError as error:
            return [str(error)]
        errors = []
        for name, right in self.features.items():
            for start, stop in reader.bounds:
                try:
                    np.testing.assert_array_equal(reader.read(name, start, stop), right[start:stop])
                except StoreError as error:
                    errors.append(str(error))
        return errors


class Repair(Build):
    """Repair a store: every byte is hashed, and what is damaged is computed again."""

    def run(self, disk: Path) -> object:
        """Repair it, or what an interrupted repair left of it."""
        return repair_store(self.find_store(disk), self.images, self.backbone, batch_size=BLOCK_ROWS)


class Convert(Build):
    """Convert a store into the other format; `sound` is an undisturbed copy beside its original."""

    @classmethod
    def of(cls, folder: Path, file_format: str, seed: int = 0) -> "Convert":
        """Build the original in the other format, and the undisturbed copy."""
        original = Build.of(folder, "hdf5" if file_format == "zarr" else "zarr", seed)
        copy = convert_store(open_store(original.sound), file_format, folder / "copy")
        return cls(original.images, original.backbone, original.plan, copy)

    def run(self, disk: Path) -> object:
        """Copy the original, or the rest of it."""
        original = self.sound.parents[1] / self.plan.spec.folder
        return convert_store(open_store(original), open_store(self.sound).spec.format, disk / "stores")


@dataclass(frozen=True)
class Sweep:
    """Train heads by gradient steps and by ridge, score them, and write tables; moments are kept below the same folder."""

    stores: Path
    spec: SweepSpec
    right: dict[str, Any]

    @classmethod
    def of(cls, folder: Path) -> "Sweep":
        """Build the store below `folder` and make an undisturbed run."""
        Build.of(folder / "stores", "zarr")
        steps = GradientProtocol(epochs=1)
        spec = SweepSpec("cut", train=("photos",), tests=(), targets=("H", "G"), protocols=(steps.name, "ridge"), seeds=(0,))
        sweep = cls(folder / "stores", replace(spec, recipes=(steps,)), {})
        sweep.run(folder)
        return replace(sweep, right=sweep.digest(folder))

    def run(self, disk: Path) -> object:
        """Run the sweep, or what is left of it."""
        plan = plan_sweep(self.spec, list_stores(self.stores), disk / "stores")
        return run_sweep(self.spec, plan, disk / "runs" / "cut", scheduler="inline")

    def digest(self, disk: Path) -> dict[str, Any]:
        """Return every number of every cell and of the tables, but no times."""
        files = RunFiles(disk / "runs" / "cut")
        run, results = load_run(files.root)
        tables = [*csv.DictReader(files.csv.open()), *json.loads(files.json.read_text())]
        rows = [{name: value for name, value in row.items() if name != "seconds"} for row in tables]
        return {"cells": run.cells, "rows": rows, **{result.id: describe_cell(files, result) for result in results}}

    def check(self, disk: Path) -> None:
        """Read every cell that counts as finished."""
        files = RunFiles(disk / "runs" / "cut")
        with suppress(PosenetStoreError):
            load_run(files.root)
        for cell in self.right["cells"]:
            with suppress(PosenetStoreError):
                assert describe_cell(files, read_result(files, cell)) == self.right[cell], f"cell {cell} is wrong"


def describe_cell(files: RunFiles, result: Result) -> dict[str, Any]:
    """Return what is the same whenever a cell is trained: its scores, its head, and how it was fitted."""
    heads, metadata = load_head(files.head(result.id))
    scores = {name: array.tobytes() for name, array in sorted(read_scores(files.scores(result.id)).items())}
    head = {name: tensor.numpy().tobytes() for name, tensor in heads.get_tensors(0).items()}
    means = {test: asdict(score) for test, score in result.scores.items()}
    return {"scores": scores, "head": head, "metadata": metadata, "means": means, "tests": result.tests, "fit": result.fit}


@dataclass(frozen=True)
class Fetch:
    """Download an archive of images whose digest is known, and unpack it; `right` is the digest of the images."""

    url: str
    sha256: str
    right: str

    def run(self, disk: Path) -> object:
        """Fetch it; an archive that was damaged is refused and removed, and then downloaded again."""
        with suppress(PosenetStoreError):
            return fetch_duts("duts-te", disk / "data", self.url, self.sha256)
        return fetch_duts("duts-te", disk / "data", self.url, self.sha256)

    def digest(self, disk: Path) -> str:
        """Return the digest of the images."""
        return load_image_set("duts-te", disk / "data").sha256

    def check(self, disk: Path) -> None:
        """Load the images: all are there and right, or an error says that they are not."""
        with suppress(PosenetStoreError):
            assert self.digest(disk) == self.right
