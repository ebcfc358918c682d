"""Record what a piece of work does to a folder, and list every state in which a power cut could leave that folder.

Before each change to files that Python makes, the folder itself is read and compared with what it was: no write can be
missed, whether Python, HDF5, zarr or Rust made it. Of `fsync` only the call is recorded. The model of the disk is that of
SQLite's and CrashMonkey's tests: what was not synced may be there or not.
"""

import os
import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import pytest

from tests.support.file_events import listen

PAGE = 4096
BYTES = ("whole", "lost", "zero", "torn")
"""What can become of bytes that were not synced."""


class Node(NamedTuple):
    """A file's bytes, or a folder's entries (name -> inode), and when they changed last, in ns."""

    content: bytes | Mapping[str, int]
    changed: int


class File(NamedTuple):
    """A file's bytes, None for a folder, and when it changed last, in ns."""

    data: bytes | None
    changed: int


Tree = dict[str, File]
"""Path below the watched folder -> file or folder; a folder stands before what it holds."""


@dataclass(frozen=True)
class Moment:
    """The watched folder `root` between two changes: its nodes by inode, as they are and as they were at their last fsync."""

    root: int
    nodes: Mapping[int, Node]
    synced: Mapping[int, Node]

    def list_lost_entries(self) -> list[frozenset[int]]:
        """List the folders that may lose their unsynced entries: none, each alone, all together."""
        folders = {inode for inode, node in self.nodes.items() if isinstance(node.content, Mapping)}
        unsynced = [inode for inode in folders if self._find_synced(inode) != self.nodes[inode].content]
        return list(dict.fromkeys(map(frozenset, ([], unsynced, *([inode] for inode in unsynced)))))

    def cut(self, kind: str, lost: frozenset[int]) -> Tree:
        """Return the tree after a power cut: unsynced bytes are `kind`, the folders `lost` have their synced entries only."""
        tree: Tree = {}

        def add(folder: int, where: str) -> None:
            entries = self._find_synced(folder) if folder in lost else self.nodes[folder].content
            assert isinstance(entries, Mapping)
            for name, inode in sorted(entries.items()):
                path, (content, changed) = f"{where}{name}", self.nodes[inode]
                if isinstance(content, bytes):
                    synced = self._find_synced(inode)
                    assert isinstance(synced, bytes)
                    tree[path] = File(cut_bytes(kind, content, synced), changed)
                else:
                    tree[path] = File(None, changed)
                    add(inode, f"{path}/")

        add(self.root, "")
        return tree

    def _find_synced(self, inode: int) -> bytes | Mapping[str, int]:
        if inode in self.synced:
            return self.synced[inode].content
        return b"" if isinstance(self.nodes[inode].content, bytes) else {}


def cut_bytes(kind: str, data: bytes, synced: bytes) -> bytes:
    """Return what a power cut leaves of a file: `data` were written, of which `synced` were on the disk.

    >>> [cut_bytes(kind, b"a" * 5000 + b"b", b"").count(b"a") for kind in BYTES]
    [5000, 0, 0, 4096]
    """
    if kind == "whole" or data == synced:
        return data
    if kind == "lost":
        return synced
    if kind == "torn":
        return data[:PAGE] + synced[PAGE:]
    pages = [(data[start : start + PAGE], synced[start : start + PAGE]) for start in range(0, len(data), PAGE)]
    return b"".join(page if page == before else bytes(len(page)) for page, before in pages)


class Recorder:
    """The moments of the folder `root` since it began to be watched; everything was synced then."""

    def __init__(self, root: Path) -> None:
        self._root, self._lock, self._reading = root, threading.RLock(), False
        self._descriptors: dict[int, int] = {}
        nodes = self._read()
        self.moments = [Moment(root.stat().st_ino, nodes, nodes)]

    def close(self) -> None:
        """Close the files that were kept open."""
        for descriptor in self._descriptors.values():
            os.close(descriptor)

    def observe(self, event: str = "", arguments: tuple[Any, ...] = ()) -> Moment:
        """Read the folder; return its last moment, a new one if it has changed."""
        with self._lock:
            if not self._reading:  # otherwise this is the recorder's own reading
                last = self.moments[-1]
                self._add(replace(last, nodes={**last.nodes, **self._read()}))
            return self.moments[-1]

    def sync(self, descriptor: int) -> None:
        """Record the fsync of a file or folder."""
        with self._lock:
            inode, now = os.fstat(descriptor).st_ino, self.observe()
            if inode in now.nodes:
                self._add(replace(now, synced={**now.synced, inode: now.nodes[inode]}))

    def sync_all(self) -> None:
        """Record a sync of everything."""
        with self._lock:
            now = self.observe()
            self._add(replace(now, synced=now.nodes))

    def _add(self, moment: Moment) -> None:
        if moment != self.moments[-1]:
            self.moments.append(moment)

    def _read(self) -> dict[int, Node]:
        nodes: dict[int, Node] = {}

        def read(path: Path) -> int | None:
            try:
                status = path.lstat()
                inode = status.st_ino
                if inode not in self._descriptors:  # kept open, since the number of an open file is given to no other
                    self._descriptors[inode] = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
                if path.is_dir():
                    entries = {child.name: number for child in path.iterdir() if (number := read(child)) is not None}
                    nodes[inode] = Node(entries, status.st_mtime_ns)
                else:
                    nodes[inode] = Node(path.read_bytes(), status.st_mtime_ns)
            except FileNotFoundError:  # another thread has just removed it
                return None
            return inode

        self._reading = True
        try:
            read(self._root)
        finally:
            self._reading = False
        return nodes


