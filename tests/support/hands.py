"""Commands that run in threads and stop before each change to files: any interleaving of them, one change at a time.

A `Hand` that is not told to go on is a suspended job. One that is killed makes no change from then on, as after SIGKILL: it
does not even clean up.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from posenet_store.errors import PosenetStoreError
from tests.support.file_events import listen

SECONDS = 60.0  # in which a command must make its next change
ALL = 1_000_000  # changes: more than any command makes


class Killed(BaseException):
    """Raised in the place of a change by a hand that was killed."""


class Hand:
    """A command in a thread; `error` is the error of the package with which it ended, if it did."""

    def __init__(self, name: str, command: Callable[[], object]) -> None:
        self.name, self.ended, self.error = name, False, ""
        self._changes, self._waits, self._killed = 0, False, False
        self._crash: BaseException | None = None
        self._turn = threading.Condition()
        self._thread = threading.Thread(target=self._run, args=(command,), daemon=True)

    def go_on(self, changes: int) -> None:
        """Let it make so many changes, fewer if it ends; raises what it raised if that is no error of the package."""
        with self._turn:
            self._changes = changes
            self._turn.notify_all()
            if self._thread.ident is None:
                self._thread.start()
            stopped = self._turn.wait_for(
                lambda: self.ended or (self._waits and not self._changes and not self._killed), SECONDS
            )
        assert stopped, f"{self.name} neither ends nor changes anything"
        if self._crash is not None:
            raise self._crash

    def kill(self) -> None:
        """End it before its next change."""
        self._killed = True
        self.go_on(0)

    def wait_for_turn(self, visible: bool) -> None:
        """Wait until the change that comes next may be made; only those that others can see are counted."""
        with self._turn:
            if visible and not self._changes:
                self._waits = True
                self._turn.notify_all()
                self._turn.wait_for(lambda: self._changes or self._killed)
                self._waits = False
            if self._killed:
                raise Killed
            self._changes -= visible

    def _has_stopped(self) -> bool:
        return self.ended or (self._waits and not self._changes and not self._killed)

    def _run(self, command: Callable[[], object]) -> None:
        try:
            command()
        except PosenetStoreError as error:
            self.error = str(error)
        except Killed:
            self.error = "killed"
        except BaseException as error:
            self._crash = error
        with self._turn:
            self.ended = True
            self._turn.notify_all()


class Change(NamedTuple):
    """A change that comes next: what goes and comes, as far as others see it, and the source and target of what moves.

    A change that `links` fails if what comes is there.
    """

    goes: Path | None
    comes: Path | None
    source: Path | None = None
    target: Path | None = None
    links: bool = False


class Stage:
    """The folder `root`, in which one hand at a time makes changes; `announce` is called before each that others can see."""

    def __init__(self, root: Path, announce: Callable[[Change], None]) -> None:
        self._root, self._announce = root, announce
        self._running: Hand | None = None

    @contextmanager
    def let(self, hand: Hand) -> Iterator[None]:
        """Let `hand` make changes while the block runs."""
        with listen(self._stop):
            self._running = hand
            try:
                yield
            finally:
                self._running = None

    def _stop(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self._running is None or threading.current_thread() is threading.main_thread():
            return
        first, second = Path(str(arguments[0])), Path(str(arguments[1]))
        change = Change(None, None)
        if event in ("os.rename", "os.link"):
            links = event == "os.link"
            change = Change(None if links else self._see(first), self._see(second), first, second, links)
        elif event in ("os.remove", "os.rmdir"):
            change = Change(self._see(first), None)
        elif event == "os.mkdir":
            change = Change(None, self._see(first))
        visible = change.goes is not None or change.comes is not None
        self._running.wait_for_turn(visible)
        if visible:
            self._announce(change)

    def _see(self, path: Path) -> Path | None:
        """Return the path if it lies in the folder and is not hidden."""
        inside = path.is_relative_to(self._root)
        return path if inside and not any(part.startswith(".") for part in path.relative_to(self._root).parts) else None
