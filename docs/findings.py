"""Collect the numbers of the tables in docs/findings.md from runs, and fill them in.

    python docs/findings.py science runs/science            takes the tables of a set from the runs below a folder, then renders
    python docs/findings.py photographs runs/photographs    the same of those that pipeline/photographs.sh made

The numbers are kept in docs/findings.json, with their intervals. A table stands between
`<!-- table: NAME -->` and `<!-- /table -->`; `docs/render.py` writes it from there, one without numbers stays as it is.
"""

import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isclose
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGE, NUMBERS = ROOT / "docs/findings.md", ROOT / "docs/findings.json"
TABLE = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(<!-- /table -->)", re.DOTALL)
DIGITS = 4


@dataclass(frozen=True)
class Table:
    """A table of held-out SPC: the run that has its heads, and the conditions (FIELD=VALUE) of all, of columns and of rows.

    `published` is the last row: its label, the name of a table in `report/published.py`, the target and the model.
    """

    run: str
    where: tuple[str, ...]
    columns: Mapping[str, str]
    rows: Mapping[str, tuple[str, ...]]
    published: tuple[str, str, str, str] | None = None
    corner: str = ""


@dataclass(frozen=True)
class Records:
    """A table of what a command printed with --json into `file`: rows and columns choose a record and its `field`."""

    file: str
    columns: Mapping[str, Mapping[str, object]]
    rows: Mapping[str, Mapping[str, object]]
    corner: str = ""
    digits: int = 2


