"""Fixtures that several files share, and which tests are system tests."""

from pathlib import Path

import pytest

from tests.support.lab import lab, labs
from tests.support.slurm_node import cluster

__all__ = ["cluster", "lab", "labs"]

SYSTEM = Path(__file__).parent / "system"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark everything below tests/system: it starts processes, mounts disks, or needs Slurm, a browser or nginx."""
    for item in items:
        if item.path.is_relative_to(SYSTEM):
            item.add_marker("system")
