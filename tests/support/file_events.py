"""Call functions before each change to files that Python makes, in any thread.

Python's audit hooks see open, rename, remove, mkdir, rmdir, link and truncate wherever they are called from. A hook can't be
removed, so this module installs one, for all listeners.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Listener = Callable[[str, tuple[Any, ...]], object]
"""Called with the event and its arguments before the change is made; what it raises is raised instead."""

CHANGES = frozenset(("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate"))
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_listeners: list[Listener] = []
_installed: list[bool] = []


def _notify(event: str, arguments: tuple[Any, ...]) -> None:
    if _listeners and (event in CHANGES or (event == "open" and arguments[2] & WRITING)):
        for listener in tuple(_listeners):
            listener(event, arguments)


@contextmanager
def listen(listener: Listener) -> Iterator[None]:
    """Call `listener` before each change to files in this process while the block runs."""
    if not _installed:
        sys.addaudithook(_notify)
        _installed.append(True)
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)
