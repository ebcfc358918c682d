"""What a run shows, in sentences: which networks carry position, by how much more than the baselines, and how sure that is."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from posenet_store.report.compare import Difference, find_difference
from posenet_store.report.figures.maps import select_one_kind
from posenet_store.report.records import name_architecture
from posenet_store.report.scores import MeanScore, ScoreArchive
from posenet_store.report.significance import LEVEL, constant_error, correct_holm
from posenet_store.report.table import NATURAL, Line, arrange_lines
from posenet_store.report.text_table import format_number, join_entry
from posenet_store.sweep.cell import make_cell_target

LEAST_IMAGES = 30
"""From fewer images no claim is made."""
GAINS = 2
"""Baselines that a sentence compares with; all are in Table 2."""
NAMED = 3
"""Networks that the headline names."""


@dataclass(frozen=True)
class Finding:
    """One network's answer: the verdict, a sentence on the baselines, and on which targets it claims position ("": on none)."""

    network: str
    verdict: str
    gain: str
    trained: bool = False
    claim: str = ""


@dataclass(frozen=True)
class Evidence:
    """What speaks for position in one line: its scores, its gain over the pixels, if there are any, and the constant's MAE."""

    target: str
    value: MeanScore
    gain: Difference | None
    constant: float

    @property
    def p(self) -> float:
        """The larger p of SPC and of its gain: a claim needs both, so it errs no more often than the worse of them."""
        chance = self.value.chance
        ps = (chance.p if chance else None, self.gain.p if self.gain else None)
        return max(1.0 if p is None else p for p in ps)

    @property
    def images(self) -> int:
        """Held-out images with an SPC."""
        return self.value.images - self.value.undefined

    @property
    def orders(self) -> bool:
        """Whether positions are put in order: SPC and its gain are above 0."""
        return (self.value.spc or 0) > 0 and self.gain is not None and (self.gain.mean or 0) > 0

    @property
    def supports(self) -> bool:
        """Whether all but p speaks for a claim: the order, an MAE below the constant's, and enough images."""
        error = self.value.mae
        return self.orders and error is not None and error < self.constant and self.images >= LEAST_IMAGES


def is_baseline(line: Line) -> bool:
    """Whether a line's features were never trained: plain pixels, or a network with random weights."""
    return not line.labels.trained


def is_far_off(line: Line) -> bool:
    """Whether a head's mean error on held-out images exceeds its target's whole range: training did not bring it near."""
    low, high = line.results[0].cell.value_range
    value = line.values.get(NATURAL)
    return value is not None and (value.mae is None or value.mae > high - low)


def compare_baselines(line: Line, lines: Sequence[Line], archive: ScoreArchive) -> Iterator[tuple[Line, Difference]]:
    """Yield each baseline with the same kind of head, and the gain of a line's SPC on the same held-out images over it.

    Baselines are the pixels and, of a trained network, the same network untrained. A head that training did not bring near
    its target has no gain, nor is it a baseline.
    """
    kind = (line.target, line.setting, line.source)
    if is_far_off(line):
        return
    for base in lines:
        if not base.ours or (base.target, base.setting, base.source) != kind or base.network == line.network:
            continue
        if _has_baseline(line, base) and not is_far_off(base) and _have_same_images(base, line):
            first, second = (archive.table(of.results, f"spc/{of.test(NATURAL)}") for of in (base, line))
            if first is not None and second is not None:
                if first.shape != second.shape:  # seeds cannot be paired
                    first, second = first.mean(axis=1), second.mean(axis=1)
                yield base, find_difference(first, second, more_is_better=True)


def _has_baseline(line: Line, base: Line) -> bool:
    """Whether a line is compared with another one: the pixels, or the same network before it was trained."""
    names = [name_architecture(of.labels.backbone) for of in (line, base)]
    return base.labels.pixels or (line.labels.trained and is_baseline(base) and names[0] == names[1])


def _have_same_images(first: Line, second: Line) -> bool:
    """Whether the held-out images of two lines are of one content, in one order."""
    scores = [result.scores.get(line.test(NATURAL)) for line in (first, second) for result in line.results]
    return None not in scores and len({score.images_sha256 for score in scores if score}) == 1


def gather_evidence(line: Line, lines: Sequence[Line], archive: ScoreArchive) -> Evidence:
    """Return what speaks for position in a line, compared with the pixels among the lines."""
    gains = (gain for base, gain in compare_baselines(line, lines, archive) if base.labels.pixels)
    constant = float(constant_error(make_cell_target(line.results[0].cell)).mean())
    return Evidence(line.target, line.values[NATURAL], next(gains, None), constant)


def choose_claims(evidence: Sequence[Evidence]) -> list[bool]:
    """Whether each line's evidence carries a claim: it supports one, and its p, corrected for all, is small.

    A page may show thousands of heads; its answer makes claims about a few of them, and the correction is for these.
    """
    corrected = correct_holm([each.p for each in evidence])
    return [each.supports and p <= LEVEL for each, p in zip(evidence, corrected, strict=True)]


def choose_answering_lines(lines: Sequence[Line]) -> list[Line]:
    """Return our lines with held-out scores, all of one kind of head: those that answer the page's question."""
    ours = [line for line in lines if line.ours and NATURAL in line.values]
    results = [result for line in ours for result in line.results]
    ids = {result.id for result in select_one_kind(results)} if results else set()
    return [line for line in ours if line.results[0].id in ids]


def _list_first(names: Sequence[str]) -> str:
    """Return as many names as a headline holds.

    >>> _list_first(["a", "b"]), _list_first(["a", "b", "c", "d", "e"])
    ('a, b', 'a, b, c and 2 more')
    """
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if names[NAMED:] else "")


