"""Where do tasks run? In this process, in local processes, on Dask or on Slurm."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
