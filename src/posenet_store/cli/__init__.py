"""How do I drive it? The command line: one file a command; each parses, calls the library and prints."""

import errno
import gc
import io
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from posenet_store.cli.accuracy import accuracy
from posenet_store.cli.build_store import build_store
from posenet_store.cli.channels import channels
from posenet_store.cli.compare import compare
from posenet_store.cli.convert import convert
from posenet_store.cli.erase import erase
from posenet_store.cli.evaluate import evaluate
from posenet_store.cli.experiments import experiments
from posenet_store.cli.fetch import fetch
from posenet_store.cli.inspect import inspect
from posenet_store.cli.launch import launch
from posenet_store.cli.leaderboard import leaderboard
from posenet_store.cli.output import print_line
from posenet_store.cli.pooling import pooling
from posenet_store.cli.prune import prune
from posenet_store.cli.report import report
from posenet_store.cli.rings import rings
from posenet_store.cli.run import run
from posenet_store.cli.stage_shares import stage_shares
from posenet_store.cli.stores import stores
from posenet_store.cli.sweep import sweep
from posenet_store.cli.symmetry import symmetry
from posenet_store.cli.table import table
from posenet_store.cli.termination import end_on_sigterm
from posenet_store.cli.variance import variance
from posenet_store.cli.verify import verify
from posenet_store.errors import DamageWarning, PosenetStoreError, first_line, is_out_of_memory

DISK_ERRORS = (
    errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.EIO, errno.ESTALE,
    errno.ETIMEDOUT, errno.ENOENT, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP, errno.ENODEV,
)  # fmt: skip


INTERRUPTED = 128 + signal.SIGINT
ROOM = "free some, or give a smaller --batch-size, fewer --workers or --device cpu"
RARELY = (100_000, 50, 50)
"""When garbage is looked for: what imports and figures allocate lives to the end, and looking takes an eighth of a sweep."""


class _Group(click.Group):
    """Report errors that a user can cause in one sentence with an exit code; other errors keep their traceback."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order in which a user needs them."""
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with _show_damage(), end_on_sigterm():
                return super().invoke(ctx)
        except PosenetStoreError as error:
            _fail(ctx, str(error), error.exit_code)
        except KeyboardInterrupt as error:
            _fail(
                ctx,
                f"interrupted; {_describe_kept(error) or 'finished work is kept'}: rerun the command to continue",
                INTERRUPTED,
            )
        except SystemExit as error:
            if note := _describe_kept(error):
                print_line(note, err=True)
            raise
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            _fail(ctx, f"out of memory ({first_line(error)}); finished work is kept: {ROOM}, and rerun the command", 1)
        except OSError as error:
            if error.errno not in DISK_ERRORS:
                raise
            where = f" ({error.filename})" if error.filename else ""
            _fail(ctx, f"{error.strerror}{where}; finished work is kept: fix the cause and rerun the command", 1)


@contextmanager
def _show_damage() -> Iterator[None]:
    """Print what is damaged once, as a line without the place in the code."""
    with warnings.catch_warnings():
        warnings.simplefilter("default", DamageWarning)
        show = warnings.showwarning

        def show_line(message: Warning | str, category: type[Warning], *where: Any, **options: Any) -> None:
            if category is DamageWarning:
                print_line(f"damaged: {message}", err=True)
            else:
                show(message, category, *where, **options)

        warnings.showwarning = show_line
        yield


def _describe_kept(stop: BaseException) -> str:
    """Return what the work that was stopped noted of what is kept, nothing if it did not."""
    return "; ".join(getattr(stop, "__notes__", ()))


def _fail(ctx: click.Context, message: str, code: int) -> None:
    print_line(f"error: {message}", err=True)
    ctx.exit(code)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80})
@click.version_option(package_name="posenet-store")
def main() -> None:
    """Run a frozen CNN once, keep its features in a store, then train hundreds of readout heads from it."""
    gc.set_threshold(*RARELY)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")  # a path is printed as its bytes are, in any encoding


for _command in (
    run,
    build_store,
    stores,
    prune,
    inspect,
    verify,
    convert,
    sweep,
    evaluate,
    variance,
    erase,
    accuracy,
    table,
    compare,
    leaderboard,
    report,
    rings,
    stage_shares,
    symmetry,
    pooling,
    channels,
    experiments,
    fetch,
    launch,
):
    main.add_command(_command)
