"""Follow a sweep while it runs: what is done, what was read, how fast, and how long it may still take.

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
from posenet_store.store.reader import ReadCounter
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
    """Return what `report_progress` wrote last, None if there is nothing readable."""
    try:
        content = read_json(path)
        return ReadCounter(int(content["images"]), int(content["bytes"]))
    except (OSError, StoreError, KeyError, TypeError, ValueError):
        return None


@dataclass(frozen=True)
class SweepProgress:
    """Passes and cells done now (not before), what was read (of running passes too), seconds since the start, seconds left.

    `left` is None where nothing is known yet.
    """

    passes: int
    cells: int
    read: ReadCounter
    seconds: float
    left: float | None


class ProgressMonitor:
    """Follows the passes of a run by their results and by the files in `folder`.

    `expected` are the seconds that a pass, by its id, was planned to take; they are corrected by those that have ended.
    """

    def __init__(self, folder: Path, passes: Sequence[Pass], expected: Mapping[str, float]) -> None:
        self._folder, self._expected, self._workers = folder, expected, 1
        self._waiting = [one.id for one in passes]
        self._done: list[tuple[str, PassResult]] = []
        self._seen: dict[str, float] = {}
        self._began = time.monotonic()

    def ended(self, one: Pass, done: PassResult | None) -> None:
        """Note that a pass has ended, or failed if there is no result."""
        self._waiting.remove(one.id)
        if done is not None:
            self._done.append((one.id, done))

    @property
    def done(self) -> list[PassResult]:
        """What passes came to, in the order in which they ended."""
        return [one for _, one in self._done]

    def state(self) -> SweepProgress:
        """Return how things stand."""
        waiting, done = list(self._waiting), list(self._done)
        running = {one: counter for one in waiting if (counter := read_progress(self._folder / one)) is not None}
        for one in running:
            self._seen.setdefault(one, time.monotonic())
        self._workers = max(self._workers, len(running))
        read = sum([*running.values(), *(one.read for _, one in done)], ReadCounter())
        cells = sum(len(one.cells) for _, one in done)
        return SweepProgress(len(done), cells, read, time.monotonic() - self._began, self._left(waiting, done))

    def _left(self, waiting: Sequence[str], done: Sequence[tuple[str, PassResult]]) -> float | None:
        """What was planned for the passes that have not ended, at the pace of those that have, less what they have run."""
        planned = sum(self._expected.get(one, 0.0) for one, _ in done)
        pace = sum(one.seconds for _, one in done) / planned if planned else 1.0
        if any(one not in self._expected for one in waiting):
            return None
        now = time.monotonic()
        left = [max(0.0, pace * self._expected[one] - (now - self._seen.get(one, now))) for one in waiting]
        return max([sum(left) / self._workers, *left])

    @contextmanager
    def shown(self, show: Callable[[SweepProgress], None]) -> Iterator[None]:
        """Inside the block, show the state once a second; at its end once more, and remove the files."""
        shutil.rmtree(self._folder, ignore_errors=True)  # of a driver that was killed
        try:
            with repeat_in_background(lambda: show(self.state())):
                yield
        finally:
            show(self.state())
            shutil.rmtree(self._folder, ignore_errors=True)
