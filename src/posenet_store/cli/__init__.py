"""The command line: parse, one call into the library, print."""

import errno
from typing import Any

import click

from posenet_store.cli.build import build_store
from posenet_store.cli.evaluate import evaluate
from posenet_store.cli.fetch import fetch
from posenet_store.cli.options import printable
from posenet_store.cli.show import compare, inspect, report, stores, table
from posenet_store.cli.train import sweep
from posenet_store.cli.verify import convert, verify
from posenet_store.errors import PosenetStoreError

DISK_TROUBLE = (
    errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.EIO, errno.ESTALE,
    errno.ETIMEDOUT,
)  # fmt: skip


class _Group(click.Group):
    """Turns what a user can cause into one sentence and an exit code; everything else keeps its traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except PosenetStoreError as error:
            _fail(ctx, str(error), error.exit_code)
        except KeyboardInterrupt:
            _fail(ctx, "interrupted; everything committed is safe, type the same command again to go on", 1)
        except OSError as error:
            if error.errno not in DISK_TROUBLE:
                raise
            where = f" ({error.filename})" if error.filename else ""
            _fail(ctx, f"{error.strerror}{where}; everything committed is safe: mend it and type the same command again", 1)


def _fail(ctx: click.Context, message: str, code: int) -> None:
    click.echo(f"error: {printable(message)}", err=True)
    ctx.exit(code)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="posenet-store")
def main() -> None:
    """Run a frozen CNN once, keep its features in a store, then train hundreds of readout heads from it."""


for _command in (build_store, stores, inspect, verify, convert, sweep, evaluate, table, compare, report, fetch):
    main.add_command(_command)
