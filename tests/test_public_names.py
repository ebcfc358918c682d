"""The public surface is a list."""

import subprocess
import sys

import posenet_store


def test_the_public_names_are_these() -> None:
    assert sorted(posenet_store.__all__) == [
        "BuildError", "ImageError", "PosenetStoreError", "Reader", "Run", "StoreError", "SweepSpec", "UsageError",
        "build_store", "list_stores", "load_backbone", "load_image_set", "load_sweep", "make_target_map", "open_run",
        "open_store", "plan_store", "plan_sweep", "run_sweep", "score_maps", "wrap_backbone",
    ]  # fmt: skip
    for name in posenet_store.__all__:
        assert getattr(posenet_store, name).__doc__, f"{name} has no docstring"


def test_importing_the_package_or_the_command_line_costs_no_torch() -> None:
    code = "import sys, posenet_store.cli; sys.exit(any(m in sys.modules for m in ('torch', 'zarr', 'matplotlib', 'dask')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
