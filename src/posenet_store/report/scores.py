"""Means over seeds with their intervals, and how probable they are by chance, from the arrays that runs keep."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import inf
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posenet_store.report.significance import (
    Chance,
    MeanEstimate,
    correct_holm,
    estimate_mean,
    permuted_p,
)
from posenet_store.report.text_table import format_interval, format_number, format_p, join_entry
from posenet_store.sweep.cell import make_cell_target
from posenet_store.sweep.results import Result, RunFiles, ScoreSummary, read_scores
from posenet_store.sweep.ring_scores import RingScores, read_rings

Bounds = tuple[float, float] | None
LIMITS = {"spc": (-1.0, 1.0), "mae": (0.0, inf)}
"""Between which a mean score lies, whatever its interval would be."""


class ScoreArchive:
    """The arrays that runs keep of their cells, by cell id and name such as `spc/held-out`; the latest files stay in memory."""

    def __init__(
        self,
        cells: Mapping[Path, Collection[str]] | None = None,
        renamed: Mapping[Path, Mapping[str, Mapping[str, str]]] | None = None,
    ) -> None:
        """Open the cells of runs; `renamed` has, by run and cell id, the test columns that are called otherwise here: name
        there -> here."""
        self._cells = cells or {}
        self._renamed = renamed or {}
        self._arrays = lru_cache(maxsize=256)(self._read)

    @property
    def runs(self) -> list[Path]:
        """The folders of the runs."""
        return list(self._cells)

    def _read(self, cell: str) -> dict[str, NDArray[Any]]:
        paths = {run: RunFiles(run).scores(cell) for run, cells in self._cells.items() if cell in cells}
        run = next((run for run, path in paths.items() if path.is_file()), None)
        if run is None:
            return {}
        names = self._renamed.get(run, {}).get(cell, {})
        arrays = {tuple(name.split("/", 1)): array for name, array in read_scores(paths[run]).items()}
        return {f"{kind}/{names.get(test, test)}": array for (kind, test), array in arrays.items()}

    def array(self, cell: str, name: str) -> NDArray[Any] | None:
        """Return an array of a cell, None where it has none: no run, or no image with a score; raises StoreError for a
        damaged file."""
        return self._arrays(cell).get(name)

    def rings(self, cell: str) -> RingScores | None:
        """Return a cell's scores by ring of distance to the border, None without; raises StoreError for a damaged file."""
        runs = (RunFiles(run) for run, cells in self._cells.items() if cell in cells)
        return next((scores for files in runs if (scores := read_rings(files, cell)) is not None), None)

    def mean(self, results: Sequence[Result], name: str) -> NDArray[np.float64] | None:
        """Return an array's mean over cells that differ in their seeds only, None where a cell has none."""
        arrays = self._list_arrays(results, name)
        return np.mean(arrays, axis=0, dtype=np.float64) if arrays else None

    def table(self, results: Sequence[Result], name: str) -> NDArray[np.float64] | None:
        """Return a per-image score of cells that differ in their seeds, [images, seeds], None where a cell has none."""
        arrays = self._list_arrays(results, name)
        return np.stack(arrays, axis=1) if len({len(array) for array in arrays}) == 1 else None

    def estimate(self, results: Sequence[Result], name: str) -> MeanEstimate | None:
        """Estimate a mean score over images and seeds; None where a cell has no scores, or there is one image."""
        table = self.table(results, name)
        return None if table is None else estimate_mean(table)

    def interval(self, results: Sequence[Result], name: str) -> Bounds:
        """Return the 95 % interval of a mean score over images and seeds within its limits, None without an estimate."""
        estimate = self.estimate(results, name)
        if estimate is None:
            return None
        low, high = estimate.find_bounds()
        least, most = LIMITS[name.partition("/")[0]]
        return max(low, least), min(high, most)

    def _list_arrays(self, results: Sequence[Result], name: str) -> list[NDArray[Any]]:
        """Return an array of each cell, nothing where a cell has none."""
        arrays = [array for result in results if (array := self.array(result.id, name)) is not None]
        return arrays if len(arrays) == len(results) else []


EMPTY = ScoreArchive()


