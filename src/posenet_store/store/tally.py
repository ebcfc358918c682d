"""What a pass has read so far, told by its worker while it runs, in a small file that people at the terminal are shown.

Workers may be on other machines, and the run's folder is what all of them share. Nothing depends on these files: they are
not synced, a failure to write one is ignored, and they are gone when the run ends.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread

from posenet_store.errors import StoreError
from posenet_store.files import canonical_json, read_json, replace_unsynced

EVERY = 1.0  # seconds


@dataclass
class Tally:
    """Images given, again in every epoch, and bytes decoded for them."""

    images: int = 0
    bytes: int = 0


def total(tallies: Sequence[Tally]) -> Tally:
    """Return the sum.

    >>> total([Tally(2, 30), Tally(1, 4)])
    Tally(images=3, bytes=34)
    """
    return Tally(sum(one.images for one in tallies), sum(one.bytes for one in tallies))


@contextmanager
def repeating(work: Callable[[], object]) -> Iterator[None]:
    """Inside the block, do `work` once a second in a thread; at its end the thread has ended too."""
    ended = Event()

    def repeated() -> None:
        while not ended.wait(EVERY):
            work()

    thread = Thread(target=repeated, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextmanager
def report_progress(path: Path, tallies: Sequence[Tally]) -> Iterator[None]:
    """Inside the block, write to `path` once a second what the tallies, which others change, add up to."""

    def tell() -> None:
        with suppress(OSError):
            path.parent.mkdir(exist_ok=True)
            replace_unsynced(path, canonical_json(vars(total(tallies))))

    with repeating(tell):
        yield


def told(path: Path) -> Tally | None:
    """Return what was last told, None if nothing was."""
    try:
        found = read_json(path)
        return Tally(int(found["images"]), int(found["bytes"]))
    except (OSError, StoreError, KeyError, TypeError, ValueError):
        return None
