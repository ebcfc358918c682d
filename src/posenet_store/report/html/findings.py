"""What a run says, in sentences: which networks carry position, by how much more than the baselines, and how sure that is."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from posenet_store.report.compare import Difference, difference
from posenet_store.report.figures.maps import of_one_kind
from posenet_store.report.published import COLUMNS
from posenet_store.report.scores import MeanScore, ScoreArchive, bracketed, shown_p
from posenet_store.report.significance import PERMUTATIONS, holm
from posenet_store.report.table import Line, network_title, untrained
from posenet_store.report.text_table import joined, short

LEVEL = 0.05
GAINS = 2
"""Baselines that a sentence holds; all are in Table 2."""
NATURAL = COLUMNS[0]


@dataclass(frozen=True)
class Finding:
    """One network's answer: the verdict, a sentence on the baselines, and (target, SPC, its interval, MAE) as text."""

    network: str
    verdict: str
    gain: str
    numbers: tuple[tuple[str, str, str, str], ...]


def is_baseline(line: Line) -> bool:
    """Whether a line's features were never trained: plain pixels, or a network with random weights."""
    return bool(untrained(line.records[0]["labels"]["network"]))


def above(line: Line, lines: Sequence[Line], kept: ScoreArchive) -> Iterator[tuple[str, Difference]]:
    """Yield each baseline with the same kind of head, and by how much a line's SPC on held-out images is above its.

    Images are paired, each one's score averaged over seeds; the bounds are of a bootstrap over images.
    """
    for base in lines:
        same = (base.target, base.setting, base.source) == (line.target, line.setting, line.source) and base.ours
        if same and is_baseline(base) and base.network != line.network and _images(base) == _images(line):
            sides = (_per_image(base, kept), _per_image(line, kept))
            if sides[0] is not None and sides[1] is not None and len(sides[0]) == len(sides[1]):
                yield base.network, difference(sides[0], sides[1], more_is_better=True)


def _images(line: Line) -> tuple[str, int]:
    record = line.records[0]
    return record["labels"]["images"], record["cell"]["held_out"]


def _per_image(line: Line, kept: ScoreArchive) -> NDArray[np.float64] | None:
    if NATURAL not in line.values:
        return None
    return kept.mean(line.records, f"spc/{line.test(NATURAL)}")


def beyond_chance(values: Sequence[MeanScore]) -> list[bool]:
    """Whether each mean SPC is above 0 in its interval, and improbable by chance, corrected for those that are asked together.

    A page may hold thousands of heads; what its answer claims is a few of them, and the correction is for these.
    """
    corrected = holm([value.chance.permuted if value.chance else 1.0 for value in values])
    lows = [value.spc_bounds[0] if value.spc_bounds else value.spc for value in values]
    return [p <= LEVEL and low is not None and low > 0 for p, low in zip(corrected, lows, strict=True)]


def findings(lines: Sequence[Line], kept: ScoreArchive) -> list[Finding]:
    """Return a finding a network, the trained ones first, all of one kind of head."""
    ours = [line for line in lines if line.ours and NATURAL in line.values]
    if not ours:
        return []
    kind = {record["id"] for record in of_one_kind([record for line in ours for record in line.records])}
    chosen = [line for line in ours if line.records[0]["id"] in kind]
    networks = dict.fromkeys(line.network for line in sorted(chosen, key=is_baseline))
    met = dict(zip(map(id, chosen), beyond_chance([line.values[NATURAL] for line in chosen]), strict=True))
    found = []
    for network in networks:
        mine = [line for line in chosen if line.network == network]
        found.append(_finding(network, mine, [line.target for line in mine if met[id(line)]], chosen, kept))
    return found


def _finding(network: str, mine: Sequence[Line], met: Sequence[str], every: Sequence[Line], kept: ScoreArchive) -> Finding:
    values = {line.target: line.values[NATURAL] for line in mine}
    numbers = tuple((target, short(v.spc), bracketed(v.spc_bounds), short(v.mae)) for target, v in values.items())
    compared = [] if network.startswith("pixels") else islice(above(mine[0], every, kept), GAINS)
    gains = [f"{joined(found.parts())} against {network_title(base)}" for base, found in compared]
    gain = f"SPC of {mine[0].target} on the same images: {', '.join(gains)}." if gains else ""
    return Finding(network_title(network), _verdict(values, met), gain, numbers)


def _verdict(values: dict[str, MeanScore], met: Sequence[str]) -> str:
    if not any(value.chance for value in values.values()):
        return "not tested against chance (no maps of ranks were kept)"
    found = [value.spc for value in values.values() if value.spc is not None]
    if not met:
        return f"no position beyond chance (SPC {short(min(found))} to {short(max(found))})"
    which = "every target" if len(met) == len(values) else f"{', '.join(met)} (of {', '.join(values)})"
    reached = [values[target].spc or 0.0 for target in met]
    return f"position is read beyond chance on {which}, SPC {short(min(reached))} to {short(max(reached))}"


def how_tested(lines: Sequence[Line]) -> str:
    """Return how many entries were tested and how small p can get, for the table's caption."""
    tested = [v.chance for line in lines if line.ours for v in line.values.values() if v.chance]
    if not tested:
        return ""
    least, count = 1 / (1 + PERMUTATIONS), len(tested)
    text = f"{count} entries were tested; the least p is {shown_p(least)}, corrected {shown_p(min(1.0, least * count))}."
    if least * count > LEVEL:
        text += (
            f" In a table of over {int(LEVEL / least)} entries no corrected p can reach {LEVEL}: look at fewer cells at a time."
        )
    return text
