"""What a worker's process is set to before a task, whatever Dask's nanny put into its environment: threads and heap."""

import ctypes
from contextlib import suppress

from posenet_store.threads import set_threads

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGE = 32 << 20
"""glibc itself comes to this at most for a piece of the heap, and to twice as much for what stays free at its end."""


def prepare_worker(threads: int) -> None:
    """Let arithmetic take that many threads, and freed memory be used again.

    A nanny sets MALLOC_TRIM_THRESHOLD_, and with it every piece of 128 KiB is new memory of the system's, cleared page by
    page: a pass over all channels took 1.6 times as long. Systems without glibc's `mallopt` are left as they are.
    """
    set_threads(threads)
    _tell("mallopt", M_MMAP_THRESHOLD, LARGE)
    _tell("mallopt", M_TRIM_THRESHOLD, 2 * LARGE)


def release_memory() -> None:
    """Give memory that is free back to the system, for work that needs pieces of other sizes than the work before."""
    _tell("malloc_trim", 0)


def _tell(function: str, *words: int) -> None:
    with suppress(AttributeError, OSError, TypeError):
        getattr(ctypes.CDLL(None), function)(*words)