def write_headline(findings: Sequence[Finding]) -> str:
    """Return what the trained networks show as a sentence; without one, what the last network shows; "" without findings.

    >>> claims = {"a": "every target (SPC .1 to .5)", "b": "H (of H, G) (SPC .3)", "c": ""}
    >>> write_headline([Finding(name, "", "", trained=True, claim=claim) for name, claim in claims.items()])
    'Position is read from 2 of 3 trained networks: a on every target (SPC .1 to .5), b on H (of H, G) (SPC .3); not from c.'
    """
    trained = [finding for finding in findings if finding.trained]
    claims = [f"{finding.network} on {finding.claim}" for finding in trained if finding.claim]
    others = [finding.network for finding in trained if not finding.claim]
    if len(trained) > 1 and claims:
        without = f"; not from {_list_first(others)}" if others else ""
        return f"Position is read from {len(claims)} of {len(trained)} trained networks: {_list_first(claims)}{without}."
    answers = trained or findings[-1:]
    return f"{answers[0].network}: {answers[0].verdict}." if answers else ""


def find_findings(lines: Sequence[Line], archive: ScoreArchive) -> list[Finding]:
    """Return a finding a network in the order of `arrange_lines`, all of one kind of head."""
    chosen = arrange_lines(choose_answering_lines(lines))
    asked = [line for line in chosen if not line.labels.pixels]
    evidence = [gather_evidence(line, chosen, archive) for line in asked]
    claims = choose_claims(evidence)
    findings = []
    for network in dict.fromkeys(line.network for line in chosen):
        of_network = [line for line in chosen if line.network == network]
        weighed = [(each, claim) for line, each, claim in zip(asked, evidence, claims, strict=True) if line.network == network]
        findings.append(_make_finding(of_network, weighed, chosen, archive))
    return findings


def _make_finding(
    lines: Sequence[Line], weighed: Sequence[tuple[Evidence, bool]], every: Sequence[Line], archive: ScoreArchive
) -> Finding:
    values = [line.values[NATURAL] for line in lines]
    first = lines[0]
    compared = [] if first.labels.pixels else islice(compare_baselines(first, every, archive), GAINS)
    gains = [f"{join_entry(difference.parts())} against {base.title}" for base, difference in compared]
    gain = f"SPC of {first.target} on the same images: {', '.join(gains)}." if gains else ""
    far_off = all(is_far_off(line) for line in lines)
    verdict = "not trained: errors exceed the target's range" if far_off else _word_verdict(values, weighed)
    claimed = [] if far_off else [each for each, claim in weighed if claim]
    claim = f"{_name_targets(claimed, weighed)} ({_format_spc(claimed)})" if claimed else ""
    return Finding(first.title, verdict, gain, first.labels.trained, claim)


def _format_range(numbers: Sequence[float], form: str = "") -> str:
    """Return the least and the largest number as text.

    >>> _format_range([0.3, 0.1]), _format_range([0.25]), _format_range([3.2, 12.0], ".0f")
    ('.100 to .300', '.250', '3 to 12')
    """
    texts = dict.fromkeys(f"{number:{form}}" if form else format_number(number) for number in (min(numbers), max(numbers)))
    return " to ".join(texts)


def _word_verdict(values: Sequence[MeanScore], weighed: Sequence[tuple[Evidence, bool]]) -> str:
    """Return what a network's lines show: a claim with its size, or why there is none."""
    defined = [value.spc for value in values if value.spc is not None]
    if not defined:
        return "no head has a defined SPC"
    spc = f"SPC {_format_range(defined)}"
    if not weighed:
        return f"the baseline, {spc}"
    claimed = [each for each, claim in weighed if claim]
    if claimed:
        return _word_claim(claimed, weighed)
    if not any(each.gain for each, _ in weighed):
        return f"no claim: the pixels are not among the heads to compare with ({spc})"
    images = max(each.images for each, _ in weighed)
    if images < LEAST_IMAGES:
        return f"no claim from {images} images, {LEAST_IMAGES} are needed ({spc})"
    if any(each.orders and each.p <= LEVEL for each, _ in weighed):
        return f"no claim: positions are in order, but errors are not below the best constant's ({spc})"
    return f"no position beyond chance and the pixels ({spc})"


def _name_targets(claimed: Sequence[Evidence], weighed: Sequence[tuple[Evidence, bool]]) -> str:
    """Return the targets of claims for people, and of how many that is, unless it is all."""
    names, asked = [each.target for each in claimed], [each.target for each, _ in weighed]
    return "every target" if len(names) == len(asked) else f"{', '.join(names)} (of {', '.join(asked)})"


def _format_spc(claimed: Sequence[Evidence]) -> str:
    return f"SPC {_format_range([each.value.spc for each in claimed if each.value.spc is not None])}"


def _word_claim(claimed: Sequence[Evidence], weighed: Sequence[tuple[Evidence, bool]]) -> str:
    """Return on which targets position is read, and how large that is."""
    gains = [each.gain.mean for each in claimed if each.gain and each.gain.mean is not None]
    saved = [100 * (1 - each.value.mae / each.constant) for each in claimed if each.value.mae is not None]
    size = f"{_format_range(gains)} more than the pixels, errors {_format_range(saved, '.0f')} % below the best constant's"
    return f"position is read on {_name_targets(claimed, weighed)}: {_format_spc(claimed)}, {size}"


def describe_tests(lines: Sequence[Line]) -> str:
    """Return how many entries were tested together, for the table's caption."""
    chances = [value.chance for line in lines if line.ours for value in line.values.values() if value.chance]
    return f"{len(chances)} entries of several images were tested and corrected together." if chances else ""
