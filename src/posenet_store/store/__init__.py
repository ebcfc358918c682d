"""What is on disk? The plan, records and files of a store: written, read, verified, converted."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
