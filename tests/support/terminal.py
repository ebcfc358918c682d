"""A terminal of a given width, in which the command line runs in this process."""

import contextlib
import fcntl
import os
import pty
import struct
import termios
import threading
from pathlib import Path

from posenet_store.cli import main


def show_in_terminal(columns: int, *words: str | Path) -> str:
    """Run the command line with standard output on a terminal of so many columns; return what it shows there."""
    controller, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    parts: list[bytes] = []

    def read() -> None:
        with contextlib.suppress(OSError):  # the terminal was closed
            while part := os.read(controller, 4096):
                parts.append(part)

    reader = threading.Thread(target=read)
    reader.start()
    with os.fdopen(terminal, "w", encoding="utf-8") as out, contextlib.redirect_stdout(out):
        main([str(word) for word in words], standalone_mode=False)
    reader.join()
    os.close(controller)
    return b"".join(parts).decode().replace("\r\n", "\n")
