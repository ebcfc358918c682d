"""Fixtures that several files share, and which tests are system tests."""

import os
from pathlib import Path

import pytest

from tests.support.lab import lab, labs
from tests.support.slurm_node import cluster

__all__ = ["cluster", "lab", "labs"]

SYSTEM = Path(__file__).parent / "system"
os.environ["POSENET_HASH_CACHE"] = "off"  # for the processes that tests start, too
os.environ.pop("COLUMNS", None)  # pytest's workers have 80; a table in a pipe has no limit


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark everything below tests/system; the tests of a file stay on one worker, and all that use Slurm on the same one."""
    for item in items:
        if item.path.is_relative_to(SYSTEM):
            item.add_marker("system")
        item.add_marker(pytest.mark.xdist_group("slurm" if "slurm" in item.path.name else str(item.path)))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what tests have counted (`record_property`)."""
    for report in [*terminalreporter.getreports("passed"), *terminalreporter.getreports("failed")]:
        for name, count in report.user_properties:
            terminalreporter.write_line(f"{name}, {report.location[2]}: {count}")
