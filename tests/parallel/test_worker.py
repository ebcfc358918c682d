"""What a task sets in its process, whatever Dask's nanny set before."""

import os
import subprocess
import sys

import pytest

FAULTS = """
import resource
import sys

import numpy as np
import torch


from posenet_store.parallel.worker import prepare_worker

if sys.argv[1] == "prepared":
    prepare_worker(1)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(100):
    np.ones(1 << 17)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before, torch.get_num_threads())
"""


def in_nanny(word: str) -> tuple[int, int]:
    """Page faults of a hundred arrays of 1 MiB, and torch's threads, in a process with the environment of a nanny's child."""
    words = [sys.executable, "-c", FAULTS, word]
    environment = os.environ | {"MALLOC_TRIM_THRESHOLD_": "65536", "OMP_NUM_THREADS": "2"}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    faults, threads = map(int, done.stdout.split())
    return faults, threads


@pytest.mark.system
def test_freed_memory_is_used_again_and_threads_are_what_the_task_says() -> None:
    faults, threads = in_nanny("prepared")
    assert threads == 1
    assert faults < in_nanny("bare")[0] / 10  # 25,600 pages of 4 KiB, each cleared by the system
