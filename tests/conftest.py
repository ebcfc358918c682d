"""Fixtures that several files share."""

from lab import lab, labs
from slurm_node import cluster

__all__ = ["cluster", "lab", "labs"]