@dataclass(frozen=True)
class MeanScore:
    """One entry: means over seeds of SPC and MAE, their spread (sample deviation), images and undefined ones a seed.

    `spc_bounds` and `mae_bounds` are 95 % intervals over images and seeds, `chance` how probable the SPC is without position,
    `permuted` the p of permuted positions, on request.
    """

    spc: float | None
    mae: float | None
    spc_spread: float | None = None
    mae_spread: float | None = None
    images: int = 0
    undefined: int = 0
    spc_bounds: Bounds = None
    mae_bounds: Bounds = None
    chance: Chance | None = None
    permuted: float | None = None

    def parts(self) -> tuple[str, str, str]:
        """Return SPC, its interval (or, without one, its spread) and MAE as the report prints numbers."""
        spread = f"±{format_number(self.spc_spread)}" if self.spc_spread is not None and self.spc is not None else ""
        return format_number(self.spc), format_interval(self.spc_bounds) or spread, f"/ {format_number(self.mae)}"

    def text(self) -> str:
        """Return "SPC [interval] / MAE".

        >>> MeanScore(0.3941, 0.2349, 0.0123).text(), MeanScore(None, 0.251).text()
        ('.394 ±.012 / .235', 'undef. / .251')
        >>> MeanScore(0.3941, 0.2349, 0.0123, spc_bounds=(0.371, 0.41)).text()
        '.394 [.371, .410] / .235'
        """
        return join_entry(self.parts())

    def to_dict(self) -> dict[str, float | int | None]:
        """Return everything as flat names and numbers."""
        facts: dict[str, float | int | None] = {}
        for name, bounds in (("spc", self.spc_bounds), ("mae", self.mae_bounds)):
            low, high = bounds or (None, None)
            facts |= {name: getattr(self, name), f"{name}_spread": getattr(self, f"{name}_spread")}
            facts |= {f"{name}_low": low, f"{name}_high": high}
        facts |= {"images": self.images, "undefined": self.undefined}
        p, corrected = (self.chance.p, self.chance.corrected) if self.chance else (None, None)
        return facts | {"p": p, "p_corrected": corrected, "p_permuted": self.permuted}


def defined_scores(summaries: Sequence[ScoreSummary]) -> tuple[list[float], list[float]]:
    """Return the SPC and the MAE that are defined."""
    spc = [summary.spc for summary in summaries if summary.spc is not None]
    return spc, [summary.mae for summary in summaries if summary.mae is not None]


def pool_seeds(results: Sequence[Result], test: str, archive: ScoreArchive = EMPTY) -> MeanScore:
    """Return the mean scores on one test of cells that differ in their seeds only."""
    summaries = [result.scores[test] for result in results]
    spc, mae = defined_scores(summaries)
    return MeanScore(
        spc=mean(spc) if spc else None,
        mae=mean(mae) if mae else None,
        spc_spread=stdev(spc) if len(spc) > 1 else None,
        mae_spread=stdev(mae) if len(mae) > 1 else None,
        images=summaries[0].images,
        undefined=max(summary.undefined for summary in summaries),
        spc_bounds=archive.interval(results, f"spc/{test}"),
        mae_bounds=archive.interval(results, f"mae/{test}"),
    )


def format_chance(chance: Chance | None) -> str:
    """Return the corrected p, nothing without one.

    >>> format_chance(Chance(0.001, 0.012)), format_chance(None)
    ('.0120', '')
    """
    return format_p(chance.corrected if chance else None)


Entry = tuple[Sequence[Result], str]
"""Cells that differ in their seeds, and a test."""


def find_chances(entries: Sequence[Entry], archive: ScoreArchive) -> list[Chance | None]:
    """Return how probable the mean SPC of each entry is by chance; None for entries of fewer than two defined SPC.

    The tests are over images and seeds, and corrected together. A single image has none: a smooth map that knows nothing is
    often as much a ramp as the target, and no other image says how often.
    """
    estimates = [archive.estimate(results, f"spc/{test}") for results, test in entries]
    values = [estimate.find_p() for estimate in estimates if estimate]
    tested = iter(zip(values, correct_holm(values), strict=True))
    return [Chance(*next(tested)) if estimate else None for estimate in estimates]


def find_permuted(entries: Sequence[Entry], archive: ScoreArchive) -> list[float | None]:
    """Return the p of permuted positions of each entry's mean map, None for those without; see the warning of `permuted_p`."""
    values = []
    for results, test in entries:
        ranks = archive.mean(results, f"ranks/{test}")
        p = None if ranks is None else float(permuted_p(ranks[None], make_cell_target(results[0].cell))[0])
        values.append(p)
    return values
