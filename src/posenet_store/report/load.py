"""Load runs to report on: results in which one name is one thing, and the arrays behind them.

Two folders of images can have one name, and so can two files of weights. A name that stands for more than one thing gets
the first digits of its thing's digest, such as myset-4417aab3, so that all that follows can tell cells apart by names.
"""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from posenet_store.heads.own_maps import MAPS, load_maps
from posenet_store.report.commands import list_commands
from posenet_store.report.records import get_fields
from posenet_store.report.scores import ScoreArchive
from posenet_store.sweep.cell import HELD_OUT
from posenet_store.sweep.labels import Labels, name_apart
from posenet_store.sweep.results import Result, RunRecord, load_run
from posenet_store.threads import cached_property

TestNames = dict[str, str]
"""Name of a test column in a run's files -> in results, where the two differ."""


@dataclass(frozen=True)
class LoadedRuns:
    """The records and finished cells of runs, by their folders, and the renamed test columns."""

    records: dict[Path, RunRecord]
    results_of: dict[Path, list[Result]]
    renamed: dict[Path, dict[str, TestNames]]

    @property
    def results(self) -> list[Result]:
        """All finished cells, each once, of the first run that has it."""
        results: dict[str, Result] = {}
        for result in (result for of_run in self.results_of.values() for result in of_run):
            results.setdefault(result.id, result)
        return list(results.values())

    @cached_property
    def folders(self) -> dict[str, Path]:
        """The first run that has a cell, by the cell's id."""
        return {result.id: path for path, results in reversed(self.results_of.items()) for result in results}

    def find_commands(self, result: Result) -> tuple[str, str]:
        """Return the commands that made a result (see `commands.list_commands`), of the first run that has it."""
        return list_commands(self.records[self.folders[result.id]], result)

    def open_archive(self, *runs: Path) -> ScoreArchive:
        """Return the arrays of these runs' cells, or of all."""
        cells = {run: {result.id for result in self.results_of[run]} for run in runs or self.records}
        return ScoreArchive(cells, self.renamed)


def load_runs(folders: Sequence[Path]) -> LoadedRuns:
    """Load one run or several, and warn of each cell that is damaged; raises UsageError if one is no run or has no
    finished cell."""
    loaded = {path: load_run(path) for path in folders}
    for path in folders:
        load_maps(path / MAPS)
    named = iter(tell_apart([result for _, of_run in loaded.values() for result in of_run]))
    pairs = {path: [next(named) for _ in of_run] for path, (_, of_run) in loaded.items()}
    return LoadedRuns(
        records={path: record for path, (record, _) in loaded.items()},
        results_of={path: [result for result, _ in of_run] for path, of_run in pairs.items()},
        renamed={path: {result.id: names for result, names in of_run if names} for path, of_run in pairs.items()},
    )


def _find_shared(pairs: Iterable[tuple[Hashable, str]]) -> set[Hashable]:
    """Return the names, of (name, digest) pairs, that stand for more than one digest."""
    digests: dict[Hashable, set[str]] = {}
    for name, digest in pairs:
        digests.setdefault(name, set()).add(digest)
    return {name for name, of_name in digests.items() if len(of_name) > 1}


def tell_apart(results: Sequence[Result]) -> list[tuple[Result, TestNames]]:
    """Return each result with names that stand for one network, image set and test's images, and its renamed tests."""
    labels = [result.labels for result in results]
    networks = _find_shared((label.network, label.network_sha256) for label in labels)
    images = _find_shared((label.images, label.images_sha256) for label in labels)
    named = [
        replace(result, labels=_rename_labels(result.labels, networks, images))
        if result.labels.network in networks or result.labels.images in images
        else result
        for result in results
    ]
    return _rename_tests(_tell_stores_apart(named))


def _rename_labels(labels: Labels, networks: set[Hashable], images: set[Hashable]) -> Labels:
    unpadded = labels.unpadded_network
    network = name_apart(unpadded, labels.network_sha256) if labels.network in networks else unpadded
    return replace(
        labels,
        network=network + labels.network.removeprefix(unpadded),
        images=name_apart(labels.images, labels.images_sha256) if labels.images in images else labels.images,
    )


def _tell_stores_apart(results: list[Result]) -> list[Result]:
    """Name the images after the store where cells differ in nothing but stores of one network and image set.

    Such stores hold the same features in other precision, order or layout.
    """

    def name(result: Result) -> tuple[str, str]:
        return result.labels.network, result.labels.images

    several = _find_shared((name(result), result.cell.store) for result in results)
    alike = (
        (tuple(v for field, v in get_fields(result).items() if field != "seed"), result.cell.store)
        for result in results
        if name(result) in several
    )
    if not _find_shared(alike):
        return results
    return [
        replace(result, labels=replace(result.labels, images=name_apart(result.labels.images, result.cell.store)))
        if name(result) in several
        else result
        for result in results
    ]


def _rename_tests(results: list[Result]) -> list[tuple[Result, TestNames]]:
    """Rename test columns of one name and different images; held-out images are those of a cell's own store."""
    shared = _find_shared(
        (test, score.images_sha256) for result in results for test, score in result.scores.items() if test != HELD_OUT
    )
    named = []
    for result in results:
        names = {test: name_apart(test, score.images_sha256) for test, score in result.scores.items() if test in shared}
        scores = {names.get(test, test): score for test, score in result.scores.items()}
        named.append((replace(result, scores=scores) if names else result, names))
    return named
