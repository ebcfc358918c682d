"""The memory that a worker may use is the least of what the machine, cgroups and Slurm allow."""

from pathlib import Path

import pytest

from posenet_store.errors import UsageError
from posenet_store.parallel.executors import share_worker_memory
from posenet_store.parallel.machine import MIB, SHARE, has_bfloat16_instructions, parse_memory, read_memory_limit, share_memory

GIB = 1 << 30
FILES = {"proc/meminfo": f"MemTotal:   {8 * GIB // 1024} kB\nMemFree: 1 kB\n"}


@pytest.mark.parametrize(
    ("files", "environment", "expected"),
    [
        ({}, {}, 8 * GIB),
        ({"sys/fs/cgroup/memory.max": "max\n"}, {}, 8 * GIB),
        ({"sys/fs/cgroup/memory.max": f"{4 * GIB}\n"}, {}, 4 * GIB),
        ({"sys/fs/cgroup/memory/memory.limit_in_bytes": f"{3 * GIB}\n"}, {}, 3 * GIB),
        ({"sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n"}, {}, 8 * GIB),
        ({"proc/self/cgroup": "0::/job/step\n", "sys/fs/cgroup/job/memory.max": f"{2 * GIB}"}, {}, 2 * GIB),
        ({"proc/self/cgroup": "4:memory:/j\n", "sys/fs/cgroup/memory/j/memory.limit_in_bytes": f"{GIB}"}, {}, GIB),
        ({}, {"SLURM_MEM_PER_NODE": "2048"}, 2048 * MIB),
        ({}, {"SLURM_MEM_PER_NODE": "0"}, 8 * GIB),
        ({}, {"SLURM_MEM_PER_CPU": "1024", "SLURM_CPUS_ON_NODE": "3"}, 3 * GIB),
        ({}, {"SLURM_MEM_PER_CPU": "1024"}, 8 * GIB),
    ],
)
def test_the_least_limit_counts(tmp_path: Path, files: dict[str, str], environment: dict[str, str], expected: int) -> None:
    for name, text in (FILES | files).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert read_memory_limit(tmp_path, environment) == expected
    assert share_memory(4, tmp_path, environment) == int(expected * SHARE / 4)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("flags\t\t: fpu avx512_bf16 sse", True), ("flags : fpu avx2", False), ("Features : fp bf16", True), ("model : 1", True)],
)
def test_bfloat16_is_an_instruction_or_not(tmp_path: Path, text: str, expected: bool) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text(f"processor : 0\n{text}\n")
    assert has_bfloat16_instructions(tmp_path) is expected
    assert has_bfloat16_instructions(tmp_path / "absent")


def test_without_proc_the_system_says_how_much_there_is(tmp_path: Path) -> None:
    assert read_memory_limit(tmp_path, {}) > 1 << 28


@pytest.mark.parametrize("text", ["", "much", "0", "-1GB", "8 gallons"])
def test_a_wrong_size_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError, match="8GB"):
        parse_memory(text)


def test_workers_share_the_machine_and_a_slurm_job_has_its_own(tmp_path: Path) -> None:
    (tmp_path / "slurm.toml").write_text('memory = "16GB"\n')
    assert share_worker_memory(f"slurm:{tmp_path / 'slurm.toml'}") == 16e9 * SHARE
    (tmp_path / "slurm.toml").write_text('memory = ""\n')
    assert share_worker_memory(f"slurm:{tmp_path / 'slurm.toml'}") == share_memory()
    assert share_worker_memory("local", 2) == share_worker_memory("inline") // 2
