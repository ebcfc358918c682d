"""Fixtures that several files share."""

from tests.support.lab import lab, labs
from tests.support.slurm_node import cluster

__all__ = ["cluster", "lab", "labs"]
