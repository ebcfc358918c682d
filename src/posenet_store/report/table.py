"""Table 2 of the report: for each target and network our numbers, and below them the published ones."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import mean, stdev
from typing import Any

from posenet_store.cells import HELD_OUT
from posenet_store.errors import unknown
from posenet_store.report.fields import SETTINGS, fields_of, varying
from posenet_store.report.listing import Listing, joined, short
from posenet_store.report.published import COLUMNS, MODELS, TABLES
from posenet_store.targets import TARGETS

BASE = "k=3"


@dataclass(frozen=True)
class Value:
    """One entry: means over seeds of SPC and MAE, their spread (sample deviation), images and undefined ones a seed."""

    spc: float | None
    mae: float | None
    spc_spread: float | None = None
    mae_spread: float | None = None
    images: int = 0
    undefined: int = 0

    def parts(self) -> tuple[str, str, str]:
        """Return SPC, its spread and MAE as the report prints numbers; an unknown spread is empty."""
        spread = f"±{short(self.spc_spread)}" if self.spc_spread is not None and self.spc is not None else ""
        return short(self.spc), spread, f"/ {short(self.mae)}"

    def text(self) -> str:
        """Return "SPC ±spread / MAE".

        >>> Value(0.3941, 0.2349, 0.0123).text(), Value(None, 0.251).text()
        ('.394 ±.012 / .235', 'undef. / .251')
        """
        return joined(self.parts())


@dataclass(frozen=True)
class Line:
    """One row: a target, the network, what varies (kernel, padding, input), whose numbers, and a Value a column."""

    target: str
    network: str
    setting: str
    source: str
    values: dict[str, Value]
    published: bool = False
    records: tuple[dict[str, Any], ...] = field(default=(), repr=False, compare=False)


def network_title(network: str) -> str:
    """Return a network's name for people; untrained ones and those of another padding say so.

    >>> network_title("resnet152-random0"), network_title("pixels"), network_title("vgg16-hed-padding-none on photos")
    ('resnet152-random0 (untrained)', 'pixels (no network)', 'vgg16-hed (no padding) on photos')
    """
    whole, _, images = network.partition(" on ")
    kind, _, padding = whole.partition("-padding-")
    remarks = ["no network"] if kind.partition("-")[0] == "pixels" else ["untrained"] if "-random" in kind else []
    if padding:
        remarks.append(f"{'no' if padding == 'none' else padding} padding")
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


def value_of(summaries: Sequence[dict[str, Any]]) -> Value:
    """Pool the summaries of one test over seeds."""
    spc = [s["spc"] for s in summaries if s["spc"] is not None]
    mae = [s["mae"] for s in summaries if s["mae"] is not None]
    return Value(
        mean(spc) if spc else None,
        mean(mae) if mae else None,
        stdev(spc) if len(spc) > 1 else None,
        stdev(mae) if len(mae) > 1 else None,
        summaries[0]["images"],
        max(s["undefined"] for s in summaries),
    )


def _column(test: str) -> str:
    return COLUMNS[0] if test == HELD_OUT else test


def _told_apart(records: Sequence[dict[str, Any]]) -> dict[tuple[str, ...], list[str]]:
    """Return of each store and protocol the settings, and the amount of training images, that vary among its cells."""
    named: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for record in records:
        named.setdefault(_alike(record), []).append(record)
    return {name: [one for one in varying(some) if one in (*SETTINGS, "train_rows")] for name, some in named.items()}


def _alike(record: dict[str, Any]) -> tuple[str, ...]:
    return record["labels"]["network"], record["labels"]["images"], record["cell"]["protocol"]["name"]


def our_lines(records: Sequence[dict[str, Any]]) -> list[Line]:
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
        values = {_column(test): value_of([c["scores"][test] for c in cells if test in c["scores"]]) for test in tests}
        name = f"{network} on {trained_on}" if len(images) > 1 else network
        lines.append(Line(target, name, setting, source, values, records=tuple(cells)))
    return lines


def table_lines(records: Sequence[dict[str, Any]]) -> list[Line]:
    """Return our lines in Table 2's order, each backbone's published lines after them."""
    ours = our_lines(records)
    order = {name: place for place, name in enumerate(dict.fromkeys(line.network for line in ours))}
    lines: list[Line] = []
    for target in sorted({line.target for line in ours}, key=lambda name: (*TARGETS, name).index(name)):
        here = sorted((line for line in ours if line.target == target), key=lambda line: order[line.network])
        backbones = dict.fromkeys(_backbone(line) for line in here)
        for backbone in backbones:
            lines += [line for line in here if _backbone(line) == backbone]
            if any(line.setting == BASE for line in here):
                lines += _published_lines(target, backbone)
    return lines


def _backbone(line: Line) -> str:
    return str(line.records[0]["labels"]["backbone"])


def _published_lines(target: str, backbone: str) -> list[Line]:
    model = MODELS.get(backbone)
    lines = []
    for table in TABLES:
        if model is not None and (target, model) in table.numbers:
            values = {c: Value(*pair) for c, pair in zip(COLUMNS, table.numbers[target, model], strict=True)}
            lines.append(Line(target, model, BASE, table.source, values, published=True))
    return lines


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
    """Return headings and rows of text; the setting is a column only where it varies."""
    varies = len({line.setting for line in lines}) > 1
    tests = columns(lines)
    head = ["target", "network", *(["head"] if varies else []), "numbers", *(f"{name} SPC / MAE" for name in tests)]
    rows = []
    for line in lines:
        network = line.network if line.published else network_title(line.network)
        values = [line.values[name].text() if name in line.values else "" for name in tests]
        rows.append([line.target, network, *([line.setting] if varies else []), line.source, *values])
    return head, rows


def as_records(lines: Sequence[Line]) -> list[dict[str, Any]]:
    """Return one flat record a line and test column, with full precision."""
    return [
        {"target": line.target, "network": line.network, "head": line.setting, "numbers": line.source, "test": name}
        | {key: getattr(value, key) for key in ("spc", "spc_spread", "mae", "mae_spread", "images", "undefined")}
        for line in lines
        for name, value in line.values.items()
    ]


def table2(records: Sequence[dict[str, Any]]) -> Listing:
    """Return Table 2 for printing."""
    lines = table_lines(records)
    return Listing(*as_rows(lines), as_records(lines))
