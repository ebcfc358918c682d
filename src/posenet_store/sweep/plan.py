"""Plan a sweep: expand it over the stores to cells, and merge cells into passes that share one stream each."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from html import escape
from itertools import groupby, product
from pathlib import Path
from typing import Any

from posenet_store.errors import UsageError
from posenet_store.heads.protocols import GradientProtocol, Protocol, describe_stream
from posenet_store.notebook import format_html_table
from posenet_store.parallel.machine import share_memory
from posenet_store.specs import PIXELS
from posenet_store.store.catalogue import StoreInfo, StoreListing, describe_extended, describe_outdated, list_stores
from posenet_store.sweep.cell import PROBES, Cell
from posenet_store.sweep.inputs import join_inputs, parse_input, reads_all_channels
from posenet_store.sweep.labels import name_apart
from posenet_store.sweep.limits import Limits
from posenet_store.sweep.spec import SweepSpec, load_own_maps

MIN_TRAIN_ROWS = 32
MAX_CELLS = 600
"""Heads are written when their pass ends: with more in a pass, a lost worker costs more and fewer passes share the work."""
LAYOUTS = ("aligned", "native", "readout")  # from the slowest to read to the fastest


@dataclass(frozen=True)
class ScoringStore:
    """A store that tests heads, and the name of its column of scores; of the probes each image has a column."""

    path: Path
    fingerprint: str
    name: str

    def is_among(self, tests: Mapping[str, str]) -> bool:
        """Return whether a head was tested on it; `tests` are the head's columns with the fingerprints of their stores."""
        return self.fingerprint in tests.values() if self.name == PROBES else tests.get(self.name) == self.fingerprint


@dataclass(frozen=True)
class Pass:
    """Cells that are trained from one stream over the store `train`, and scored on the same `tests`.

    Without `trains` their heads are in the run already, and are only scored on `tests`, not on held-out rows again.

    Rows [0, `train_rows`) of the store `store` (a fingerprint) train, those from `held_out` on test. `moments` is the folder
    in which moments are kept for later sweeps, None to keep none. Raises ValueError if a cell has other rows or another store.
    """

    train: Path
    tests: tuple[ScoringStore, ...]
    store: str
    train_rows: int
    held_out: int
    input: str
    protocol: Protocol
    cells: tuple[Cell, ...]
    moments: Path | None
    limits: Limits
    trains: bool = True

    def __post_init__(self) -> None:
        """Check what all cells share."""
        shared = (self.store, self.train_rows, self.held_out)
        for cell in self.cells:
            if (cell.store, cell.train_rows, cell.held_out) != shared:
                raise ValueError(f"cell {cell.id} does not train on rows [0, {self.train_rows}) of store {self.store}")

    @property
    def id(self) -> str:
        """What tells it from the other passes of a run: its first cell."""
        return self.cells[0].id


@dataclass(frozen=True, repr=False)
class SweepPlan:
    """All passes of a sweep, and notes for people on the stores and cells that are left out."""

    passes: tuple[Pass, ...]
    notes: tuple[str, ...]

    def __repr__(self) -> str:
        return f"<SweepPlan: {len(self.cells):,} heads in {len(self.passes)} passes>"

    def _repr_html_(self) -> str:
        """Return the passes as a table, for notebooks."""
        head = ("store", "input", "protocol", "heads", "tests")
        rows = [(task.train.name, task.input, task.protocol.name, len(task.cells), len(task.tests)) for task in self.passes]
        notes = "".join(f"<p>note: {escape(note)}</p>" for note in self.notes)
        return format_html_table(rows, head, f"{len(self.cells):,} heads") + notes

    @property
    def cells(self) -> tuple[Cell, ...]:
        """Every cell, in order."""
        return tuple(cell for task in self.passes for cell in task.cells)

    def without(self, tested: Mapping[str, Mapping[str, str]]) -> "SweepPlan":
        """Return what is left to do: cells that are not among `tested` are trained, those that lack a test are scored.

        `tested` are the tests of each finished cell by its id: its columns with the fingerprints of their stores.
        """
        if not tested:
            return self  # a hundred thousand ids take seconds
        return SweepPlan(tuple(part for task in self.passes for part in _select_unfinished(task, tested)), self.notes)


def _select_unfinished(task: Pass, tested: Mapping[str, Mapping[str, str]]) -> Iterator[Pass]:
    """Yield the pass that trains what is not among `tested`, then one for each choice of tests that finished cells lack."""
    parts: dict[tuple[bool, tuple[ScoringStore, ...]], list[Cell]] = {}
    for cell in task.cells:
        known = tested.get(cell.id)
        lacking = task.tests if known is None else tuple(test for test in task.tests if not test.is_among(known))
        if known is None or lacking:
            parts.setdefault((known is None, lacking), []).append(cell)
    for (trains, tests), cells in sorted(parts.items(), key=lambda part: not part[0][0]):
        yield replace(task, cells=tuple(cells), tests=tests, trains=trains)


