"""The public names: one list, loaded when first used, and visible to type checkers and editors."""

import subprocess
import sys
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import pytest
from mypy import api

import posenet_store

PACKAGES = ("images", "backbones", "store", "extraction", "heads", "sweep", "parallel", "report")
SCRIPT = """
from pathlib import Path
from typing import Any, assert_type

import numpy as np
from numpy.typing import NDArray

import posenet_store
from posenet_store import BackboneSpec, ImageSet, Reader, StoreError, StoreInfo

assert_type(posenet_store.__version__, str)
images = posenet_store.load_image_set("photos")
assert_type(images, ImageSet)
spec = BackboneSpec(name="resnet18", weights="random:0", taps="report")
backbone = posenet_store.load_backbone(posenet_store.BackboneSpec("resnet18", "random:0"))
assert_type(backbone, posenet_store.Backbone)
plan = posenet_store.plan_store(images, backbone, layout="native", dtype="float16")
assert_type(posenet_store.build_store(images, backbone, plan, Path("stores")), posenet_store.BuildResult)
try:
    reader = posenet_store.open_store("~/stores/x")
except StoreError as error:
    print(error)
else:
    assert_type(reader, Reader)
    assert_type(len(reader), int)
    assert_type(reader.read("f1", 0, 8), NDArray[Any])
    for batch in reader.batches(["f1"], 0, 8, batch_size=4, seed=0, epoch=0):
        assert_type(batch["f1"], NDArray[Any])
    for batch in reader.batches("f1"):
        assert_type(batch["f1"], NDArray[Any])
    array = reader["f5"]
    assert_type(array.shape, tuple[int, ...])
    assert_type(array[3:5, 0], NDArray[Any])
    assert_type(np.asarray(array), NDArray[Any])
    assert_type(reader.rows_of("a.png", "b.png"), NDArray[np.int64])
    assert_type(reader.taps[0].name, str)
infos, damaged = posenet_store.list_stores("stores")
assert_type(infos, list[StoreInfo])
assert_type(posenet_store.list_stores().stores, list[StoreInfo])
assert_type(posenet_store.load_backbone("vgg16"), posenet_store.Backbone)
sweep = posenet_store.load_sweep("patterns.toml")
assert_type(sweep, posenet_store.SweepSpec)
for damage in posenet_store.find_damage("stores/x", deep=True):
    assert_type(damage.block, int | None)
swept = posenet_store.run_sweep(sweep, posenet_store.plan_sweep(sweep), "~/runs/x")
assert_type(swept.failures, tuple[str, ...])
run = posenet_store.open_run("~/runs/x", Path("runs/y"))
assert_type(run, posenet_store.Run)
assert_type(len(run), int)
variance = posenet_store.compute_variance("stores/x")
assert_type(variance, posenet_store.StoreVariance)
run.to_pandas()
assert_type(posenet_store.make_card("~/stores/x"), str)
assert_type(posenet_store.write_card("https://lab.example.org/x", Path("README.md")), Path)
"""


def test_the_public_names_are_these() -> None:
    assert sorted(posenet_store.__all__) == [
        "Backbone", "BackboneSpec", "BuildError", "BuildResult", "ImageError", "ImageSet", "PosenetStoreError", "Reader",
        "Run", "StoreError", "StoreInfo", "StoreListing", "StoreVariance", "SweepSpec", "UsageError", "build_probe_store",
        "build_store", "compute_variance", "convert_store", "extend_store", "find_damage", "list_stores", "load_backbone",
        "load_image_set", "load_sweep", "make_card", "make_target_map", "open_run", "open_store", "plan_store", "plan_sweep",
        "repair_store", "run_sweep", "score_maps", "wrap_backbone", "write_card",
    ]  # fmt: skip
    for name in posenet_store.__all__:
        assert getattr(posenet_store, name).__doc__, f"{name} has no docstring"
    assert posenet_store.__version__ == version("posenet-store")


@pytest.mark.parametrize("package", PACKAGES)
def test_each_package_exports_its_names_and_none_hides_a_module(package: str) -> None:
    module = import_module(f"posenet_store.{package}")
    modules = {path.stem for path in Path(str(module.__file__)).parent.iterdir()}
    assert module.__all__
    assert not modules & set(module.__all__)
    assert set(module.__all__) <= set(dir(module))
    for name in module.__all__:
        assert getattr(module, name).__doc__


def test_completion_shows_the_public_names() -> None:
    assert set(posenet_store.__all__) <= set(dir(posenet_store))
    assert {"read", "scan", "batches", "torch", "dask", "xarray", "taps", "spec", "rows_of"} <= set(dir(posenet_store.Reader))


@pytest.mark.system
def test_a_users_script_passes_a_strict_type_check(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    options = ["--strict", "--config-file=", "--follow-imports=silent", f"--cache-dir={tmp_path}"]
    output, _, status = api.run([*options, str(script)])
    assert status == 0, output


def test_importing_the_package_or_the_command_line_costs_no_torch() -> None:
    code = "import sys, posenet_store.cli; sys.exit(any(m in sys.modules for m in ('torch', 'zarr', 'matplotlib', 'dask')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
