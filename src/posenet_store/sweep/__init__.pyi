from .plan import SweepPlan as SweepPlan
from .plan import plan_sweep as plan_sweep
from .run import SweepResult as SweepResult
from .run import run_sweep as run_sweep
from .spec import SweepSpec as SweepSpec
from .spec import load_sweep as load_sweep
