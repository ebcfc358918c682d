from .file import load_head as load_head
from .file import save_head as save_head
from .model import Heads as Heads
from .protocols import GradientProtocol as GradientProtocol
from .protocols import RidgeProtocol as RidgeProtocol
