from .executors import run_tasks as run_tasks
from .slurm import SlurmSettings as SlurmSettings
from .slurm import load_slurm_settings as load_slurm_settings
