"""How does a row become a result? Which heads share a pass, how they are fitted and scored."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
