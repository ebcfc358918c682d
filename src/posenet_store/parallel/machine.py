"""Find what this machine has: the memory that a worker may use (cgroups or Slurm may limit it), and bfloat16 instructions."""

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from posenet_store.errors import UsageError

BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16", "sve_bf16"}
"""What Linux calls a CPU's instructions for bfloat16, x86 and ARM."""
SHARE = 0.5
"""Share of a worker's memory for a pass; the rest is for libraries, blocks being read and the file system's cache."""
FLAG_LISTS = ("flags", "Features")
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


def has_bfloat16_instructions(root: Path = Path("/")) -> bool:
    """Return whether the CPU multiplies bfloat16 itself; True where the system does not tell."""
    cpuinfo = root / "proc/cpuinfo"
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else []
    flags = [set(words.split()) for name, _, words in (line.partition(":") for line in lines) if name.strip() in FLAG_LISTS]
    return not flags or bool(flags[0] & BFLOAT16_FLAGS)


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
