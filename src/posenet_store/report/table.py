"""Table 2 of the report: for each target and network our numbers, and below them the published ones."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from posenet_store.errors import unknown
from posenet_store.heads.targets import TARGETS
from posenet_store.report.published import COLUMNS, MODELS, TABLES
from posenet_store.report.records import SETTINGS, Record, fields_of, varying
from posenet_store.report.scores import NOTHING, MeanScore, ScoreArchive, chances, shown_p, value_of
from posenet_store.report.significance import constant_error
from posenet_store.report.text_table import Listing
from posenet_store.specs import ZEROS
from posenet_store.sweep.cell import HELD_OUT, make_cell_target

BASE = "k=3"


@dataclass(frozen=True)
class Line:
    """One row: a target, the network, what varies (kernel, padding, input), whose numbers, and a Value a column.

    A published row, and that of the best constant map, has no records.
    """

    target: str
    network: str
    setting: str
    source: str
    values: dict[str, MeanScore]
    records: tuple[Record, ...] = field(default=(), repr=False, compare=False)

    @property
    def ours(self) -> bool:
        """Whether these are heads of the run."""
        return bool(self.records)

    def test(self, column: str) -> str:
        """Return the test that a column is of, as its records name it."""
        return HELD_OUT if column == COLUMNS[0] and HELD_OUT in self.records[0]["scores"] else column


def untrained(network: str) -> str:
    """Return why a network's features were never trained, nothing if they were.

    >>> untrained("pixels"), untrained("vgg16-random0-padding-none"), untrained("vgg16-hed-padding-none")
    ('no network', 'untrained', '')
    """
    return "no network" if network.partition("-")[0] == "pixels" else "untrained" if "-random" in network else ""


def padding_of(network: str) -> tuple[str, str]:
    """Return a network's name without its padding, and the padding.

    >>> padding_of("vgg16-hed-padding-none"), padding_of("pixels")
    (('vgg16-hed', 'none'), ('pixels', 'zeros'))
    """
    kind, _, padding = network.partition("-padding-")
    return kind, padding or ZEROS


def network_title(network: str) -> str:
    """Return a network's name for people; untrained ones and those of another padding say so.

    >>> network_title("resnet152-random0"), network_title("pixels"), network_title("vgg16-hed-padding-none on photos")
    ('resnet152-random0 (untrained)', 'pixels (no network)', 'vgg16-hed (no padding) on photos')
    """
    whole, _, images = network.partition(" on ")
    kind, padding = padding_of(whole)
    padded = f"{'no' if padding == 'none' else padding} padding" if padding != ZEROS else ""
    remarks = [remark for remark in (untrained(kind), padded) if remark]
    return kind + (f" ({', '.join(remarks)})" if remarks else "") + (f" on {images}" if images else "")


def shown_field(name: str, value: Any) -> str:
    """Return a field's value for people; what its protocol does not have is empty.

    >>> shown_field("network", "resnet18-random0"), shown_field("kernel", 3)
    ('resnet18-random0 (untrained)', '3')
    """
    if value is None:
        return ""
    return network_title(value) if name == "network" else str(value)


def setting_of(cell: dict[str, Any]) -> str:
    """Return what distinguishes a cell's head: kernel, padding and input, the defaults left out."""
    parts = [f"k={cell['kernel']}"]
    if cell["padding"]:
        parts.append(f"pad={cell['padding']}")
    if cell["input"] != "aligned":
        parts.append(cell["input"])
    return " ".join(parts)


def _column(test: str) -> str:
    return COLUMNS[0] if test == HELD_OUT else test


def _told_apart(records: Sequence[Record]) -> dict[tuple[str, ...], list[str]]:
    """Return of each store and protocol the settings, and the amount of training images, that vary among its cells."""
    named: dict[tuple[str, ...], list[Record]] = {}
    for record in records:
        named.setdefault(_alike(record), []).append(record)
    return {name: [one for one in varying(some) if one in (*SETTINGS, "train_rows")] for name, some in named.items()}


def _alike(record: Record) -> tuple[str, ...]:
    return record["labels"]["network"], record["labels"]["images"], record["cell"]["protocol"]["name"]


def our_lines(records: Sequence[Record], kept: ScoreArchive = NOTHING) -> list[Line]:
    """Return one line a (target, network, images, setting, protocol with what varies of its settings), seeds pooled."""
    told_apart = _told_apart(records)
    pooled: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for record in records:
        cell, labels, values = record["cell"], record["labels"], fields_of(record)
        settings = [f"{name} {values[name]}" for name in told_apart[_alike(record)]]
        source = f"ours: {', '.join([cell['protocol']['name'], *settings])}"
        key = (cell["target"], labels["network"], labels["images"], setting_of(cell), source)
        pooled.setdefault(key, []).append(record)
    images = {key[2] for key in pooled}
    lines = []
    for (target, network, trained_on, setting, source), cells in pooled.items():
        tests = list(cells[0]["scores"])
        values = {_column(test): value_of([c for c in cells if test in c["scores"]], test, kept) for test in tests}
        name = f"{network} on {trained_on}" if len(images) > 1 else network
        lines.append(Line(target, name, setting, source, values, records=tuple(cells)))
    return lines


