"""Table 2 of the report: for each target and network our numbers, and below them the published ones."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from posenet_store.errors import unknown
from posenet_store.heads.targets import TARGETS
from posenet_store.report.published import COLUMNS, MODELS, TABLES
from posenet_store.report.records import get_fields, group_by, list_varying, name_architecture, name_network
from posenet_store.report.scores import EMPTY, MeanScore, ScoreArchive, find_chances, find_permuted, format_chance, pool_seeds
from posenet_store.report.significance import constant_error
from posenet_store.report.text_table import Listing, format_p
from posenet_store.specs import ALIGNED, ZEROS
from posenet_store.sweep.cell import HELD_OUT, Cell, make_cell_target
from posenet_store.sweep.labels import Labels
from posenet_store.sweep.results import Result
from posenet_store.sweep.tables import COLUMNS as RESULT_COLUMNS

BASE = "k=3"
CONSTANT = "best constant"
NATURAL = COLUMNS[0]
"""The name of the column of held-out images."""


@dataclass(frozen=True)
class Line:
    """One row: target, network and its `title`, the head's `setting`, whose numbers (`source`), and a MeanScore a test.

    A published row, and that of the best constant map, has no results.
    """

    target: str
    network: str
    title: str
    setting: str
    source: str
    values: dict[str, MeanScore]
    results: tuple[Result, ...] = field(default=(), repr=False, compare=False)

    @property
    def ours(self) -> bool:
        """Whether these are heads of the run."""
        return bool(self.results)

    @property
    def labels(self) -> Labels:
        """The labels that our results have in common."""
        return self.results[0].labels

    def test(self, column: str) -> str:
        """Return the test of a column, as results name it."""
        return HELD_OUT if column == NATURAL and HELD_OUT in self.results[0].scores else column


def describe_head(cell: Cell, with_input: bool = True) -> str:
    """Return what distinguishes a cell's head: kernel, padding and input, the defaults left out."""
    parts = [f"k={cell.kernel}"]
    if cell.padding:
        parts.append(f"pad={cell.padding}")
    if with_input and cell.input != ALIGNED:
        parts.append(cell.input)
    return " ".join(parts)


def is_base(result: Result) -> bool:
    """Whether a head is the published table's: 3x3, no padding, input `aligned`."""
    return describe_head(result.cell) == BASE


def is_published_kind(labels: Labels) -> bool:
    """Whether features are of the kind whose numbers are published: trained with zero padding, or plain pixels."""
    return labels.network_padding == ZEROS and (labels.trained or labels.pixels)


def arrange_lines(lines: Iterable[Line]) -> list[Line]:
    """Return our lines as a reader compares networks: pixels first, then each architecture.

    Of an architecture the trained networks come first, those with zero padding before their variants, then the untrained.
    """
    arranged = list(lines)
    architectures = list(dict.fromkeys(name_architecture(line.labels.backbone) for line in arranged))

    def rank(line: Line) -> tuple[bool, int, bool, bool]:
        labels = line.labels
        architecture = architectures.index(name_architecture(labels.backbone))
        return not labels.pixels, architecture, not labels.trained, labels.network_padding != ZEROS

    return sorted(arranged, key=rank)


def _column(test: str) -> str:
    return NATURAL if test == HELD_OUT else test


def _protocol_key(result: Result) -> tuple[str, ...]:
    return result.labels.network, result.labels.images, result.cell.protocol.name


def _list_sources(results: Sequence[Result]) -> list[str]:
    """Return whose numbers each result's are: "ours", its protocol, and what else varies for its network and protocol."""
    groups = group_by(results, _protocol_key)
    varying = {key: [name for name in list_varying(group) if name not in RESULT_COLUMNS] for key, group in groups.items()}
    sources = []
    for result in results:
        values = get_fields(result)
        settings = [f"{name} {values[name]}" for name in varying[_protocol_key(result)]]
        sources.append(f"ours: {', '.join([result.cell.protocol.name, *settings])}")
    return sources


def our_lines(results: Sequence[Result], archive: ScoreArchive = EMPTY) -> list[Line]:
    """Return one line a (target, network, images, setting, protocol with what varies of its settings), seeds pooled."""
    groups: dict[tuple[str, ...], list[Result]] = {}
    for result, source in zip(results, _list_sources(results), strict=True):
        labels, setting = result.labels, describe_head(result.cell)
        groups.setdefault((result.cell.target, labels.network, labels.images, setting, source), []).append(result)
    several_sets = len({result.labels.images for result in results}) > 1
    lines = []
    for (target, network, images, setting, source), group in groups.items():
        values = {
            _column(test): pool_seeds([result for result in group if test in result.scores], test, archive)
            for test in group[0].scores
        }
        suffix = f" on {images}" if several_sets else ""
        title = name_network(group[0].labels) + suffix
        lines.append(Line(target, network + suffix, title, setting, source, values, results=tuple(group)))
    return lines


