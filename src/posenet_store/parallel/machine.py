"""Find the memory that a worker on this machine may use: physical memory, or less where cgroups or Slurm limit it."""

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from posenet_store.errors import UsageError

SHARE = 0.5
"""Share of a worker's memory for a pass; the rest is for libraries, blocks being read and the file system's cache."""
CGROUP_LIMITS = ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes")
MIB = 1 << 20
MIN_MEMORY = 1_000_000  # bytes


def parse_memory(text: str) -> int:
    """Parse a size in bytes such as 8GB or 512MiB; raises UsageError for anything else.

    >>> parse_memory("8GB"), parse_memory("512 MiB")
    (8000000000, 536870912)
    """
    from dask.utils import parse_bytes

    try:
        size = parse_bytes(text)
    except ValueError:
        size = 0
    if size < MIN_MEMORY:
        raise UsageError(f"memory {text!r} is not accepted; give at least 1MB, such as 8GB or 512MiB")
    return size


def read_memory_limit(root: Path = Path("/"), environment: Mapping[str, str] | None = None) -> int:
    """Return the bytes that the processes of this job may use together on this machine.

    That is the minimum of physical memory, Slurm's limits and those of cgroups (v1 or v2, of this process and its parents).
    """
    return min(_find_limits(root, os.environ if environment is None else environment))


def share_memory(workers: int = 1, root: Path = Path("/"), environment: Mapping[str, str] | None = None) -> int:
    """Return the bytes that a pass may use if `workers` workers share this machine."""
    return int(read_memory_limit(root, environment) * SHARE / workers)


def _find_limits(root: Path, environment: Mapping[str, str]) -> Iterator[int]:
    meminfo = (root / "proc/meminfo").read_text(encoding="ascii") if (root / "proc/meminfo").is_file() else ""
    if "MemTotal:" in meminfo:
        yield int(meminfo.split("MemTotal:")[1].split()[0]) * 1024
    else:
        yield os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in _list_cgroup_files(root):
        with suppress(OSError, ValueError):  # absent, or the word "max"
            yield int(path.read_text(encoding="ascii"))
    with suppress(KeyError, ValueError):
        yield int(environment["SLURM_MEM_PER_NODE"]) * MIB or 1 << 62  # 0 is all memory of the node
    with suppress(KeyError, ValueError):
        yield int(environment["SLURM_MEM_PER_CPU"]) * int(environment["SLURM_CPUS_ON_NODE"]) * MIB


def _list_cgroup_files(root: Path) -> Iterator[Path]:
    """Yield the files that may limit this process: those of its own cgroup and of each parent."""
    yield from (root / name for name in CGROUP_LIMITS)
    with suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text(encoding="ascii").splitlines():
            _, controllers, name = line.split(":", 2)
            if controllers not in ("", "memory"):
                continue
            base = "sys/fs/cgroup/memory" if controllers else "sys/fs/cgroup"
            file = "memory.limit_in_bytes" if controllers else "memory.max"
            parts = [part for part in name.split("/") if part]
            yield from (root.joinpath(base, *parts[:depth], file) for depth in range(1, len(parts) + 1))
