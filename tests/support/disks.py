"""Disks for tests: real small ones that can fill up or become read-only, and a sync that reports a full disk."""

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import pytest


@contextmanager
def mount_disk(folder: Path, size: str) -> Iterator[Callable[[str], object]]:
    """Mount a tmpfs of `size` at `folder`; yields a function that changes its mount options, such as `size=8m` or `ro`."""

    def mount(*words: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(["mount", *words, str(folder)], check=False, capture_output=True, text=True)

    folder.mkdir(parents=True)
    if (mounted := mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs")).returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.strip()}")
    try:
        yield lambda option: mount("-o", f"remount,{option}").check_returncode()
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def raise_full(path: Path) -> NoReturn:
    """Raise the error of a full disk: in place of `fsync`."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
