"""Threads: how many the arithmetic takes, and doing a list of independent things in threads of our own.

torch and the BLAS of NumPy and SciPy each have threads of their own; they are told together, and imported only then.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from functools import lru_cache, wraps
from typing import ParamSpec, TypeVar

from threadpoolctl import ThreadpoolController

Item = TypeVar("Item")
Result = TypeVar("Result")
Parameters = ParamSpec("Parameters")
Lock = AbstractContextManager[object]


def one_thread_at_a_time(lock: Lock) -> Callable[[Callable[Parameters, Result]], Callable[Parameters, Result]]:
    """Return a decorator: of all functions that share `lock`, one thread of the process runs one at a time.

    Use a lock that its thread may take again (`RLock`) where such functions call each other.
    """

    def decorate(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
        @wraps(function)
        def locked(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
            with lock:
                return function(*args, **kwargs)

        return locked

    return decorate


def count_cpus() -> int:
    """Return how many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@lru_cache(maxsize=1)
def _blas() -> ThreadpoolController:
    import scipy.linalg.blas  # noqa: F401 - it is found only once it is loaded

    return ThreadpoolController().select(user_api="blas")


def set_threads(threads: int) -> None:
    """Let arithmetic take that many threads from now on, whatever the environment said (Dask's nanny says one)."""
    import torch

    torch.set_num_threads(threads)
    _blas().limit(limits=threads)


@contextmanager
def limit_torch_to_one_thread() -> Iterator[int]:
    """Let torch take one thread; yields how many it took before.

    For work that BLAS does: torch's threads look for more to do for a while before they sleep, and keep BLAS's from working.
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield threads
    finally:
        torch.set_num_threads(threads)


@contextmanager
def limit_to_one_thread() -> Iterator[int]:
    """Let torch and BLAS take one thread, for work that has threads of its own; yields how many torch took before."""
    with limit_torch_to_one_thread() as threads, _blas().limit(limits=1):
        yield threads


def map_on_threads(work: Callable[[Item], Result], items: Iterable[Item], threads: int | None = None) -> list[Result]:
    """Return `work(item)` of every item, in order; the threads end with the call, so a later fork inherits none.

    Where one thread is asked for it is the caller's own.

    >>> map_on_threads(abs, [-1, 2])
    [1, 2]
    """
    if (count := threads or count_cpus()) == 1:
        return [work(item) for item in items]
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(work, items))
