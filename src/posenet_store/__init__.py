"""Run a frozen CNN once, keep its features, then train hundreds of readout heads from the store.

`__init__.pyi` lists the public names; each is loaded when it is first used, so that the import costs neither torch nor zarr.

>>> import posenet_store
>>> posenet_store.make_target_map("H", 26).shape
(26, 26)
"""

from importlib.metadata import version

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__version__ = version("posenet-store")
