"""Describe stores: what they hold and in what state they are; list those below a root."""

from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from posenet_store.errors import PosenetStoreError
from posenet_store.files import check_folder, expand_user
from posenet_store.notebook import format_html_table
from posenet_store.specs import ALIGNED, StoreSpec
from posenet_store.store.access import MANIFEST, PLAN, StoreFiles
from posenet_store.store.access_remote import open_files
from posenet_store.store.chunking import count_row_bytes
from posenet_store.store.plan import read_plan
from posenet_store.store.records import read_committed_records, read_manifest


@dataclass(frozen=True, repr=False)
class StoreInfo:
    """A store's path, spec and begin (UTC, ISO 8601), whether it is sealed, and how much of it is committed or quarantined."""

    path: Path
    spec: StoreSpec
    sealed: bool
    blocks: int
    committed: int
    bytes: int
    quarantined: int
    created: str = ""

    def __repr__(self) -> str:
        return f"<StoreInfo {self.path.name}: {self.spec.images}, {self.spec.rows} rows, {self.state}>"

    @property
    def state(self) -> str:
        """How far the build is: "sealed", "1 of 4 blocks", or "all 4 blocks, not sealed": the same command seals it."""
        counts = f"{self.committed} of {self.blocks} blocks"
        return "sealed" if self.sealed else counts if self.committed < self.blocks else f"all {self.blocks} blocks, not sealed"

    def to_dict(self) -> dict[str, Any]:
        """Return the facts that `stores --json` prints."""
        spec = self.spec
        return {
            "name": self.path.name,
            "network": spec.network,
            "images": spec.images,
            "rows": spec.rows,
            "layout": spec.layout,
            "dtype": spec.dtype,
            "bytes": self.bytes,
            "compression": round(count_row_bytes(spec) * spec.rows / self.bytes, 2) if self.sealed else None,
            "state": self.state,
            "quarantined": self.quarantined,
            "fingerprint": spec.fingerprint,
        }


class StoreListing(NamedTuple):
    """The stores below a root by name, and a line for every folder that claims to be one but is damaged."""

    stores: list[StoreInfo]
    damaged: list[str]

    def __repr__(self) -> str:
        lines = [f"{info.path.name}: {info.spec.network} on {info.spec.images}, {info.state}" for info in self.stores]
        return "\n  ".join([f"<StoreListing: {len(lines)} stores>", *lines, *(f"damaged: {line}" for line in self.damaged)])

    def _repr_html_(self) -> str:
        """Return the list as a table, for notebooks."""
        rows = [[fact for name, fact in info.to_dict().items() if name != "fingerprint"] for info in self.stores]
        head = [name for info in self.stores[:1] for name in info.to_dict() if name != "fingerprint"]
        damaged = "".join(f"<p>damaged: {escape(line)}</p>" for line in self.damaged)
        return format_html_table(rows, head, f"{len(rows)} stores") + damaged


def describe_store(location: str | Path) -> StoreInfo:
    """Describe the store at a path or URL; raises StoreError if it is not one, PermissionError if it may not be read."""
    files = open_files(location)
    plan = read_plan(files)
    sealed = files.size(MANIFEST) is not None
    if sealed:
        manifest = read_manifest(files)
        committed, size, quarantined = len(plan.bounds), int(manifest["bytes"]), len(manifest["quarantined"])
    else:
        if isinstance(files, StoreFiles) and files.commits.is_dir():
            next(files.commits.iterdir(), None)  # PermissionError: records that may not be read are not missing
        records = list(read_committed_records(files, plan, range(len(plan.bounds))).values())
        committed = len(records)
        size = sum(file["bytes"] for record in records for file in record["files"])
        quarantined = sum(len(record["quarantined"]) for record in records)
    created = str(plan.provenance.get("time", ""))
    return StoreInfo(Path(str(files)), plan.spec, sealed, len(plan.bounds), committed, size, quarantined, created)


def list_facts(spec: StoreSpec, readable: int, state: str) -> list[tuple[str, str]]:
    """Return the (label, value) lines with which a reader describes a store of `readable` readable rows."""
    mebibytes = count_row_bytes(spec) * spec.rows / 2**20
    arrays = [f"{name} [{spec.rows}, {', '.join(map(str, shape))}]" for name, shape in spec.arrays.items()]
    return [
        ("network", spec.network),
        ("images", f"{spec.images}, {readable} of {spec.rows} rows readable"),
        ("arrays", f"{spec.dtype}, {mebibytes:,.1f} MiB uncompressed"),
        *(("", array) for array in arrays),
        ("state", state),
    ]


def list_stores(root: str | Path = "stores") -> StoreListing:
    """Return the stores below `root`, sorted by name, and an error message for each damaged one.

    Raises UsageError if `root` is a file or below one.
    """
    infos, damaged = [], []
    folder = expand_user(root)
    check_folder(folder, "the stores' folder")
    folders = sorted(path for path in folder.glob("*/") if not path.name.startswith("."))
    for path in folders:
        try:
            if (path / PLAN).is_file():
                infos.append(describe_store(path))
        except PosenetStoreError as error:
            damaged.append(str(error))
        except OSError as error:
            damaged.append(f"{path} can't be read ({error.strerror or error})")
    return StoreListing(infos, damaged)


def find_equivalent(spec: StoreSpec, root: str | Path) -> Path | None:
    """Return a sealed store below `root` from which heads read what they read from a store of `spec`, None without one.

    It has the same network and images, and all channels if `spec` has them. Of several it is one in float32, if there is one.
    """
    infos = [
        info
        for info in list_stores(root).stores
        if info.sealed
        and (info.spec.network_key, info.spec.images_sha256) == (spec.network_key, spec.images_sha256)
        and info.spec.extended_at == spec.extended_at  # the order of the rows
        and (spec.layout == ALIGNED or info.spec.layout != ALIGNED)
    ]
    return max(infos, key=lambda info: info.spec.dtype == "float32").path if infos else None


def find_outdated(infos: Iterable[StoreInfo]) -> list[tuple[StoreInfo, StoreInfo]]:
    """Return each store whose network and images have the names of a newer store's, but not its images, with the newest."""
    ordered = sorted(infos, key=lambda info: info.created)
    newest = {(info.spec.network, info.spec.images): info for info in ordered}
    pairs = [(info, newest[info.spec.network, info.spec.images]) for info in ordered]
    return [(info, last) for info, last in pairs if info.spec.images_sha256 != last.spec.images_sha256]


def describe_extended(infos: Iterable[StoreInfo]) -> list[str]:
    """Return a line for each store that was extended: its rows are no random sample of its images any more."""
    return [
        f"{info.path.name} was extended: its last {info.spec.rows - info.spec.extended_at[-1]} rows are the images that came "
        "last, and the last rows are those that a sweep holds out"
        for info in infos if info.spec.extended_at
    ]  # fmt: skip


def describe_outdated(infos: Iterable[StoreInfo]) -> list[str]:
    """Return a line for each store of `find_outdated`."""
    return [
        f"{info.path.name} is older than {last.path.name} and holds other images that are called {info.spec.images!r} too"
        for info, last in find_outdated(infos)
    ]