STAGES = {f"f{number}": f"input=full:f{number}" for number in range(1, 6)} | {"all": "input=full"}
VGG, UNTRAINED, UNPADDED = "network=vgg16-hed", "network=vgg16-random0", "network=vgg16-hed-padding-none"
LITE0 = "network=timm:tf_efficientnet_lite0.in1k"
TARGETS = ("H", "V", "G")
NETWORKS = {
    "EfficientNet-Lite0, trained": "timm:tf_efficientnet_lite0.in1k-lite0",
    "EfficientNet-Lite0, untrained": "timm:tf_efficientnet_lite0.in1k-random0",
    "VGG-16, trained": "vgg16-hed",
    "VGG-16, untrained": "vgg16-random0",
}
MAPS = {f"f{number}": {"stage": f"f{number}", "field": "position"} for number in range(1, 6)}
SETS: Mapping[str, Mapping[str, Table | Records]] = {
    "science": {
        "stages": Table(
            "stages",
            ("target=H",),
            STAGES,
            {
                "VGG-16, trained": (VGG,),
                "VGG-16, untrained": (UNTRAINED,),
                "DenseNet-121, untrained": ("network=densenet121-random0",),
                "VGG-16, trained, without padding": (UNPADDED,),
            },
            ("the paper's Table 3 (VGG-16, PASCAL-S)", "STAGES", "H", "VGG"),
        ),
        "network-paddings": Table(
            "backbone_padding",
            ("protocol=ridge",),
            {"zeros": VGG} | {name: f"{VGG}-padding-{name}" for name in ("circular", "replicate", "reflect", "none")},
            {"H": ("target=H",), "G": ("target=G",)},
            corner="padding",
        ),
        "head-paddings": Table(
            "padding",
            ("target=H",),
            {str(padding): f"padding={padding}" for padding in range(4)},
            {"plain pixels": ("network=pixels",)},
            ("the paper's Table 4 (PosENet, PASCAL-S)", "PADDINGS", "H", "PosENet"),
            corner="padding of the head",
        ),
        "kernels": Table(
            "kernel_size",
            ("target=H",),
            {str(kernel): f"kernel={kernel}" for kernel in (1, 3, 5, 7)},
            {"VGG-16, trained": (VGG,)},
            ("the paper's Table 2b (VGG-16, PASCAL-S)", "KERNELS", "H", "VGG"),
            corner="kernel",
        ),
        "training-images": Table(
            "training_images",
            ("target=H",),
            {str(count): f"train_rows={count}" for count in (10, 20, 40, 80, 128)},
            {"VGG-16, trained": (VGG,)},
            corner="images",
        ),
    },
    "photographs": {
        "photographs-stages": Table(
            "stages",
            (),
            STAGES,
            {
                f"{label}: {target}": (network, f"target={target}")
                for label, network in (
                    ("trained, zeros", VGG),
                    ("trained, no padding", UNPADDED),
                    ("untrained, zeros", UNTRAINED),
                )
                for target in TARGETS
            },
        ),
        "photographs-pixels": Table(
            "stages",
            ("network=pixels", "input=full"),
            {target: f"target={target}" for target in TARGETS},
            {"plain pixels": ()},
        ),
        "lite0-stages": Table(
            "stages",
            (),
            STAGES,
            {
                f"{label}: {target}": (f"{LITE0}-{weights}", f"target={target}")
                for label, weights in (("trained", "lite0"), ("untrained", "random0"))
                for target in TARGETS
            },
        ),
        "sides": Table(
            "symmetry",
            ("input=full:f5",),
            {"H": "target=H", "abs-ramp:0": "target=abs-ramp:0", "V": "target=V", "abs-ramp:90": "target=abs-ramp:90"},
            {label: (f"network={network}",) for label, network in NETWORKS.items()},
        ),
        "kernels-symmetry": Records(
            "symmetry.json",
            {f"blocks.{layer}": {"layer": f"blocks.{layer}.conv_dw"} for layer in ("5.0", "5.1", "5.2", "5.3", "6.0")},
            {"left and right": {"field": "left_right"}, "up and down": {"field": "up_down"}},
            corner="layer",
        ),
        "variance": Records(
            "variance.json", MAPS, {label: {"network": network} for label, network in NETWORKS.items()}, digits=3
        ),
        "directions": Records(
            "variance.json",
            {name: chosen | {"field": "directions"} for name, chosen in MAPS.items()},
            {label: {"network": network} for label, network in NETWORKS.items()},
            digits=0,
        ),
        "rings": Records(
            "rings.json",
            {f"{ring}": {"outer": (ring - 1) / 7, "field": "spc"} for ring in range(1, 8)},
            {label: {"network": network, "target": "H"} for label, network in NETWORKS.items()},
            corner="ring, from the edge",
        ),
        "erasure": Table(
            "erasure",
            (f"{LITE0}-lite0", "input=full:f4"),
            {target: f"target={target}" for target in (*TARGETS, "HS", "VS")},
            {"as they are": ("erase=none",), "H and V erased": ("erase=H+V",)},
        ),
        "erased-inside": Table(
            "erased_inside",
            (),
            {name: condition for name, condition in STAGES.items() if name in ("f3", "f4", "f5")},
            {target: (f"target={target}",) for target in TARGETS},
        ),
        "accuracy": Records(
            "accuracy.json",
            {"top-1": {"field": "top1"}},
            {},
            digits=3,
        ),
    },
}
"""The tables by their names, by the set of runs that they are from."""


def _read_number(results: Sequence[Any], archive: Any, conditions: Sequence[str]) -> list[float | None]:
    """Return the SPC of one kind of head and its 95 % bounds, seeds pooled; raises ValueError if heads of several kinds fit."""
    from posenet_store.report.records import get_fields, select_results
    from posenet_store.report.scores import pool_seeds
    from posenet_store.sweep.cell import HELD_OUT

    heads = select_results(results, conditions)
    kinds = {str(get_fields(head) | {"seed": None}) for head in heads}
    if len(kinds) != 1:
        raise ValueError(f"{len(kinds)} kinds of heads have {', '.join(conditions)}")
    score = pool_seeds(heads, HELD_OUT, archive)
    numbers = (score.spc, *(score.spc_bounds or (None, None)))
    return [None if number is None else round(number, DIGITS) for number in numbers]


def collect(table: Table, folder: Path) -> dict[str, Any]:
    """Return a table's numbers, [SPC, low, high] a column, from its run; published ones as texts.

    Raises UsageError if the run lacks one.
    """
    from posenet_store.report import published
    from posenet_store.report.load import load_runs

    loaded = load_runs([folder / table.run])
    results, archive = loaded.results, loaded.open_archive()
    rows = [
        [label, [_read_number(results, archive, (*table.where, *own, column)) for column in table.columns.values()]]
        for label, own in table.rows.items()
    ]
    if table.published:
        label, name, target, model = table.published
        pairs = {str(column): pair for column, pair in getattr(published, name).at(target, model).items()}
        rows.append([label, [format_score(pairs[column][0], 3) if column in pairs else "" for column in table.columns]])
    return {"corner": table.corner, "columns": list(table.columns), "rows": rows}


