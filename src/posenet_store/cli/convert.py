"""convert: copy a store into another format."""

from pathlib import Path

import click

from posenet_store.cli.help import command
from posenet_store.cli.output import print_path, progress
from posenet_store.files import check_writable
from posenet_store.specs import FORMATS


@command(example="convert stores/vgg16-photos-0a1b2c3d --format hdf5")
@click.argument("store", metavar="STORE")
@click.option("--format", "file_format", type=click.Choice(FORMATS), required=True)
@click.option(
    "--stores", "root", type=click.Path(path_type=Path), help="Where the copy goes.  [default: the local store's folder]"
)
def convert(store: str, file_format: str, root: Path | None) -> None:
    """Copy a sealed store into another format.

    The store may be a folder or a URL. Every block is verified. A rerun continues an interrupted copy. The last
    line printed is the copy's path.
    """
    if root is not None:
        check_writable(root, "--stores")

    from posenet_store.store.convert import convert_store
    from posenet_store.store.reader import open_store

    if root is None and "://" in store:
        raise click.UsageError("a store behind a URL is copied to a folder: give --stores")
    reader = open_store(store)
    with progress() as bars:
        bar = bars.add_task(f"{reader.name} to {file_format}", total=reader.spec.rows, unit="images")
        path = convert_store(reader, file_format, root or Path(store).resolve().parent, lambda rows: bars.advance(bar, rows))
    print_path(path)
