"""Set a worker process's threads and heap before a task; Dask's nanny sets both in its environment."""

import ctypes
from contextlib import suppress

from posenet_store.threads import set_threads

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGE = 32 << 20
"""glibc's own maximum of M_MMAP_THRESHOLD in bytes; its M_TRIM_THRESHOLD is then twice as large."""


def prepare_worker(threads: int) -> None:
    """Set the number of threads for arithmetic, and let the heap reuse freed memory.

    A nanny sets MALLOC_TRIM_THRESHOLD_, which makes the system clear new pages for every allocation of 128 KiB or more: a
    pass over all channels took 1.6 times as long.
    """
    set_threads(threads)
    keep_freed_memory()


def keep_freed_memory() -> None:
    """Let the heap reuse freed memory: the system clears each new page that it gives, and takes a twentieth of a build's time.

    Does nothing on systems without glibc's `mallopt`.
    """
    _call_libc("mallopt", M_MMAP_THRESHOLD, LARGE)
    _call_libc("mallopt", M_TRIM_THRESHOLD, 2 * LARGE)


def release_memory() -> None:
    """Return free memory to the system, before work that needs allocations of other sizes than the work before."""
    _call_libc("malloc_trim", 0)


def _call_libc(function: str, *arguments: int) -> None:
    """Call a function of glibc; does nothing if there is none of that name."""
    with suppress(AttributeError, OSError, TypeError):
        getattr(ctypes.CDLL(None), function)(*arguments)
