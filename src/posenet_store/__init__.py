"""Run a frozen CNN once, keep its features, then read position out of them with hundreds of heads.

>>> import posenet_store
>>> posenet_store.make_target_map("H", 26).shape
(26, 26)
"""

from importlib import import_module

from posenet_store.errors import BuildError, ImageError, PosenetStoreError, StoreError, UsageError

# Loaded when first used: `import posenet_store` costs neither torch nor zarr.
_HOMES = {
    "Reader": "store.reader",
    "Run": "report.run",
    "SweepSpec": "sweep.spec",
    "build_store": "extraction.build",
    "load_image_set": "images.sources",
    "load_backbone": "backbones.load",
    "load_sweep": "sweep.spec",
    "open_run": "report.run",
    "open_store": "store.reader",
    "wrap_backbone": "backbones.load",
    "plan_store": "extraction.build",
    "plan_sweep": "sweep.plan",
    "run_sweep": "sweep.run",
    "score_maps": "heads.metrics",
    "list_stores": "store.catalogue",
    "make_target_map": "heads.targets",
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
