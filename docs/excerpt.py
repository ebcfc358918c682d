"""Put what `make demo` found into README.md: the excerpt of Table 2, and the figure of kernels.

python docs/excerpt.py [runs]    takes runs/demo and runs/kernel_size
"""

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[1]
README, FIGURE = ROOT / "README.md", ROOT / "docs/images/kernels.png"
BLOCK = re.compile(r"(This is an excerpt.*?\n\n```\n).*?(```\n)", re.DOTALL)
TARGET = "H"
COLUMNS = {"network": "network", "numbers": "numbers", "natural": "natural SPC / MAE", "photos": "photos SPC / MAE"} | {
    "noise": "noise SPC / MAE",
    "p": "natural p",
}
"""The excerpt's columns, and what they are called in Table 2."""
SOURCES = ("ours: ridge", "published: report")
BOTH = "vgg16-hed"
"""The network of which the report's own protocol is shown too."""


def choose_rows(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[list[str]]:
    """Return the excerpt's rows of Table 2: of one target the exact heads, and VGG's published numbers and protocol.

    >>> rows = [["H", "a", "ours: ridge"], ["V", "a", "ours: ridge"], ["H", "a", "baseline"]]
    >>> choose_rows(["target", "network", "numbers"], rows)
    [['H', 'a', 'ours: ridge']]
    """
    of = {name: head.index(name) for name in ("target", "network", "numbers")}
    wanted = [row for row in rows if row[of["target"]] == TARGET and row[of["network"]] != "PosENet"]
    return [list(row) for row in wanted if row[of["numbers"]] in SOURCES or (row[of["network"]] == BOTH)]


def format_excerpt(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return the excerpt as text in columns.

    >>> print(format_excerpt(list(COLUMNS.values()), [["pixels", "ours", ".05", "", ".1", "1.0"]]), end="")
    network  numbers  natural  photos  noise  p
    pixels   ours     .05              .1     1.0
    """
    table = [list(COLUMNS), *([row[head.index(name)] for name in COLUMNS.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in table)
    return "".join(f"{line}\n" for line in lines)


def main(runs: str = "runs") -> None:
    """Write the excerpt and the figure."""
    from posenet_store.report.run import open_run
    from posenet_store.report.text_table import join_entry

    table = open_run(Path(runs) / "demo").table2()
    rows = choose_rows(table.head, [[join_entry(entry) for entry in row] for row in table.rows])
    text = README.read_text(encoding="utf-8")
    README.write_text(BLOCK.sub(lambda match: match[1] + format_excerpt(table.head, rows) + match[2], text), encoding="utf-8")
    (figure,) = (picture for picture in open_run(Path(runs) / "kernel_size").pictures() if picture.name == "kernels")
    with TemporaryDirectory() as folder:
        figure.save(Path(folder))
        FIGURE.write_bytes((Path(folder) / "kernels.png").read_bytes())


if __name__ == "__main__":
    main(*sys.argv[1:2])
