"""fetch: download the image set DUT-S."""

import re
from pathlib import Path

import click

from posenet_store.cli.help import command
from posenet_store.cli.options import data_root_option
from posenet_store.cli.output import print_above, print_path, progress
from posenet_store.errors import UsageError
from posenet_store.files import check_writable

STEPS = (("downloading", "MB"), ("unpacking", "files"))


def _check_digest(_context: click.Context, _option: click.Parameter, text: str | None) -> str | None:
    if text is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", text):
        raise UsageError(f"--sha256 {text!r} is not accepted; give 64 hexadecimal digits")
    return text and text.lower()


@command(example="fetch duts-te --data-root /data")
@click.argument("name", metavar="duts-te|duts-tr")
@data_root_option
@click.option("--url", help="Another URL of the zip archive.  [default: saliencydetection.net]")
@click.option(
    "--sha256",
    metavar="HEX",
    callback=_check_digest,
    help="Expected digest of the archive. The actual one is recorded in any case.",
)
def fetch(name: str, data_root: Path | None, url: str | None, sha256: str | None) -> None:
    """Download DUT-S.

    It is unpacked where --images duts-te and duts-tr expect it. A rerun continues an interrupted download. The last
    line printed is the folder.
    """
    from posenet_store.images.duts import fetch_duts
    from posenet_store.images.sources import find_duts_root

    where = find_duts_root(name, data_root)
    check_writable(where, "--data-root")
    with progress() as bars:
        line, files = (bars.add_task(f"{word} {name}", total=None, unit=unit, start=False) for word, unit in STEPS)

        def show_download(have: int, size: int | None) -> None:
            bars.start_task(line)
            bars.update(line, completed=have // 1_000_000, total=size and size // 1_000_000)

        def show_unpacking(done: int, count: int | None) -> None:
            bars.start_task(files)
            bars.update(files, completed=done, total=count)

        folder = fetch_duts(name, where, url, sha256, show_download, show_unpacking, print_above(bars))
    print_path(folder)
