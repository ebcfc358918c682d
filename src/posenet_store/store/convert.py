"""Copy a store into another format, block by block; each copied block is read back and compared with the original."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from posenet_store.errors import BuildError
from posenet_store.files import expand_user
from posenet_store.provenance import collect_provenance
from posenet_store.store.formats import load_format
from posenet_store.store.reader import Reader
from posenet_store.store.writer import QuarantinedImage, StoreWriter


def convert_store(
    reader: Reader, file_format: str, root: str | Path, advance: Callable[[int], None] = lambda rows: None
) -> Path:
    """Copy a sealed store, local or behind a URL, to `root` in `file_format`, or resume an interrupted copy.

    `advance(n)` is called after n more rows are copied. Returns the copy's path. Raises BuildError if a copied block does
    not read back as it was written, StoreError if the original is damaged.
    """
    spec = replace(reader.spec, format=file_format)
    provenance = reader.plan.provenance | {
        "converted": collect_provenance() | {"from": reader.name, "store_id": reader.manifest["store_id"]}
    }
    writer = StoreWriter.open(expand_user(root), replace(reader.plan, spec=spec, provenance=provenance, files=()))
    missing = writer.list_missing(deep=not writer.sealed)
    for block, (start, stop) in enumerate(reader.bounds):
        if block in missing:
            _copy_block(reader, writer, block)
        advance(stop - start)
    if not writer.sealed:
        writer.seal(reader.manifest["summary"] | collect_provenance())
    return writer.files.root


def _copy_block(reader: Reader, writer: StoreWriter, block: int) -> None:
    start, stop = reader.bounds[block]
    arrays = {name: reader.read(name, start, stop) for name in reader.spec.arrays}
    writer.commit(block, arrays, [QuarantinedImage(**entry) for entry in reader.read_record(block)["quarantined"]])
    copy = load_format(writer.plan.spec.format).open_arrays(writer.files, writer.plan.spec)
    for name, values in arrays.items():
        copied = np.empty_like(values)
        copy.read(name, start, copied)
        if not np.array_equal(copied, values, equal_nan=True):
            writer.discard(block)
            raise BuildError(f"block {block} of {name} does not read back as it was written to {writer.files}")
