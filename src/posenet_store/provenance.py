"""Collect the provenance of stores and runs, versions, machine, time and command, and show the command."""

import os
import platform
import shlex
import sys
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import PurePath
from typing import Any

PACKAGES = (
    *("posenet-store", "torch", "torchvision", "numpy", "scipy", "pillow"),
    *("zarr", "numcodecs", "h5py", "isal", "dask", "safetensors"),
)


@cache
def collect_versions() -> dict[str, str]:
    """Return the versions of Python and of the installed packages that numbers depend on."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


def collect_provenance() -> dict[str, Any]:
    """Return versions, the kind and the name of the machine, UTC time and the command line."""
    return {
        "versions": collect_versions(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors",
        "node": platform.node(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(sys.argv),
    }


def format_command(command: str) -> str:
    """Return a recorded command line without the path of its program; what is no command line is quoted.

    >>> format_command("/data/study.py sweep demo.toml"), format_command("/usr/bin/posenet-store sweep demo.toml")
    ('python study.py sweep demo.toml', 'posenet-store sweep demo.toml')
    """
    try:
        program, *words = shlex.split(command) or [""]
    except ValueError:  # a quotation without an end: a store's record may come from anybody
        return shlex.quote(command)
    name = PurePath(program).name
    return shlex.join([*(["python", name] if name.endswith(".py") else [name]), *words])