def table_lines(records: Sequence[Record], kept: ScoreArchive = NOTHING) -> list[Line]:
    """Return Table 2's lines: of each target the best constant map, then ours, each backbone's published ones after them."""
    ours = _with_chances(our_lines(records, kept), kept)
    order = {name: place for place, name in enumerate(dict.fromkeys(line.network for line in ours))}
    lines: list[Line] = []
    for target in target_order(line.target for line in ours):
        here = sorted((line for line in ours if line.target == target), key=lambda line: order[line.network])
        lines += _constants(here)
        backbones = dict.fromkeys(_backbone(line) for line in here)
        for backbone in backbones:
            lines += [line for line in here if _backbone(line) == backbone]
            if any(line.setting == BASE for line in here):
                lines += _published_lines(target, backbone)
    return lines


def _with_chances(lines: Sequence[Line], kept: ScoreArchive) -> list[Line]:
    """Test every entry against chance, all corrected together: the table is the family."""
    entries = [(line.records, line.test(name)) for line in lines for name in line.values]
    found = iter(chances(entries, kept))
    return [replace(line, values={n: replace(v, chance=next(found)) for n, v in line.values.items()}) for line in lines]


def _constants(lines: Sequence[Line]) -> list[Line]:
    """The best constant map of each of these lines' targets: its MAE is what a head without any position reaches."""
    columns_of: dict[tuple[str, float], list[str]] = {}
    for line in lines:
        cell = line.records[0]["cell"]
        mae = float(constant_error(make_cell_target(cell)).mean())
        columns_of.setdefault((setting_of(cell | {"input": "aligned"}), mae), []).extend(line.values)
    return [
        Line(lines[0].target, "best constant", setting, "baseline", {name: MeanScore(None, mae) for name in names})
        for (setting, mae), names in columns_of.items()
    ]


def _backbone(line: Line) -> str:
    return str(line.records[0]["labels"]["backbone"])


def _published_lines(target: str, backbone: str) -> list[Line]:
    model = MODELS.get(backbone, "")
    found = ((table, table.at(target, model)) for table in TABLES)
    return [
        Line(target, model, BASE, table.source, {str(column): MeanScore(*pair) for column, pair in pairs.items()})
        for table, pairs in found
        if pairs
    ]


def target_order(targets: Iterable[str]) -> list[str]:
    """Return targets, each once: the published five in the published order, then patterns of one's own.

    >>> target_order(["ramp:30", "G", "H", "G"])
    ['H', 'G', 'ramp:30']
    """
    return sorted(dict.fromkeys(targets), key=lambda name: (*TARGETS, name).index(name))


def in_order(tests: Iterable[str]) -> list[str]:
    """Return test names in the table's order: held-out (natural) first, other image sets, then the probes.

    >>> in_order(["white", "black", "photos", "held-out"])
    ['held-out', 'photos', 'black', 'white']
    """
    found = dict.fromkeys(tests)
    known = (HELD_OUT, *COLUMNS)
    others = sorted(name for name in found if name not in known)
    return [name for name in (*known[:2], *others, *known[2:]) if name in found]


def chosen_columns(records: Iterable[dict[str, Any]], wanted: Sequence[str] = ()) -> dict[str, str]:
    """Return the tests of the records as shown name -> name in the records: the wanted ones, or all in the table's order.

    Raises UsageError for a column that no record has.
    """
    tests = in_order(test for record in records for test in record["scores"])
    shown = {test if _column(test) in tests else _column(test): test for test in tests}  # a set may be called natural
    for name in wanted:
        if name not in shown:
            raise unknown("test column", name, shown)
    return {name: shown[name] for name in wanted or shown}


def columns(lines: Iterable[Line]) -> list[str]:
    """Return the test columns of a table."""
    return in_order(name for line in lines for name in line.values)


def as_rows(lines: Sequence[Line]) -> tuple[list[str], list[list[str]]]:
    """Return headings and rows of text; the setting is a column only where it varies, p where it is known."""
    varies = len({line.setting for line in lines}) > 1
    tests = columns(lines)
    tested = tests and any(line.values[tests[0]].chance for line in lines if tests[0] in line.values)
    head = ["target", "network", *(["head"] if varies else []), "numbers", *(f"{name} SPC / MAE" for name in tests)]
    head += [f"{tests[0]} p"] if tested else []
    rows = []
    for line in lines:
        network = network_title(line.network) if line.ours else line.network
        values = [line.values[name].text() if name in line.values else "" for name in tests]
        chance = line.values[tests[0]].chance if tested and tests[0] in line.values else None
        p = [shown_p(chance.corrected) if chance else ""] if tested else []
        rows.append([line.target, network, *([line.setting] if varies else []), line.source, *values, *p])
    return head, rows


def as_records(lines: Sequence[Line]) -> list[dict[str, Any]]:
    """Return one flat record a line and test column, with full precision."""
    return [
        {"target": line.target, "network": line.network, "head": line.setting, "numbers": line.source, "test": name}
        | value.facts()
        for line in lines
        for name, value in line.values.items()
    ]


def table2(records: Sequence[Record], kept: ScoreArchive = NOTHING) -> Listing:
    """Return Table 2 for printing."""
    lines = table_lines(records, kept)
    return Listing(*as_rows(lines), as_records(lines))
