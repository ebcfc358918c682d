"""What is a head, how is it trained and scored, given arrays? Numerics without files."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
