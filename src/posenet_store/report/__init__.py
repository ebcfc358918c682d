"""What a person looks at: Table 2 with published numbers beside ours, the figures, the page."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
