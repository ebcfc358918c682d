"""A laboratory for faults: an undamaged store, copies of it to damage, and comparisons with it."""

import itertools
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from posenet_store.backbones.backbone import Backbone
from posenet_store.cli import main
from posenet_store.errors import PosenetStoreError, StoreError
from posenet_store.extraction.build import build_store, plan_store
from posenet_store.images.image_set import ImageSet
from posenet_store.images.sources import load_image_set
from posenet_store.specs import FORMATS
from posenet_store.store.reader import open_store
from posenet_store.store.verify import find_damage
from tests.support.small import contents, tiny_backbone, write_images

ROWS = 14  # three blocks of four and a tail of two
ARRAYS = ("f1", "f2", "f3", "aligned")


def remove(path: Path) -> None:
    """Remove a file or folder."""
    shutil.rmtree(path) if path.is_dir() else path.unlink()


@dataclass(frozen=True)
class Lab:
    """Images, their undamaged store (`sound`) in the format `name`, and a folder `root` for what a test damages."""

    name: str
    photos: Path
    images: ImageSet
    sound: Path
    root: Path

    def build(self, root: Path, images: ImageSet | None = None, network: Backbone | None = None, **options: Any) -> int:
        """Build or resume the store; return how many rows were extracted."""
        images, network = images or self.images, network or tiny_backbone()
        return build_store(
            images, network, plan_store(images, network, "native", "float16", 4, self.name), root, **options
        ).extracted

    def copy(self, folder: str = "copy") -> Path:
        return Path(shutil.copytree(self.sound, self.root / folder / self.sound.name))

    def unfinished(self, folder: str = "half") -> Path:
        """Return a copy as a build leaves it that ended after the first block."""
        store = self.copy(folder)
        for path in [store / "manifest.json", *(store / "commits").glob("b0000[123].json")]:
            path.unlink()
        return store

    def is_sound(self, store: Path, sound: Path | None = None) -> bool:
        """Return whether a store equals the undamaged one; files that do not belong to a store do not count."""
        if list_damage(store) or read_errors(store, sound or self.sound):
            return False
        expected, actual = contents(sound or self.sound), contents(store)
        return {file: actual.get(file) for file in expected} == expected

    def verify_repair(self, store: Path) -> Result:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("posenet_store.backbones.load.load_backbone", lambda *_: tiny_backbone())  # it has no name to type
            return CliRunner().invoke(
                main, ["verify", str(store), "--repair", "--images", str(self.photos), "--weights", "own"]
            )


@pytest.fixture(scope="module")
def labs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Lab]:
    root = tmp_path_factory.mktemp("faults")
    images = load_image_set(str(photos := write_images(root / "photos", ROWS)))
    plans = {name: plan_store(images, tiny_backbone(), "native", "float16", 4, name) for name in FORMATS}
    return {
        name: Lab(name, photos, images, build_store(images, tiny_backbone(), plans[name], root).path, root) for name in FORMATS
    }


@pytest.fixture(params=FORMATS)
def lab(request: pytest.FixtureRequest, labs: dict[str, Lab], tmp_path: Path) -> Lab:
    return replace(labs[request.param], root=tmp_path)


def read_errors(store: Path, sound: Path) -> dict[tuple[str, int], str]:
    """Read every array block by block and return the errors; what is read without an error must equal `sound`."""
    try:
        reader, expected = open_store(store), open_store(sound)
    except PosenetStoreError as error:
        return {("", 0): str(error)}
    errors = {}
    for name, (start, stop) in itertools.product(ARRAYS, reader.plan.bounds):
        try:
            np.testing.assert_array_equal(reader.read(name, start, stop), expected.read(name, start, stop))
        except StoreError as error:
            errors[name, start] = str(error)
    if errors:
        with pytest.raises(StoreError):
            list(reader.scan(ARRAYS))
    return errors


def list_damage(store: Path) -> list[str]:
    """Return the lines of `verify --deep`."""
    try:
        return [damage.what for damage in find_damage(store, deep=True)]
    except PosenetStoreError as error:  # without a plan there is nothing to compare with
        return [str(error)]
