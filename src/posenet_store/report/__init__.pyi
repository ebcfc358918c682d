from .run import Run as Run
from .run import open_run as open_run
