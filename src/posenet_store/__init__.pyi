from .backbones.backbone import Backbone as Backbone
from .backbones.load import load_backbone as load_backbone
from .backbones.load import wrap_backbone as wrap_backbone
from .errors import BuildError as BuildError
from .errors import ImageError as ImageError
from .errors import PosenetStoreError as PosenetStoreError
from .errors import StoreError as StoreError
from .errors import UsageError as UsageError
from .extraction.build import BuildResult as BuildResult
from .extraction.build import build_probe_store as build_probe_store
from .extraction.build import build_store as build_store
from .extraction.build import plan_store as plan_store
from .extraction.repair import repair_store as repair_store
from .heads.metrics import score_maps as score_maps
from .heads.targets import make_target_map as make_target_map
from .images.image_set import ImageSet as ImageSet
from .images.sources import load_image_set as load_image_set
from .report.run import Run as Run
from .report.run import open_run as open_run
from .specs import BackboneSpec as BackboneSpec
from .store.card import make_card as make_card
from .store.card import write_card as write_card
from .store.catalogue import StoreInfo as StoreInfo
from .store.catalogue import StoreListing as StoreListing
from .store.catalogue import list_stores as list_stores
from .store.convert import convert_store as convert_store
from .store.reader import Reader as Reader
from .store.reader import open_store as open_store
from .store.verify import find_damage as find_damage
from .sweep.plan import plan_sweep as plan_sweep
from .sweep.run import run_sweep as run_sweep
from .sweep.spec import SweepSpec as SweepSpec
from .sweep.spec import load_sweep as load_sweep
from .sweep.variance import compute_variance as compute_variance
from .sweep.variance_results import StoreVariance as StoreVariance

__all__: list[str]
__version__: str
