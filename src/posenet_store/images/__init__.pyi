from .image_set import ImageSet as ImageSet
from .sources import load_image_set as load_image_set
