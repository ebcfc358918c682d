"""Set the number of threads for arithmetic, and run independent work on threads.

torch and the BLAS of NumPy and SciPy have separate threads, which are set together; both are imported only then.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from functools import lru_cache, wraps
from pathlib import Path
from typing import Any, Generic, ParamSpec, TypeVar, overload

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


class cached_property(Generic[Item, Result]):
    """A property that is computed once, like that of functools, but without its lock.

    Up to Python 3.11 one lock serves all instances: a process that is forked while another thread computes a property waits
    for ever. Here two threads may compute the same value, and both get the first.
    """

    def __init__(self, compute: Callable[[Item], Result]) -> None:
        self._compute, self.__doc__ = compute, compute.__doc__

    @overload
    def __get__(self, instance: None, owner: type[Any]) -> "cached_property[Item, Result]": ...
    @overload
    def __get__(self, instance: Item, owner: type[Any]) -> Result: ...
    def __get__(self, instance: Item | None, owner: type[Any]) -> "Result | cached_property[Item, Result]":
        if instance is None:
            return self
        value: Result = vars(instance).setdefault(self._compute.__name__, self._compute(instance))
        return value


def count_cpus() -> int:
    """Return how many CPU cores this process may use; a container may have less time than cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, read_cpu_quota() or cores)


@lru_cache(maxsize=1)
def read_cpu_quota(file: Path = Path("/sys/fs/cgroup/cpu.max")) -> int | None:
    """Return the cores whose time a container may use (`docker run --cpus`), at least 1; None if there is no limit."""
    try:
        quota, period = map(int, file.read_text(encoding="ascii").split())
    except (OSError, ValueError):  # no cgroup of version 2, or the word "max"
        return None
    return max(1, quota // period)


@lru_cache(maxsize=1)
def _get_blas() -> ThreadpoolController:
    import scipy.linalg.blas  # noqa: F401 - the controller knows only loaded libraries

    return ThreadpoolController().select(user_api="blas")


def set_threads(threads: int) -> None:
    """Set the number of threads for arithmetic, whatever the environment says (Dask's nanny sets one)."""
    import torch

    torch.set_num_threads(threads)
    _get_blas().limit(limits=threads)


@contextmanager
def use_torch_threads(count: int) -> Iterator[int]:
    """Let torch use `count` threads in the context; yields their previous number."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield threads
    finally:
        torch.set_num_threads(threads)


def limit_torch_to_one_thread() -> AbstractContextManager[int]:
    """Limit torch to one thread in the context; yields its previous number.

    For work done by BLAS: torch's idle threads wait actively for a while and would slow BLAS's threads down.
    """
    return use_torch_threads(1)


@contextmanager
def limit_to_one_thread() -> Iterator[int]:
    """Limit torch and BLAS to one thread in the context, for work on other threads; yields torch's previous number."""
    with limit_torch_to_one_thread() as threads, _get_blas().limit(limits=1):
        yield threads


def stream_on_threads(
    work: Callable[[Item], Result], items: Iterable[Item], threads: int | None = None, pool: Executor | None = None
) -> Iterator[Result]:
    """Yield `work(item)` of every item, in order, while the threads do the next; they end with the last, so no fork has them.

    With one thread or item the work runs on the caller's. A `pool` lives longer than the call, and is shared with others.

    >>> next(stream_on_threads(abs, [-1, 2]))
    1
    """
    items = list(items)
    if pool is not None:
        yield from pool.map(work, items)
        return
    if (count := min(threads or count_cpus(), len(items))) <= 1:
        yield from map(work, items)
        return
    with ThreadPoolExecutor(count) as pool:
        yield from pool.map(work, items)


def map_on_threads(
    work: Callable[[Item], Result], items: Iterable[Item], threads: int | None = None, pool: Executor | None = None
) -> list[Result]:
    """Return what `stream_on_threads` yields.

    >>> map_on_threads(abs, [-1, 2])
    [1, 2]
    """
    return list(stream_on_threads(work, items, threads, pool))