def _name_tests(entries: Sequence[StoreInfo]) -> tuple[ScoringStore, ...]:
    """Return stores as tests; image sets of one name have the first digits of their digests behind it."""
    names = [entry.spec.images for entry in entries]
    digests = [entry.spec.images_sha256 for entry in entries]
    unique = [n if names.count(n) == 1 else name_apart(n, digest) for n, digest in zip(names, digests, strict=True)]
    return tuple(ScoringStore(e.path, e.spec.fingerprint, name) for e, name in zip(entries, unique, strict=True))


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _can_train(entry: StoreInfo, spec: SweepSpec) -> bool:
    """Return whether a store trains heads: `train` matches it and `tests` does not; a small one must be named in full."""
    name = entry.spec.images
    large = entry.spec.rows >= MIN_TRAIN_ROWS or name in spec.train
    return large and _matches(name, spec.train) and not _matches(name, spec.tests)


def _can_test(entry: StoreInfo, spec: SweepSpec) -> bool:
    """Return whether a store tests heads: `tests` matches it, or it is too small to train on, such as one photo."""
    small = entry.spec.rows < MIN_TRAIN_ROWS and entry.spec.images not in spec.train
    return small or _matches(entry.spec.images, spec.tests)


def _holds_input(entry: StoreInfo, source: str) -> bool:
    return entry.spec.layout != "aligned" or not reads_all_channels(source)


def _drop_duplicates(entries: Iterable[StoreInfo]) -> list[StoreInfo]:
    """Return one of the stores with the same features: float32 before float16, then readout, native, aligned."""
    best: dict[tuple[str, str], StoreInfo] = {}
    for entry in sorted(entries, key=lambda e: (e.spec.dtype == "float32", LAYOUTS.index(e.spec.layout))):
        best[entry.spec.network_key, entry.spec.images_sha256] = entry
    return sorted(best.values(), key=lambda e: (e.spec.network != PIXELS, e.spec.network, e.spec.images))


def _count_train_rows(spec: SweepSpec, entry: StoreInfo) -> int:
    """Return how many of a store's rows may train."""
    return entry.spec.rows - round(spec.holdout * entry.spec.rows)


def _make_cells(spec: SweepSpec, entry: StoreInfo, source: str, protocol: Protocol) -> list[Cell]:
    """Return the cells that read `source` of one store: all choices that the sweep leaves open."""
    rows = _count_train_rows(spec, entry)
    seeds = spec.seeds if isinstance(protocol, GradientProtocol) else spec.seeds[:1]  # exact least squares draws nothing
    return [
        Cell(
            store=entry.spec.fingerprint,
            train_rows=images or rows,
            held_out=rows,
            input=source,
            target=target,
            value_range=(spec.range[0], spec.range[1]),
            normalise=spec.normalise or protocol.normalise,
            kernel=kernel,
            padding=padding,
            protocol=protocol,
            seed=seed,
        )
        for images in spec.train_images
        if images <= rows
        for kernel, padding, target, seed in product(spec.kernels, spec.paddings, spec.targets, seeds)
    ]


def _select_sealed(stores: Sequence[StoreInfo], spec: SweepSpec, notes: list[str]) -> list[StoreInfo]:
    """Return the sealed stores of the sweep's networks; add a note for each unsealed one."""
    named = [entry for entry in stores if _matches(entry.spec.network, spec.networks)]
    notes += [f"{e.path.name} is not sealed ({e.committed} of {e.blocks} blocks) and left out" for e in named if not e.sealed]
    return [entry for entry in named if entry.sealed]


def _select_tests(
    spec: SweepSpec, entry: StoreInfo, usable: Sequence[StoreInfo], source: str, notes: list[str]
) -> list[StoreInfo]:
    """Return the stores on which heads that read `source` of a store are tested; add a note for each pattern without one."""
    others = [e for e in usable if e.spec.network_key == entry.spec.network_key and _can_test(e, spec)]
    tests = _drop_duplicates(e for e in others if _holds_input(e, source))
    absent = [pattern for pattern in spec.tests if not any(_matches(test.spec.images, [pattern]) for test in tests)]
    kind = source.partition(":")[0]  # one note for all inputs that need the same store
    notes += [f"{entry.spec.network}: no store of {pattern!r} to test {kind!r} heads on" for pattern in absent]
    return tests