@contextmanager
def record(root: Path) -> Iterator[list[Moment]]:
    """Record all moments of the folder `root` while the block runs; nothing is really synced meanwhile."""
    recorder = Recorder(root)
    with pytest.MonkeyPatch.context() as patch, listen(recorder.observe):
        patch.setattr(os, "fsync", recorder.sync)
        patch.setattr(os, "sync", recorder.sync_all)
        try:
            yield recorder.moments
        finally:
            recorder.observe()
            recorder.close()


@dataclass(frozen=True)
class State:
    """A folder after a power cut, and how it came about."""

    cause: str
    ended: bool
    tree: Tree

    def digest(self) -> str:
        """Return a digest of the names and bytes."""
        digest = sha256()
        for path, (data, _) in self.tree.items():
            digest.update(f"{path}\0{-1 if data is None else len(data)}\0".encode() + (data or b""))
        return digest.hexdigest()

    def restore(self, root: Path) -> None:
        """Make the folder `root` the tree, with its times."""
        shutil.rmtree(root)
        root.mkdir()
        for path, (data, _) in self.tree.items():
            if data is None:
                (root / path).mkdir()
            else:
                (root / path).write_bytes(data)
        for path, (_, changed) in reversed(self.tree.items()):
            os.utime(root / path, ns=(changed, changed))


def list_states(moments: list[Moment]) -> list[State]:
    """List the states of all moments; `ended` are those of the last one, when the work has ended."""
    states = []
    for number, moment in enumerate(moments):
        for kind, lost in product(BYTES, moment.list_lost_entries()):
            cause = f"after change {number}, unsynced bytes {kind}, {len(lost)} folders without their new entries"
            states.append(State(cause, moment is moments[-1], moment.cut(kind, lost)))
    return states


@dataclass(frozen=True)
class Survey:
    """How many states there were and how many were distinct, and what went wrong in which."""

    states: int
    distinct: int
    violations: list[str]


class Command(Protocol):
    """A command that a power cut may end. It may be run again and again in the folder `disk`."""

    def run(self, disk: Path) -> object:
        """Do the work, or what is left of it."""
        ...

    def check(self, disk: Path) -> None:
        """Read everything that can be read; raises AssertionError if it is wrong and no error of the package says so."""
        ...

    def digest(self, disk: Path) -> object:
        """Return what is the same after every run; raises OSError or PosenetStoreError if the work is not complete."""
        ...


def cut_power(command: Command, disk: Path) -> Survey:
    """Run `command` in `disk`, then look at each state in which a power cut could have left it: check, run again, compare."""
    with record(disk) as moments:
        command.run(disk)
    expected, states = command.digest(disk), list_states(moments)
    distinct = {(state.digest(), state.ended): state for state in reversed(states)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        patch.setattr(os, "sync", lambda: None)
        violations = [text for state in distinct.values() if (text := _find_violation(command, disk, state, expected))]
    return Survey(len(states), len(distinct), violations)


def _find_violation(command: Command, disk: Path, state: State, expected: object) -> str | None:
    """Return what is wrong in a state, or after the command has been run again; None if nothing is."""
    state.restore(disk)
    try:
        assert not state.ended or command.digest(disk) == expected, "the work had ended, and is lost"
        command.check(disk)
        command.run(disk)
        assert command.digest(disk) == expected, "running it again gives something else"
    except Exception as error:
        return f"{state.cause}: {type(error).__name__}: {error}"
    return None
