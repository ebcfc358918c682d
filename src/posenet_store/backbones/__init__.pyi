from .backbone import Backbone as Backbone
from .load import load_backbone as load_backbone
from .load import wrap_backbone as wrap_backbone
