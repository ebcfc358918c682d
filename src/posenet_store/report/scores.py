"""Means over seeds with their intervals, and how probable they are by chance, from the arrays that runs keep."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posenet_store.report.significance import Chance, correct_holm, find_interval, permuted_p, shifted_p
from posenet_store.report.text_table import format_interval, format_number, join_entry
from posenet_store.sweep.cell import make_cell_target
from posenet_store.sweep.results import Result, RunFiles, ScoreSummary, read_scores

Bounds = tuple[float, float] | None


class ScoreArchive:
    """The arrays that runs keep of their cells, by cell id and name such as `spc/held-out`; the latest files stay in memory."""

    def __init__(self, runs: Sequence[Path] = ()) -> None:
        self._runs = [RunFiles(run) for run in runs]
        self._arrays = lru_cache(maxsize=256)(self._read)

    def _read(self, cell: str) -> dict[str, NDArray[Any]]:
        paths = (run.scores(cell) for run in self._runs)
        path = next((path for path in paths if path.is_file()), None)
        return read_scores(path) if path else {}

    def array(self, cell: str, name: str) -> NDArray[Any] | None:
        """Return an array of a cell, None where it has none: no run, or no image with a score; raises StoreError for a
        damaged file."""
        return self._arrays(cell).get(name)

    def mean(self, results: Sequence[Result], name: str) -> NDArray[np.float64] | None:
        """Return an array's mean over cells that differ in their seeds only, None where a cell has none."""
        arrays = self._list_arrays(results, name)
        return np.mean(arrays, axis=0, dtype=np.float64) if arrays else None

    def interval(self, results: Sequence[Result], name: str) -> Bounds:
        """Return the 95 % interval of a mean score over images and seeds, None where a cell has no scores."""
        arrays = self._list_arrays(results, name)
        return find_interval(np.stack(arrays, axis=1)) if len({len(array) for array in arrays}) == 1 else None

    def _list_arrays(self, results: Sequence[Result], name: str) -> list[NDArray[Any]]:
        """Return an array of each cell, nothing where a cell has none."""
        arrays = [array for result in results if (array := self.array(result.id, name)) is not None]
        return arrays if len(arrays) == len(results) else []


EMPTY = ScoreArchive()


@dataclass(frozen=True)
class MeanScore:
    """One entry: means over seeds of SPC and MAE, their spread (sample deviation), images and undefined ones a seed.

    `spc_bounds` and `mae_bounds` are 95 % intervals over images and seeds, `chance` how probable the SPC is without position.
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
        p = (self.chance.permuted, self.chance.corrected, self.chance.shifted) if self.chance else (None, None, None)
        return facts | dict(zip(("p", "p_corrected", "p_shifted"), p, strict=True))


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


def find_chances(entries: Sequence[tuple[Sequence[Result], str]], archive: ScoreArchive) -> list[Chance | None]:
    """Return how probable the mean SPC of each entry is by chance, corrected for the number of entries tested.

    An entry is cells that differ in their seeds, and a test. None for entries that have no defined SPC.
    """
    by_target: dict[bytes, tuple[NDArray[np.float64], dict[int, NDArray[np.float64]]]] = {}
    for index, (results, test) in enumerate(entries):
        ranks = archive.mean(results, f"ranks/{test}")
        if ranks is not None:
            target = make_cell_target(results[0].cell)
            by_target.setdefault(target.tobytes(), (target, {}))[1][index] = ranks
    chances: dict[int, tuple[float, float, float]] = {}
    for target, ranks_by_entry in by_target.values():
        ranks = np.stack(list(ranks_by_entry.values()))
        shifted, least = shifted_p(ranks, target)
        for index, p, share in zip(ranks_by_entry, permuted_p(ranks, target).tolist(), shifted.tolist(), strict=True):
            chances[index] = (p, share, least)
    corrected = dict(zip(chances, correct_holm([p for p, _, _ in chances.values()]), strict=True))
    return [
        Chance(chances[index][0], corrected[index], *chances[index][1:]) if index in chances else None
        for index in range(len(entries))
    ]
