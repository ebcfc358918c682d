"""See what a process opens, connects to and starts, and refuse none of it: Python's audit hook, and inotify for C."""

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

STARTS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty", "pty.spawn")
CHANGES = {"os.remove": 1, "os.rename": 2, "os.mkdir": 1, "os.rmdir": 1, "os.link": 2, "os.symlink": 2, "os.truncate": 1,
           "os.chmod": 1, "shutil.rmtree": 1}  # fmt: skip
"""Event -> how many of its arguments are paths."""
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
READABLE = (
    sys.prefix,
    sys.base_prefix,
    str(Path(__file__).parents[2]),
    "/proc/",
    "/sys/",
    "/dev/null",
    "/dev/urandom",
    "/usr/lib",
)
"""What the interpreter, its packages and this package's own files need."""
IN_FILE, IN_FOLDER = 0x1 | 0x2 | 0x20, 0x100 | 0x200  # access, modify, open; create, delete


def _make_absolute(path: Any) -> str:
    return os.fsdecode(os.path.abspath(path))  # noqa: PTH100 - a path of pathlib can't be any text


class Watch:
    """What was done outside of `folder` since the last `take`; `outside` are files that nobody may touch, by any language."""

    def __init__(self, folder: Path, samples: Path, outside: Path, network: bool) -> None:
        self._folder, self._network = str(folder), network
        self._readable = (*READABLE, str(samples))
        self._watching, self._seen = False, list[str]()
        libc = ctypes.CDLL(None, use_errno=True)
        self._events = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        for path in (outside, *outside.iterdir()):
            libc.inotify_add_watch(self._events, os.fsencode(path), IN_FOLDER if path == outside else IN_FILE)
        sys.addaudithook(self._notice)  # can't be removed: a process has one watch

    def _notice(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._watching:
            return
        if event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
            path = _make_absolute(arguments[0])
            writes = bool(arguments[2] & WRITING) and path != "/dev/null"
            if not path.startswith(self._folder) and (writes or not path.startswith(self._readable)):
                self._seen.append(f"{'writes' if writes else 'reads'} {path}")
        elif event in STARTS:
            self._seen.append(f"starts {arguments!r:.200}")
        elif event in CHANGES:
            paths = [_make_absolute(path) for path in arguments[: CHANGES[event]] if not isinstance(path, int)]
            self._seen += [f"{event} {path}" for path in paths if not path.startswith(self._folder)]
        elif event == "socket.connect" and not self._network and arguments[1][0] != "127.0.0.1":
            self._seen.append(f"connects to {arguments[1]!r}")

    @contextmanager
    def watching(self) -> Iterator[list[str]]:
        """Yield the list of what is done outside while the context lasts."""
        self._has_events()  # of what has drawn the input
        self._seen, self._watching = [], True
        try:
            yield self._seen
        finally:
            self._watching = False
            if self._has_events():
                self._seen.append("touches a file outside, in C")

    def _has_events(self) -> bool:
        """Return whether a file outside was touched since the last call."""
        try:
            return bool(os.read(self._events, 1 << 16))
        except BlockingIOError:
            return False
