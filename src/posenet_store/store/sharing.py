"""Share the blocks of a sealed store with a store that begins with the same rows: by hard links, else as copies.

Sealed files never change, and whoever repairs a store gives a file's name to a new one (`exclusive`): what happens to one of
two stores that share files does not happen to the other.
"""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from posenet_store.errors import StoreError
from posenet_store.files import FileIdentity, find_existing
from posenet_store.store.access import EncodedFiles, StoreFiles
from posenet_store.store.plan import Plan
from posenet_store.store.reader import Reader
from posenet_store.store.records import find_fault
from posenet_store.store.writer import EncodedBlock, LinkedBlock, QuarantinedImage, StoreWriter


def list_shared(base: Reader, plan: Plan) -> list[int]:
    """Return the blocks of a plan whose rows are those of a block of `base`: all but a last one that is not full."""
    return [block for block, (ours, theirs) in enumerate(zip(plan.bounds, base.bounds, strict=False)) if ours == theirs]


def list_quarantined(base: Reader, start: int) -> list[QuarantinedImage]:
    """Return the images from the row `start` on that could not be read."""
    return [QuarantinedImage(**entry) for entry in base.manifest["quarantined"] if entry["row"] >= start]


def count_copied(base: Reader | None, root: Path) -> int:
    """Return the rows of `base` that a store below `root` can't share, as it lies on another disk."""
    if base is None:
        return 0
    local = isinstance(base.files, StoreFiles) and base.files.root.stat().st_dev == find_existing(root).stat().st_dev
    return 0 if local else base.spec.rows


def open_writer(root: Path, plan: Plan, folder: Path, base: Reader | None) -> StoreWriter:
    """Create or resume a store (`StoreWriter.open`) that may share files of `base`; those are not read again."""
    writer = StoreWriter.open(root, plan, folder)
    writer.trusted |= _list_digests(base) if base else {}
    return writer


def _list_digests(base: Reader) -> dict[FileIdentity, str]:
    """Return the recorded digest of each data file of a store in a folder, whatever the file is called elsewhere."""
    if not isinstance(base.files, StoreFiles):
        return {}
    entries = (entry for block in range(len(base.bounds)) for entry in base.read_record(block)["files"])
    digests = {}
    for entry in entries:
        with suppress(FileNotFoundError):
            digests[FileIdentity.of((base.files.root / entry["path"]).stat())] = entry["sha256"]
    return digests


def share_blocks(base: Reader, writer: StoreWriter, blocks: Iterable[int]) -> list[int]:
    """Give a store those of `blocks` that `base` holds in full, and return the others.

    Raises StoreError if a file of `base` is missing or has another size, or was damaged where it has to be copied.
    """
    shared, others = set(list_shared(base, writer.plan)), []
    for block in blocks:
        if block in shared:
            _share_block(base, writer, block)
        else:
            others.append(block)
    return others


def _share_block(base: Reader, writer: StoreWriter, block: int) -> None:
    record = base.read_record(block)
    entries = record["files"]
    content = {name: value for name, value in record.items() if name not in ("files", "sha256")}
    content["fingerprint"] = writer.plan.spec.fingerprint
    if fault := next(filter(None, (find_fault(base.files, entry, deep=False) for entry in entries)), None):
        raise StoreError(f"{fault}; repair that store before you extend it: verify --repair")
    if isinstance(base.files, StoreFiles):
        files = {entry["path"]: (base.files.root / entry["path"]).resolve() for entry in entries}
        with suppress(OSError):  # another disk, one without hard links, or files of somebody else
            writer.write(LinkedBlock(block, files, content, entries))
            return
    _copy_block(base, writer, block, content, entries)


def _copy_block(
    base: Reader, writer: StoreWriter, block: int, content: dict[str, Any], entries: Sequence[dict[str, Any]]
) -> None:  # fmt: skip
    """Copy a block's files, which are compared with the record of `base`."""
    files: EncodedFiles = {}
    for entry in entries:
        with base.files.open(entry["path"]) as file:
            files[entry["path"]] = [file.read()]
    encoded = EncodedBlock(block, files, content)
    if encoded.describe_files() != entries:
        raise StoreError(f"block {block} of {base.files} is damaged; repair that store before you extend it: verify --repair")
    writer.write(encoded)