def collect_records(table: Records, folder: Path) -> dict[str, Any]:
    """Return a table's numbers as `collect` does; raises ValueError if not exactly one record fits an entry."""
    records = json.loads((folder / table.file).read_text(encoding="utf-8"))
    rows = table.rows or {record["network"]: {"network": record["network"]} for record in records}

    def read(row: Mapping[str, object], column: Mapping[str, object]) -> list[float | None]:
        chosen = dict(row) | dict(column)
        field = str(chosen.pop("field"))
        fitting = [record for record in records if all(_fits(record.get(name), value) for name, value in chosen.items())]
        if len(fitting) != 1:
            raise ValueError(f"{len(fitting)} records of {table.file} have {chosen}")
        numbers = (fitting[0].get(name) for name in (field, f"{field}_low", f"{field}_high"))
        return [None if number is None else round(number, DIGITS) for number in numbers]

    entries = [[label, [read(row, column) for column in table.columns.values()]] for label, row in rows.items()]
    return {"corner": table.corner, "columns": list(table.columns), "rows": entries, "digits": table.digits}


def _fits(value: Any, wanted: object) -> bool:
    return isclose(value, wanted, abs_tol=1e-6) if isinstance(wanted, float) and value is not None else bool(value == wanted)


def format_score(number: float | None, digits: int = 2) -> str:
    """Return a number as the findings print it.

    >>> format_score(0.894), format_score(None), format_score(-0.031), format_score(-0.001), format_score(0.5, digits=3)
    ('.89', 'undefined', '-.03', '.00', '.500')
    """
    return "undefined" if number is None else re.sub(r"^(-?)0\.", r"\1.", f"{round(number, digits) + 0.0:.{digits}f}")


def render_table(table: Mapping[str, Any]) -> str:
    """Return a table as Markdown; published numbers are texts.

    >>> print(render_table({"corner": "", "columns": ["f1"], "rows": [["VGG", [[0.894, 0.88, 0.9]]]]}), end="")
    | | f1 |
    |---|---|
    | VGG | .89 |
    """
    digits = table.get("digits", 2)
    rows = [[label, *(e if isinstance(e, str) else format_score(e[0], digits) for e in row)] for label, row in table["rows"]]
    head, *body = (
        "".join(f"| {text} " if text else "| " for text in row) + "|" for row in ([table["corner"], *table["columns"]], *rows)
    )
    return "\n".join([head, "|" + "---|" * (1 + len(table["columns"])), *body]) + "\n"


def read_tables() -> dict[str, Mapping[str, Any]]:
    """Return the numbers of the tables by name, of all sets."""
    return json.loads(NUMBERS.read_text(encoding="utf-8")) if NUMBERS.is_file() else {}


def render_findings(text: str, tables: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the page with its tables filled in.

    >>> render_findings("<!-- table: x -->\\nas it was\\n<!-- /table -->", {})
    '<!-- table: x -->\\nas it was\\n<!-- /table -->'
    """

    def fill(match: re.Match[str]) -> str:
        table = tables.get(match[2])
        return match[0] if table is None else match[1] + render_table(table) + match[3]

    return TABLE.sub(fill, text)


def main(name: str, folder: str) -> None:
    """Collect the tables of a set whose runs are there, say which are not, and render the page."""
    tables = read_tables()
    for table_name, table in SETS[name].items():
        source = Path(folder) / (table.run if isinstance(table, Table) else table.file)
        if source.exists():
            tables[table_name] = (
                collect(table, Path(folder)) if isinstance(table, Table) else collect_records(table, Path(folder))
            )
        else:
            sys.stderr.write(f"{table_name}: there is no {source}\n")
    NUMBERS.write_text(json.dumps(tables, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(render_findings(PAGE.read_text(encoding="utf-8"), tables), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:3])
