"""What a run keeps of its cells, and from it the means that are shown: with intervals, and how probable they are by chance."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posenet_store.report.records import Record
from posenet_store.report.significance import Chance, holm, interval, permuted_p, shifted_p
from posenet_store.report.text_table import joined, short
from posenet_store.sweep.cell import make_cell_target
from posenet_store.sweep.results import RunFiles, read_scores

Bounds = tuple[float, float] | None
StoreInfo = tuple[Sequence[Record], str]
"""The cells that are pooled, which differ in their seeds, and the test they are scored on."""


class ScoreArchive:
    """The arrays that runs keep of their cells, by cell id and name such as `spc/held-out`; the latest files stay in memory."""

    def __init__(self, runs: Sequence[Path] = ()) -> None:
        self._runs = [RunFiles(run) for run in runs]
        self._arrays = lru_cache(maxsize=256)(self._read)

    def run_of(self, cell: str) -> RunFiles | None:
        """Return the run that has the cell's scores."""
        return next((run for run in self._runs if run.scores(cell).is_file()), None)

    def _read(self, cell: str) -> dict[str, NDArray[Any]]:
        run = self.run_of(cell)
        return read_scores(run.scores(cell)) if run else {}

    def array(self, cell: str, name: str) -> NDArray[Any] | None:
        """Return an array of a cell, None where it was not kept (older runs); raises StoreError for a damaged file."""
        return self._arrays(cell).get(name)

    def mean(self, records: Sequence[Record], name: str) -> NDArray[np.float64] | None:
        """Return an array's mean over cells that differ in their seeds only, None where a cell has none."""
        found = [self.array(record["id"], name) for record in records]
        there = [one.astype(np.float64) for one in found if one is not None]
        return np.mean(there, axis=0) if there and len(there) == len(found) else None

    def bounds(self, records: Sequence[Record], name: str) -> Bounds:
        """Return the 95 % interval of a mean score over images and seeds, None where the scores were not kept."""
        found = [one for record in records if (one := self.array(record["id"], name)) is not None]
        if len(found) < len(records) or len({len(one) for one in found}) != 1:
            return None
        return interval(np.stack(found, axis=1))


NOTHING = ScoreArchive()


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
        spread = f"±{short(self.spc_spread)}" if self.spc_spread is not None and self.spc is not None else ""
        return short(self.spc), bracketed(self.spc_bounds) or spread, f"/ {short(self.mae)}"

    def text(self) -> str:
        """Return "SPC [interval] / MAE".

        >>> MeanScore(0.3941, 0.2349, 0.0123).text(), MeanScore(None, 0.251).text()
        ('.394 ±.012 / .235', 'undef. / .251')
        >>> MeanScore(0.3941, 0.2349, 0.0123, spc_bounds=(0.371, 0.41)).text()
        '.394 [.371, .410] / .235'
        """
        return joined(self.parts())

    def facts(self) -> dict[str, float | int | None]:
        """Return everything as flat names and numbers."""
        spc, mae = self.spc_bounds or (None, None), self.mae_bounds or (None, None)
        chance = self.chance and (self.chance.permuted, self.chance.corrected, self.chance.shifted)
        return {
            "spc": self.spc, "spc_spread": self.spc_spread, "spc_low": spc[0], "spc_high": spc[1],
            "mae": self.mae, "mae_spread": self.mae_spread, "mae_low": mae[0], "mae_high": mae[1],
            "images": self.images, "undefined": self.undefined,
        } | dict(zip(("p", "p_corrected", "p_shifted"), chance or (None, None, None), strict=True))  # fmt: skip


def bracketed(bounds: Bounds) -> str:
    """Return an interval as text, nothing without one.

    >>> bracketed((0.371, 0.41)), bracketed(None)
    ('[.371, .410]', '')
    """
    return f"[{short(bounds[0])}, {short(bounds[1])}]" if bounds else ""


def shown_p(p: float | None) -> str:
    """Return a p value with four decimals.

    >>> shown_p(0.0001), shown_p(1.0), shown_p(None)
    ('.0001', '1', '')
    """
    return "" if p is None else f"{p:.4f}".lstrip("0") if p < 1 else "1"


def value_of(records: Sequence[Record], test: str, kept: ScoreArchive = NOTHING) -> MeanScore:
    """Pool one test of cells that differ in their seeds only."""
    summaries = [record["scores"][test] for record in records]
    spc = [s["spc"] for s in summaries if s["spc"] is not None]
    mae = [s["mae"] for s in summaries if s["mae"] is not None]
    return MeanScore(
        mean(spc) if spc else None,
        mean(mae) if mae else None,
        stdev(spc) if len(spc) > 1 else None,
        stdev(mae) if len(mae) > 1 else None,
        summaries[0]["images"],
        max(s["undefined"] for s in summaries),
        kept.bounds(records, f"spc/{test}"),
        kept.bounds(records, f"mae/{test}"),
    )


def chances(entries: Sequence[StoreInfo], kept: ScoreArchive) -> list[Chance | None]:
    """Return how probable the mean SPC of each entry is by chance, corrected for the number of entries tested.

    None for entries whose maps of ranks were not kept, or that have no defined SPC.
    """
    together: dict[bytes, tuple[NDArray[np.float64], list[tuple[int, NDArray[np.float64]]]]] = {}
    for place, (records, test) in enumerate(entries):
        ranks = kept.mean(records, f"ranks/{test}")
        if ranks is not None:
            target = make_cell_target(records[0]["cell"])
            together.setdefault(target.tobytes(), (target, []))[1].append((place, ranks))
    found: dict[int, tuple[float, float, float]] = {}
    for target, members in together.values():
        ranks = np.stack([one for _, one in members])
        shifted, least = shifted_p(ranks, target)
        for (place, _), p, share in zip(members, permuted_p(ranks, target).tolist(), shifted.tolist(), strict=True):
            found[place] = (p, share, least)
    places = sorted(found)
    corrected = dict(zip(places, holm([found[place][0] for place in places]), strict=True))
    return [
        Chance(found[place][0], corrected[place], *found[place][1:]) if place in found else None
        for place in range(len(entries))
    ]
