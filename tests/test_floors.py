"""The architecture: imports go downwards only, and each heavy dependency has one owner."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src/posenet_store"

FLOORS = (
    ("errors",),
    (
        "files",
        "provenance",
        "taps",
        "dead_leaves",
        "threads",
        "summary",
        "optimizers",
        "unfolding",
        "settings",
        "recipes",
        "states",
        "unpack",
    ),
    ("stages", "worker", "specs", "targets", "metrics", "images", "slurm", "tally", "report.published", "download"),
    ("statistics", "blocks", "layout", "cells", "alignment", "canvas", "sources", "executors", "heads", "remote"),
    (
        "gather",
        "moments",
        "formats.shards",
        "formats",
        "formats.zarr",
        "formats.hdf5",
        "inputs",
        "decoders",
        "sweep_spec",
    ),
    ("compute", "views", "loading", "store", "reader", "weights", "fused", "ridge", "catalogue", "results", "padding"),
    ("networks", "gram", "iterative"),
    ("backbones",),
    ("families", "fetch"),
    ("drift", "forward", "decoding"),
    ("committing",),
    ("extract", "scoring", "planning", "verify", "convert"),
    ("parts", "estimate"),
    ("training", "exact"),
    ("passes", "evaluation", "cost"),
    ("live",),
    ("sweep",),
    ("report", "report.listing", "report.fields", "report.drawing"),
    ("report.evidence",),
    ("report.table", "report.cautions"),
    ("report.maps", "report.ranking", "report.pairs", "report.cell_table"),
    ("report.curves", "report.compare"),
    ("report.run", "report.findings"),
    (
        "report.page",
        "report.head_maps",
    ),
    ("cli.options",),
    ("cli.bench", "cli.build", "cli.evaluate", "cli.fetch", "cli.train", "cli.show", "cli.verify"),
    ("cli",),
    ("",),
)
WITHIN = {
    ("taps", "files"), ("layout", "blocks"), ("sources", "canvas"),
    ("remote", "layout"), ("formats.zarr", "formats.shards"), ("formats.zarr", "formats"),
    ("reader", "views"), ("reader", "loading"), ("cli.train", "cli.build"), ("cli.evaluate", "cli.build"),
    ("cli.verify", "cli.build"),
}  # fmt: skip
OWNERS = {
    "zarr": {"formats.zarr"},
    "numcodecs": {"formats.shards"},
    "google_crc32c": {"files"},
    "threadpoolctl": {"threads"},
    "obstore": {"remote"},
    "xarray": {"views", "reader"},  # the reader names types only
    "h5py": {"formats.hdf5"},
    "torchvision": {"networks"},
    "dask": {"executors", "views", "reader"},  # tasks; lazy arrays; types only
    "distributed": {"executors", "slurm"},  # tasks; the state of a job
    "dask_jobqueue": {"slurm"},
    "matplotlib": {"report.drawing"},
    "jinja2": {"report.page"},
    "click": {"cli", *(f"cli.{name}" for name in "bench build evaluate fetch options show train verify".split())},  # noqa: SIM905
    "rich": {"cli.options"},
}
# The store is all that lies between: neither side may reach the other, at any distance.
APART = (
    (
        {
            "extract",
            "estimate",
            "parts",
            "drift",
            "decoding",
            "forward",
            "committing",
            "compute",
            "backbones",
            "networks",
            "weights",
            "images",
            "sources",
        },
        {"passes", "sweep", "planning", "report.page", "report.head_maps", "evaluation"},
    ),
)


def name_of(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def imports(path: Path) -> Iterator[str]:
    """Every imported module, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


MODULES = {name_of(path): path for path in SOURCE.rglob("*.py")}
FLOOR_OF = {name: number for number, floor in enumerate(FLOORS) for name in floor}


def project_imports(name: str) -> set[str]:
    found = (module.removeprefix("posenet_store.") for module in imports(MODULES[name]) if module.startswith("posenet_store."))
    return {module for module in found if module in MODULES}


def test_every_module_has_a_floor_and_every_floor_exists() -> None:
    assert set(MODULES) == set(FLOOR_OF)


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_go_downwards(name: str) -> None:
    for target in project_imports(name) - {name}:
        lower = FLOOR_OF[target] < FLOOR_OF[name] or (name, target) in WITHIN
        assert lower, f"{name} (floor {FLOOR_OF[name]}) imports {target} (floor {FLOOR_OF[target]})"


@pytest.mark.parametrize("package", sorted(OWNERS))
def test_a_heavy_dependency_has_one_owner(package: str) -> None:
    users = {name for name, path in MODULES.items() if any(m.split(".")[0] == package for m in imports(path))}
    assert users == OWNERS[package]


def reachable(name: str) -> set[str]:
    seen: set[str] = set()
    waiting = [name]
    while waiting:
        for target in project_imports(waiting.pop()) - seen:
            seen.add(target)
            waiting.append(target)
    return seen


def test_extraction_and_training_never_meet() -> None:
    for one, other in APART:
        for name in one:
            assert not reachable(name) & other
        for name in other:
            assert not reachable(name) & one


def test_files_and_functions_stay_small() -> None:
    for path in SOURCE.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert text.count("\n") <= 300, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                docstring = ast.get_docstring(node, clean=False)
                length = (node.end_lineno or 0) - node.lineno + 1 - (docstring.count("\n") + 1 if docstring else 0)
                assert length <= 45, f"{path}: {node.name} has {length} lines"
