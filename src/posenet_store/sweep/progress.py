"""Follow a running sweep: passes done, images and bytes read, seconds spent and seconds left.

Workers may be on other machines, so each writes what its pass has read to a small file in the run's folder, which all of
them share. Nothing depends on these files: they are not synced, a failure to write one is ignored, and they are removed
when the run ends.
"""

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread

from posenet_store.errors import StoreError
from posenet_store.files import canonical_json, read_json, replace_unsynced
from posenet_store.notebook import show_progress
from posenet_store.store.read_counter import ReadCounter
from posenet_store.sweep.plan import Pass
from posenet_store.sweep.results import PassResult

INTERVAL = 1.0  # seconds


@contextmanager
def repeat_in_background(work: Callable[[], object]) -> Iterator[None]:
    """Call `work` once a second in a thread while the block runs; the thread has ended when the block has."""
    ended = Event()

    def repeat() -> None:
        while not ended.wait(INTERVAL):
            work()

    thread = Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextmanager
def report_progress(path: Path, counters: Sequence[ReadCounter]) -> Iterator[None]:
    """Write the sum of `counters` to `path` once a second while the block runs; other threads may change them."""

    def write() -> None:
        with suppress(OSError):
            path.parent.mkdir(exist_ok=True)
            replace_unsynced(path, canonical_json(vars(sum(counters, ReadCounter()))))

    with repeat_in_background(write):
        yield


def read_progress(path: Path) -> ReadCounter | None:
    """Read what `report_progress` wrote last; None if there is no readable file."""
    try:
        content = read_json(path)
        return ReadCounter(int(content["images"]), int(content["bytes"]))
    except (OSError, StoreError, KeyError, TypeError, ValueError):
        return None


def read_steps(folder: Path, task: str) -> ReadCounter | None:
    """Read what a pass has read, with all its steps if workers share it; None if there is no readable file."""
    counters = [counter for path in folder.glob(f"{task}*") if (counter := read_progress(path)) is not None]
    return sum(counters, ReadCounter()) if counters else None


@dataclass(frozen=True)
class SweepProgress:
    """Passes and cells done in this run, what was read (by running passes too), seconds since the start, seconds left.

    `left` is None if it is not known.
    """

    passes: int
    cells: int
    read: ReadCounter
    seconds: float
    left: float | None


@contextmanager
def show_in_notebook(title: str, heads: int) -> Iterator[Callable[[SweepProgress], None]]:
    """Yield a function that shows progress as a bar of `heads` heads in a notebook, and does nothing anywhere else."""
    counted = 0
    with show_progress(title, heads, "heads") as advance:

        def show(state: SweepProgress) -> None:
            nonlocal counted
            advance(state.cells - counted)
            counted = state.cells

        yield show


class ProgressMonitor:
    """The progress of a run's passes, from their results and the files in `folder`.

    `expected` are the planned seconds of each pass by its id, which the passes that have ended correct. Without any the time
    left is known once a pass has ended: passes are taken to last as long as they have cells.
    """

    def __init__(self, folder: Path, passes: Sequence[Pass], expected: Mapping[str, float]) -> None:
        self._folder, self._workers, self._planned = folder, 1, bool(expected)
        self._expected = expected or {task.id: len(task.cells) for task in passes}
        self._waiting = [task.id for task in passes]
        self._results: dict[str, PassResult] = {}
        self._first_seen: dict[str, float] = {}
        self._began = time.monotonic()

    def record_end(self, task: Pass, result: PassResult | None) -> None:
        """Record that a pass has ended; without a result, that it has failed."""
        self._waiting.remove(task.id)
        if result is not None:
            self._results[task.id] = result

    @property
    def results(self) -> list[PassResult]:
        """Results of the passes that have ended, in that order."""
        return list(self._results.values())

    def state(self) -> SweepProgress:
        """Return the progress now."""
        waiting, results = list(self._waiting), dict(self._results)
        running = {name: counter for name in waiting if (counter := read_steps(self._folder, name)) is not None}
        for name in running:
            self._first_seen.setdefault(name, time.monotonic())
        self._workers = max(self._workers, len(running))
        read = sum([*running.values(), *(result.read for result in results.values())], ReadCounter())
        cells = sum(len(result.cells) for result in results.values())
        left = self._estimate_left(waiting, results)
        return SweepProgress(len(results), cells, read, time.monotonic() - self._began, left)

    def _estimate_left(self, waiting: Sequence[str], results: Mapping[str, PassResult]) -> float | None:
        """Planned seconds of the waiting passes at the pace of the ended ones, less the seconds that they have run."""
        planned = sum(self._expected.get(name, 0.0) for name in results)
        pace = sum(result.seconds for result in results.values()) / planned if planned else 1.0
        begun = results or self._first_seen or not waiting  # jobs may wait in a queue, nobody knows how long
        if not begun or any(name not in self._expected for name in waiting) or not (self._planned or planned or not waiting):
            return None
        now = time.monotonic()
        left = [max(0.0, pace * self._expected[name] - (now - self._first_seen.get(name, now))) for name in waiting]
        return max([sum(left) / self._workers, *left])

    @contextmanager
    def show_progress(self, show: Callable[[SweepProgress], None]) -> Iterator[None]:
        """Show the progress once a second while the block runs and once at its end, then remove the files."""
        shutil.rmtree(self._folder, ignore_errors=True)  # of a driver that was killed
        try:
            with repeat_in_background(lambda: show(self.state())):
                yield
        finally:
            show(self.state())
            shutil.rmtree(self._folder, ignore_errors=True)
