"""Doing a list of independent things on all processors, in threads: for work that releases the interpreter's lock."""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def processors() -> int:
    """Return the processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def on_threads(work: Callable[[Item], Result], items: Iterable[Item], threads: int | None = None) -> list[Result]:
    """Return `work(item)` of every item, in order; the threads end with the call, so a later fork inherits none.

    >>> on_threads(abs, [-1, 2])
    [1, 2]
    """
    with ThreadPoolExecutor(threads or processors()) as pool:
        return list(pool.map(work, items))
