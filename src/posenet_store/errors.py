"""The errors that a user can meet; each message says what came, what is accepted and what to do.

PosenetStoreError            exit code 1: the work failed
├── UsageError               exit code 2: a name, a path, an option or a TOML key is wrong
├── ImageError               one image can't be read (the build quarantines it and goes on)
├── BuildError               the build stopped; finished blocks are kept; rerun the command to resume
├── StoreError               a store is missing, unsealed, of another version, or damaged
└── WorkerError              a worker can't do a task that others may do
"""

import difflib
import re
from collections.abc import Iterable


class PosenetStoreError(Exception):
    """The root of all errors of this package; the command line prints it without a traceback."""

    exit_code = 1


class UsageError(PosenetStoreError):
    """Something the user typed is not accepted."""

    exit_code = 2


class ImageError(PosenetStoreError):
    """One image can't be decoded; the message is the reason that the store records."""


class BuildError(PosenetStoreError):
    """A build had to stop; committed blocks are safe."""


class StoreError(PosenetStoreError):
    """A store can't be opened, or what it holds is not what its records say."""


class WorkerError(PosenetStoreError):
    """A worker can't do a task that others may do: it has other images, weights or code than the command."""


class DamageWarning(UserWarning):
    """A cell of a run is damaged: it is left out, and done again by the next sweep."""


OUT_OF_MEMORY = re.compile("out of memory|allocate memory|_ALLOC_FAILED|unable to find an engine|CUBLAS_STATUS_NOT_INITIALIZED")
"""What torch's allocators, the driver, cuDNN (whose plans all lack room) and cuBLAS say where memory does not suffice."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that the memory of the machine or of a GPU did not suffice.

    >>> is_out_of_memory(RuntimeError("CUDA error: out of memory")), is_out_of_memory(RuntimeError("shapes differ"))
    (True, False)
    """
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and bool(OUT_OF_MEMORY.search(str(error))))


SHOWN = 200
"""Letters of a value that a message shows."""


def printable(text: str) -> str:
    """Return `text` with control characters escaped: what comes from outside must not move the cursor or break a line.

    >>> printable("a\\nb é")
    'a\\\\nb é'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def show_value(value: object) -> str:
    """Return the `repr` of what a user gave, cut where it is long.

    >>> show_value([0.5]), len(show_value("x" * 1000)), show_value(1 << 99_999)
    ('[0.5]', 200, 'a huge int')
    """
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # Python writes whole numbers of up to 4,300 digits
        return f"a huge {type(value).__name__}"
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."


def first_line(error: BaseException) -> str:
    """Return the first line of a foreign error's text, or its type where it has none.

    >>> first_line(ValueError("bad header\\nand a page of advice")), first_line(EOFError())
    ('bad header', 'EOFError')
    """
    return next(iter(str(error).splitlines()), type(error).__name__)


def suggest(got: object, known: Iterable[str]) -> str:
    """Return a hint at the accepted name that is nearest to `got`, nothing if none is near.

    >>> suggest("HH", ["H", "V"]), suggest("x", ["H", "V"])
    (" (did you mean 'H'?)", '')
    """
    near = difflib.get_close_matches(show_value(got).strip("'"), list(known), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def unknown(kind: str, got: object, known: Iterable[str]) -> UsageError:
    """Build the error for a name outside a closed set, with the nearest accepted one first.

    >>> str(unknown("target", "HH", ["H", "V"]))
    "unknown target 'HH' (did you mean 'H'?); accepted: H, V"
    """
    names = list(known)
    return UsageError(f"unknown {kind} {show_value(got)}{suggest(got, names)}; accepted: {', '.join(names)}")
