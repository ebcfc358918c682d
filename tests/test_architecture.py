"""The architecture beyond what import-linter keeps (`pyproject.toml`): owners of heavy dependencies, and sizes."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src/posenet_store"
MODULES = sorted(SOURCE.rglob("*.py"))
OWNERS = {
    "zarr": {"store"},
    "numcodecs": {"store"},
    "isal": {"store"},
    "google_crc32c": {"files"},
    "threadpoolctl": {"threads"},
    "obstore": {"store"},
    "xarray": {"store"},
    "h5py": {"store", "backbones"},  # the store's HDF5 format; Keras weights
    "torchvision": {"backbones"},
    "timm": {"backbones"},
    "huggingface_hub": {"backbones"},  # it downloads timm's weights
    "dask": {"parallel", "store"},  # tasks; lazy arrays
    "distributed": {"parallel"},
    "dask_jobqueue": {"parallel"},
    "matplotlib": {"report"},
    "jinja2": {"report"},
    "click": {"cli"},
    "rich": {"cli"},
    "IPython": {"notebook"},
    "pandas": {"report"},
}
"""Dependency -> the packages (or base modules) that import it, in functions too."""


def list_imports(path: Path) -> Iterator[str]:
    """Yield every top-level package that a module imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").split(".")[0]


@pytest.mark.parametrize("dependency", sorted(OWNERS))
def test_a_heavy_dependency_has_one_owner(dependency: str) -> None:
    users = {path.relative_to(SOURCE).parts[0].removesuffix(".py") for path in MODULES if dependency in list_imports(path)}
    assert users == OWNERS[dependency]


def test_the_top_of_the_package_stays_small() -> None:
    assert len(list(SOURCE.glob("*.py"))) <= 12


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_files_and_functions_stay_small(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 300
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = ast.get_docstring(node, clean=False)
            length = (node.end_lineno or 0) - node.lineno + 1 - (docstring.count("\n") + 1 if docstring else 0)
            assert length <= 40, f"{node.name} has {length} lines"
