"""Check a worker before it gets tasks: the code and torch of the command, and a disk that both see.

What runs on a worker travels by value: Dask sends a nested function as code, so that it runs where this package is missing.
It must import what it uses, and nothing of this package.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from posenet_store.temporaries import name_temporary

Facts = Mapping[str, Any]


def make_check(token: str) -> Callable[[], Facts]:
    """Return a function that says what a worker has: `code` (a digest), `torch` (a version), `disk` (whether it sees `token`).

    A disk that caches its folders may show a new file late; the function looks for five seconds.
    """

    def check() -> Facts:
        from contextlib import suppress
        from hashlib import sha256
        from importlib.metadata import PackageNotFoundError, version
        from importlib.util import find_spec
        from pathlib import Path
        from time import sleep

        code, torch, tries = None, None, 0
        spec = find_spec("posenet_store")
        if spec is not None and spec.origin is not None:
            folder, digest = Path(spec.origin).parent, sha256()
            for path in sorted(folder.rglob("*.py")):
                digest.update(str(path.relative_to(folder)).encode() + path.read_bytes())
            code = digest.hexdigest()[:8]
        with suppress(PackageNotFoundError):
            torch = version("torch")
        while token and not (disk := Path(token).is_file()) and tries < 10:
            tries += 1
            sleep(0.5)
        return {"code": code, "torch": torch, "disk": not token or disk}

    return check


def make_runner() -> Callable[[bytes], Any]:
    """Return a function that calls the function that it gets, with its arguments, from bytes.

    A scheduler passes bytes on without importing what they hold.
    """

    def run(payload: bytes) -> Any:
        from distributed.protocol.pickle import loads

        function, arguments = loads(payload)
        return function(*arguments)

    return run


def describe_fault(facts: Facts, here: Facts, folder: Path | None) -> str | None:
    """Return why a worker with `facts` can't do tasks of a command with `here`; None if it can.

    >>> here = {"code": "5e6f7a8b", "torch": "2.14.1", "disk": True}
    >>> describe_fault(here | {"torch": "2.5.0"}, here, None)
    'it has torch 2.5.0, the command 2.14.1'
    """
    if facts["code"] is None:
        return "the package posenet_store is not installed there"
    if facts["code"] != here["code"]:
        return f"its posenet_store has other code (digest {facts['code']}, the command's {here['code']})"
    if facts["torch"] != here["torch"]:
        return f"it has torch {facts['torch']}, the command {here['torch']}"
    return None if facts["disk"] else f"it does not see what the command writes to {folder}: is the disk shared?"


@contextmanager
def write_token(folder: Path | None) -> Iterator[str]:
    """Yield the path of a small file in `folder` for workers to look for, and remove it at the end; no folder, no file."""
    if folder is None:
        yield ""
        return
    folder.mkdir(parents=True, exist_ok=True)
    token = name_temporary(folder.resolve() / "worker-check")
    token.touch()
    try:
        yield str(token)
    finally:
        with suppress(OSError):
            token.unlink()
