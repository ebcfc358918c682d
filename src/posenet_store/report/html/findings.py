"""What a run shows, in sentences: which networks carry position, by how much more than the baselines, and how sure that is."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from posenet_store.report.compare import Difference, find_difference
from posenet_store.report.figures.maps import select_one_kind
from posenet_store.report.scores import MeanScore, ScoreArchive
from posenet_store.report.significance import PERMUTATIONS, correct_holm
from posenet_store.report.table import NATURAL, Line
from posenet_store.report.text_table import format_interval, format_number, format_p, join_entry

LEVEL = 0.05
GAINS = 2
"""Baselines that a sentence compares with; all are in Table 2."""


@dataclass(frozen=True)
class Finding:
    """One network's answer: the verdict, a sentence on the baselines, and (target, SPC, its interval, MAE) as text."""

    network: str
    verdict: str
    gain: str
    numbers: tuple[tuple[str, str, str, str], ...]


def is_baseline(line: Line) -> bool:
    """Whether a line's features were never trained: plain pixels, or a network with random weights."""
    return not line.labels.trained


def compare_baselines(line: Line, lines: Sequence[Line], archive: ScoreArchive) -> Iterator[tuple[Line, Difference]]:
    """Yield each baseline with the same kind of head, and the gain of a line's SPC on held-out images over it.

    Images are paired, each one's score averaged over seeds; the bounds are of a bootstrap over images.
    """
    kind = (line.target, line.setting, line.source)
    for base in lines:
        if not base.ours or (base.target, base.setting, base.source) != kind or base.network == line.network:
            continue
        if is_baseline(base) and _images(base) == _images(line):
            first, second = _mean_per_image(base, archive), _mean_per_image(line, archive)
            if first is not None and second is not None and len(first) == len(second):
                yield base, find_difference(first, second, more_is_better=True)


def _images(line: Line) -> tuple[str, int]:
    return line.labels.images, line.results[0].cell.held_out


def _mean_per_image(line: Line, archive: ScoreArchive) -> NDArray[np.float64] | None:
    return archive.mean(line.results, f"spc/{line.test(NATURAL)}") if NATURAL in line.values else None


def exceed_chance(values: Sequence[MeanScore]) -> list[bool]:
    """Whether each mean SPC is above 0 in its interval, and improbable by chance, corrected for those that are asked together.

    A page may show thousands of heads; its answer makes claims about a few of them, and the correction is for these.
    """
    corrected = correct_holm([value.chance.permuted if value.chance else 1.0 for value in values])
    lows = [value.spc_bounds[0] if value.spc_bounds else value.spc for value in values]
    return [p <= LEVEL and low is not None and low > 0 for p, low in zip(corrected, lows, strict=True)]


def choose_answering_lines(lines: Sequence[Line]) -> list[Line]:
    """Return our lines with held-out scores, all of one kind of head: those that answer the page's question."""
    ours = [line for line in lines if line.ours and NATURAL in line.values]
    results = [result for line in ours for result in line.results]
    ids = {result.id for result in select_one_kind(results)} if results else set()
    return [line for line in ours if line.results[0].id in ids]


def write_headline(findings: Sequence[Finding]) -> str:
    """Return the first network's verdict as a sentence, "" without one."""
    return f"{findings[0].network}: {findings[0].verdict}." if findings else ""


def find_findings(lines: Sequence[Line], archive: ScoreArchive) -> list[Finding]:
    """Return a finding a network, the trained ones first, all of one kind of head."""
    chosen = choose_answering_lines(lines)
    exceeding = exceed_chance([line.values[NATURAL] for line in chosen])
    findings = []
    for network in dict.fromkeys(line.network for line in sorted(chosen, key=is_baseline)):
        of_network = [line for line in chosen if line.network == network]
        met = [line.target for line, exceeds in zip(chosen, exceeding, strict=True) if exceeds and line.network == network]
        findings.append(_make_finding(of_network, met, chosen, archive))
    return findings


def _make_finding(lines: Sequence[Line], met: Sequence[str], every: Sequence[Line], archive: ScoreArchive) -> Finding:
    values = {line.target: line.values[NATURAL] for line in lines}
    numbers = tuple(
        (target, format_number(value.spc), format_interval(value.spc_bounds), format_number(value.mae))
        for target, value in values.items()
    )
    first = lines[0]
    compared = [] if first.labels.pixels else islice(compare_baselines(first, every, archive), GAINS)
    gains = [f"{join_entry(difference.parts())} against {base.title}" for base, difference in compared]
    gain = f"SPC of {first.target} on the same images: {', '.join(gains)}." if gains else ""
    return Finding(first.title, _word_verdict(values, met), gain, numbers)


def _word_verdict(values: dict[str, MeanScore], met: Sequence[str]) -> str:
    if not any(value.chance for value in values.values()):
        return "not tested against chance (no head has a defined SPC)"
    if not met:
        defined = [value.spc for value in values.values() if value.spc is not None]
        return f"no position beyond chance (SPC {format_number(min(defined))} to {format_number(max(defined))})"
    targets = "every target" if len(met) == len(values) else f"{', '.join(met)} (of {', '.join(values)})"
    reached = [values[target].spc or 0.0 for target in met]
    return f"position is read beyond chance on {targets}, SPC {format_number(min(reached))} to {format_number(max(reached))}"


def describe_tests(lines: Sequence[Line]) -> str:
    """Return how many entries were tested and how small p can get, for the table's caption."""
    count = sum(value.chance is not None for line in lines if line.ours for value in line.values.values())
    if not count:
        return ""
    least = 1 / (1 + PERMUTATIONS)
    text = f"{count} entries were tested; the least p is {format_p(least)}, corrected {format_p(min(1.0, least * count))}."
    if least * count > LEVEL:
        text += f" In a table of over {int(LEVEL / least)} entries no corrected p can reach {LEVEL}: choose fewer cells."
    return text