def table_lines(results: Sequence[Result], archive: ScoreArchive = EMPTY, permuted: bool = False) -> list[Line]:
    """Return Table 2's lines: of each target the best constant map, then ours, each backbone's published ones after them.

    `permuted` adds the p of permuted positions.
    """
    ours = _add_chances(our_lines(results, archive), archive, permuted)
    networks = list(dict.fromkeys(line.network for line in ours))
    lines: list[Line] = []
    for target in order_targets(line.target for line in ours):
        of_target = sorted((line for line in ours if line.target == target), key=lambda line: networks.index(line.network))
        lines += _constant_lines(of_target)
        for backbone in dict.fromkeys(line.labels.backbone for line in of_target):
            lines += [line for line in of_target if line.labels.backbone == backbone]
            if any(line.setting == BASE for line in of_target):
                lines += _published_lines(target, backbone)
    return lines


def _add_chances(lines: Sequence[Line], archive: ScoreArchive, permuted: bool) -> list[Line]:
    """Test every entry against chance, all corrected together: the table is the family of tests."""
    entries = [(line.results, line.test(name)) for line in lines for name in line.values]
    of_permuted = find_permuted(entries, archive) if permuted else [None] * len(entries)
    chances = iter(zip(find_chances(entries, archive), of_permuted, strict=True))
    tested = []
    for line in lines:
        values = {}
        for name, value in line.values.items():
            chance, p = next(chances)
            values[name] = replace(value, chance=chance, permuted=p)
        tested.append(replace(line, values=values))
    return tested


def _constant_lines(lines: Sequence[Line]) -> list[Line]:
    """Return the best constant map of each line's target: its MAE is what a head without any position reaches."""
    columns_of: dict[tuple[str, float], list[str]] = {}
    for line in lines:
        cell = line.results[0].cell
        mae = float(constant_error(make_cell_target(cell)).mean())
        columns_of.setdefault((describe_head(cell, with_input=False), mae), []).extend(line.values)
    return [
        Line(lines[0].target, CONSTANT, CONSTANT, setting, "baseline", {name: MeanScore(None, mae) for name in columns})
        for (setting, mae), columns in columns_of.items()
    ]


def _published_lines(target: str, backbone: str) -> list[Line]:
    model = MODELS.get(backbone, "")
    return [
        Line(target, model, model, BASE, table.source, {str(column): MeanScore(*pair) for column, pair in pairs.items()})
        for table in TABLES
        if (pairs := table.at(target, model))
    ]


def order_targets(targets: Iterable[str]) -> list[str]:
    """Return targets, each once: the published five in the published order, then other patterns.

    >>> order_targets(["ramp:30", "G", "H", "G"])
    ['H', 'G', 'ramp:30']
    """
    return sorted(dict.fromkeys(targets), key=lambda name: (*TARGETS, name).index(name))


def order_tests(tests: Iterable[str]) -> list[str]:
    """Return test names in the table's order: held-out (natural) first, other image sets, then the probes.

    >>> order_tests(["white", "black", "photos", "held-out"])
    ['held-out', 'photos', 'black', 'white']
    """
    names = set(tests)
    known = (HELD_OUT, *COLUMNS)
    return [name for name in (*known[:2], *sorted(names - {*known}), *known[2:]) if name in names]


def choose_columns(results: Iterable[Result], wanted: Sequence[str] = ()) -> dict[str, str]:
    """Return the tests of the results as shown name -> name in the results: the wanted ones, or all in the table's order.

    Raises UsageError for a column that no result has.
    """
    tests = order_tests(test for result in results for test in result.scores)
    shown = {test if _column(test) in tests else _column(test): test for test in tests}  # a set may be called natural
    for name in wanted:
        if name not in shown:
            raise unknown("test column", name, shown)
    return {name: shown[name] for name in wanted or shown}


def list_columns(lines: Iterable[Line]) -> list[str]:
    """Return the test columns of a table."""
    return order_tests(name for line in lines for name in line.values)


def format_rows(lines: Sequence[Line]) -> tuple[list[str], list[list[str]]]:
    """Return headings and rows of text; the setting is a column only where it varies, p where it is known."""
    varies = len({line.setting for line in lines}) > 1
    tests = list_columns(lines)
    first = [line.values.get(tests[0]) for line in lines]
    columns = {
        f"{tests[0]} p": [format_chance(value.chance) if value else "" for value in first],
        f"{tests[0]} p permuted": [format_p(value.permuted) if value else "" for value in first],
    }
    columns = {name: texts for name, texts in columns.items() if any(texts)}
    head = ["target", "network", *(["head"] if varies else []), "numbers", *(f"{name} SPC / MAE" for name in tests)]
    head += columns
    rows = []
    for index, line in enumerate(lines):
        values = [line.values[name].text() if name in line.values else "" for name in tests]
        p = [texts[index] for texts in columns.values()]
        rows.append([line.target, line.title, *([line.setting] if varies else []), line.source, *values, *p])
    return head, rows


def list_records(lines: Sequence[Line]) -> list[dict[str, Any]]:
    """Return one flat record a line and test column, with full precision."""
    return [
        {"target": line.target, "network": line.network, "head": line.setting, "numbers": line.source, "test": name}
        | value.to_dict()
        for line in lines
        for name, value in line.values.items()
    ]


def make_table2(results: Sequence[Result], archive: ScoreArchive = EMPTY, permuted: bool = False) -> Listing:
    """Return Table 2 for printing; `permuted` adds the p of permuted positions."""
    lines = table_lines(results, archive, permuted)
    return Listing(*format_rows(lines), list_records(lines))
