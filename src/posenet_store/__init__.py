"""Run a frozen CNN once, keep its features, then read position out of them with hundreds of heads.

>>> import posenet_store
>>> posenet_store.target_map("H", 26).shape
(26, 26)
"""

from importlib import import_module

from posenet_store.errors import BuildError, ImageError, PosenetStoreError, StoreError, UsageError

# Loaded when first used: `import posenet_store` costs neither torch nor zarr.
_HOMES = {
    "Reader": "reader",
    "Run": "report.run",
    "SweepSpec": "sweep_spec",
    "build": "extract",
    "image_set": "sources",
    "load_backbone": "backbones",
    "load_sweep": "sweep_spec",
    "open_run": "report.run",
    "open_store": "reader",
    "own_backbone": "backbones",
    "plan_store": "extract",
    "plan_sweep": "planning",
    "run_sweep": "sweep",
    "score": "metrics",
    "stores": "catalogue",
    "target_map": "targets",
}

__all__ = [  # noqa: PLE0604
    "BuildError",
    "ImageError",
    "PosenetStoreError",
    "StoreError",
    "UsageError",
    *_HOMES,
]


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(f"posenet_store.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'posenet_store' has no attribute {name!r}")
