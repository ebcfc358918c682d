"""A table to print: rows for people, whose numbers stand below each other in a terminal, and records for programs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from posenet_store.sweep.results import rows_as_csv

StoreInfo = str | tuple[str, ...]
"""Text, or the parts of a number: ("+.012", "[.003,", ".021]"); an absent part is empty."""


@dataclass(frozen=True)
class Listing:
    """Headings, rows with an Entry a heading, and flat records with the same facts at full precision."""

    head: list[str]
    rows: Sequence[Sequence[StoreInfo]]
    records: list[dict[str, Any]]

    def terminal(self) -> list[list[str]]:
        """Return the rows as text, numbers of a column aligned part by part."""
        return [list(row) for row in zip(*map(aligned, zip(*self.rows, strict=True)), strict=True)]

    def markdown(self) -> str:
        """Return the table as Markdown."""
        ruled = [self.head, ["---"] * len(self.head), *([joined(entry) for entry in row] for row in self.rows)]
        return "\n".join("| " + " | ".join(text.replace("|", "\\|") for text in row) + " |" for row in ruled)

    def csv(self) -> str:
        """Return the records as CSV; an undefined number is an empty field."""
        return rows_as_csv(self.records)


def joined(entry: StoreInfo) -> str:
    """Return an entry as one text.

    >>> joined(("+.012", "", ".021"))
    '+.012 .021'
    """
    return entry if isinstance(entry, str) else " ".join(part for part in entry if part)


def aligned(column: Sequence[StoreInfo]) -> list[str]:
    """Return a column's entries as text: each part of the numbers padded on its left, texts as they are.

    >>> aligned([("-.012", "[-.03,", ".01]"), ("+.1", "", ""), "none"])
    ['-.012 [-.03, .01]', '  +.1', 'none']
    """
    numbers = [entry for entry in column if not isinstance(entry, str)]
    widths = [max(map(len, parts)) for parts in zip(*numbers, strict=True)]
    return [
        entry
        if isinstance(entry, str)
        else " ".join(part.rjust(width) for part, width in zip(entry, widths, strict=True) if width).rstrip()
        for entry in column
    ]


def short(number: float | None) -> str:
    """Return three decimals without the leading zero; large numbers in short scientific form.

    >>> short(0.25), short(-1.5), short(1234.5), short(None)
    ('.250', '-1.500', '1.2e+03', 'undef.')
    """
    if number is None:
        return "undef."
    if abs(number) >= 100:
        return f"{number:.1e}"
    return f"{number:.3f}".replace("0.", ".", 1) if abs(number) < 1 else f"{number:.3f}"
