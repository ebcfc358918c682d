"""Name temporaries after the process that owns them, and remove those that no living process can own.

A killed process leaves its temporary files and folders behind. Their names have the machine, the process and its start. On
the same machine it is known whether that process lives. Of another machine, with which a network disk is shared, nothing is
known: its temporaries are abandoned when they have not changed for an hour. So are those of this machine's earlier starts.
"""

import os
import re
import shutil
import time
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from hashlib import sha256
from pathlib import Path
from uuid import uuid4

MAX_PAUSE = 3600.0
"""Seconds for which the process of another machine may not change its temporary."""
OWNER = re.compile(r"\.([0-9a-f]{8})-(\d+)-(\d+)-[0-9a-f]{8}\.tmp$")
"""How a name ends: machine, process id, its start (ticks since the machine's), and what makes it unique."""


@cache
def _identify_machine() -> str:
    """Return a digest of what numbers processes: a start of a system, and in it a namespace, such as a container's.

    Without /proc each process gets one of its own, so that nothing is taken for known.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_bytes()
        return sha256(boot + str(Path("/proc/self/ns/pid").stat().st_ino).encode()).hexdigest()[:8]
    except OSError:
        return uuid4().hex[:8]


def _read_stat(process: int) -> list[str]:
    """Return the fields of /proc/ID/stat behind the name: the state is the first, the start the twentieth.

    Raises OSError if there is no such process, or if it is hidden from this user.
    """
    return Path(f"/proc/{process}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()


def name_temporary(path: Path) -> Path:
    """Return a unique hidden path beside `path`, for what will become it, or was it, with the owner in its name."""
    start = "0"
    with suppress(OSError):
        start = _read_stat(os.getpid())[19]
    return path.with_name(f".{path.name}.{_identify_machine()}-{os.getpid()}-{start}-{uuid4().hex[:8]}.tmp")


def _is_alive(process: int, start: str) -> bool:
    """Return whether a process of this machine lives; True also if that can't be known."""
    try:
        os.kill(process, 0)
        fields = _read_stat(process)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # another user's
        fields = []
    return not fields or (fields[19] == start and fields[0] not in ("Z", "X"))  # a zombie writes no more


def is_abandoned(temporary: Path) -> bool:
    """Return whether no living process can own a temporary; False if it is gone."""
    owner = OWNER.search(temporary.name)
    if owner and owner[1] == _identify_machine():
        return not _is_alive(int(owner[2]), owner[3])
    try:
        status = temporary.stat()
    except OSError:
        return False
    return time.time() - max(status.st_mtime, status.st_ctime) > MAX_PAUSE  # renaming changes the latter only


def remove_abandoned(temporaries: Iterable[Path]) -> None:
    """Remove those files and folders that are abandoned, and no link; what can't be removed stays."""
    for path in temporaries:
        if not path.is_symlink() and is_abandoned(path):
            with suppress(OSError):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
