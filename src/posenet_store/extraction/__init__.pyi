from .build import BuildResult as BuildResult
from .build import build_store as build_store
from .build import plan_store as plan_store