def _make_no_store_error(spec: SweepSpec, stores: Sequence[StoreInfo], root: Path) -> UsageError:
    names = ", ".join(sorted({f"{e.spec.network} on {e.spec.images}" for e in stores})) or "none"
    inputs = list(spec.inputs) or [protocol.input for protocol in spec.list_protocols()]
    return UsageError(
        f"no sealed store below {root} fits networks {list(spec.networks)}, train {list(spec.train)} and inputs {inputs}; "
        f"there are: {names}. Build one with build-store --backbone resnet152 --images FOLDER"
    )


def _describe_lacking(network: str, reasons: Mapping[str, str]) -> str:
    text, reason = next(iter(reasons.items()))
    return f"left out: {len(reasons)} inputs that stores of {network} do not hold, such as {text!r}: {reason}"


def _note_large_amounts(spec: SweepSpec, entry: StoreInfo) -> list[str]:
    """Return a note for each amount of training images that a store does not have."""
    rows = _count_train_rows(spec, entry)
    return [
        f"left out: {images} training images; {entry.path.name} has {rows}" for images in spec.train_images if images > rows
    ]


def plan_sweep(
    spec: SweepSpec,
    stores: Sequence[StoreInfo] | StoreListing | None = None,
    root: str | Path = "stores",
    keep_moments: bool = True,
    limits: Limits | None = None,
) -> SweepPlan:
    """Expand a sweep over `stores`, by default all below `root`; raises UsageError if no store fits.

    Moments are kept in `root`/moments, or not at all. Without `limits` a pass may take the memory of a single local worker.
    """
    notes: list[str] = []
    spec, root = load_own_maps(spec), Path(root).expanduser()
    listing = list_stores(root) if stores is None else stores
    stores = listing.stores if isinstance(listing, StoreListing) else listing
    usable = _select_sealed(stores, spec, notes)
    planned: list[tuple[StoreInfo, tuple[ScoringStore, ...], Sequence[Cell]]] = []
    trainable = [e for e in usable if _can_train(e, spec)]
    lacking: dict[str, dict[str, str]] = {}
    for text, protocol in product(spec.inputs or ("",), spec.list_protocols()):
        source = text or protocol.input
        for entry in _drop_duplicates(e for e in trainable if _holds_input(e, source)):
            tests = _select_tests(spec, entry, usable, source, notes)
            try:
                parse_input(source, entry.spec)
            except UsageError as error:
                lacking.setdefault(entry.spec.network, {})[source] = str(error)
                continue
            cells = _make_cells(spec, entry, source, protocol)
            notes += _note_large_amounts(spec, entry)
            if cells and cells[0].held_out == entry.spec.rows and not tests:
                raise UsageError(
                    f"nothing to test {entry.spec.network} on: holdout is 0 and no store matches tests {spec.tests}"
                )
            planned += [(entry, _name_tests(tests), cells)] if cells else []
    trained = [entry for entry, _, _ in planned]
    notes += [*describe_outdated(trained), *describe_extended(trained), *map(_describe_lacking, lacking, lacking.values())]
    if not planned:
        raise _make_no_store_error(spec, stores, root)
    passes = _merge_cells(planned, root / "moments" if keep_moments else None, limits or Limits(share_memory()))
    return SweepPlan(tuple(passes), tuple(dict.fromkeys(notes)))


def _merge_cells(
    planned: Sequence[tuple[StoreInfo, tuple[ScoringStore, ...], Sequence[Cell]]], moments: Path | None, limits: Limits
) -> Iterator[Pass]:
    """Merge cells into passes: those that train on the same rows, have the same tests and can share a stream."""
    groups: dict[tuple[Any, ...], list[Cell]] = {}
    specs = {entry.path: entry.spec for entry, _, _ in planned}
    for entry, tests, cells in planned:
        first = cells[0]
        key = (entry.path, tests, first.input.partition(":")[0], describe_stream(first.protocol))
        for rows, same_rows in groupby(cells, key=lambda cell: cell.train_rows):
            groups.setdefault((*key, rows), []).extend(same_rows)
    for (path, tests, *_), members in groups.items():
        cells = sorted(members, key=lambda cell: (cell.kernel, cell.padding))
        for start in range(0, len(cells), MAX_CELLS):
            chunk = tuple(cells[start : start + MAX_CELLS])
            first = chunk[0]
            yield Pass(
                train=path,
                tests=tests,
                store=first.store,
                train_rows=first.train_rows,
                held_out=first.held_out,
                input=join_inputs(dict.fromkeys(cell.input for cell in chunk), specs[path]),
                protocol=first.protocol,
                cells=chunk,
                moments=moments,
                limits=limits,
            )
