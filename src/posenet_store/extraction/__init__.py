"""How does an image become a row? Reading, decoding, the network, encoding and committing."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
