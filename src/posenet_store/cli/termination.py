"""End every command on SIGTERM, also as the first process of a container, which the system does not end by itself."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from threading import current_thread, main_thread

from posenet_store.cli.output import print_line

RECEIVED: list[int] = []


@contextmanager
def end_on_sigterm() -> Iterator[None]:
    """End the program on SIGTERM while the block runs, with the exit code that schedulers expect; finished work is kept."""
    if current_thread() is not main_thread():  # only there Python handles signals
        yield
        return
    RECEIVED.clear()
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _terminate(number: int, frame: object) -> None:
    """Handle the signal."""
    RECEIVED.append(number)
    print_line("terminated; finished work is kept: rerun the command to continue", err=True)
    check_sigterm()


def check_sigterm() -> None:
    """Raise SystemExit if the signal came.

    Python swallows an exception that a signal raises inside a destructor or a weak reference's callback, so long work calls
    this now and then.
    """
    if RECEIVED:
        raise SystemExit(128 + signal.SIGTERM)
