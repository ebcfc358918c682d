"""A table to print: rows for people, with aligned numbers, and flat records for programs."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from posenet_store.errors import printable
from posenet_store.sweep.tables import format_csv

Entry = str | tuple[str, ...]
"""Text, or the parts of a number: ("+.012", "[.003,", ".021]"); an absent part is empty."""


@dataclass(frozen=True, repr=False)
class Listing:
    """Headings, rows with an Entry a heading, and flat records with the same facts at full precision."""

    head: list[str]
    rows: Sequence[Sequence[Entry]]
    records: list[dict[str, Any]]

    def terminal(self) -> list[list[str]]:
        """Return the rows as text, with the numbers of a column aligned part by part."""
        return [list(row) for row in zip(*map(align_column, zip(*self.rows, strict=True)), strict=True)]

    def markdown(self) -> str:
        """Return the table as Markdown."""
        lines = [self.head, ["---"] * len(self.head), *([join_entry(entry) for entry in row] for row in self.rows)]
        return "\n".join("| " + " | ".join(map(escape_markdown, line)) + " |" for line in lines)

    def csv(self) -> str:
        """Return the records as CSV; an undefined number is an empty field."""
        return format_csv(self.records)

    def __repr__(self) -> str:
        return self.markdown()

    def _repr_html_(self) -> str:
        """Return the table for a notebook, with all text escaped."""
        lines = [(self.head, "th"), *((row, "td") for row in self.rows)]
        cells = ("".join(f"<{tag}>{escape(join_entry(entry))}</{tag}>" for entry in line) for line, tag in lines)
        return f"<table>{''.join(f'<tr>{text}</tr>' for text in cells)}</table>"


def escape_markdown(text: str) -> str:
    """Return a text so that it makes no column, no HTML and no link or image of a Markdown table.

    >>> escape_markdown("a|b <script>"), escape_markdown("![x](http://x)"), escape_markdown("<.0001 [.1, .2]")
    ('a\\\\|b &lt;script>', '![x]\\\\(http://x)', '<.0001 [.1, .2]')
    """
    text = printable(text).replace("|", "\\|").replace("](", "]\\(")
    return re.sub("<(?=[A-Za-z/!?])", "&lt;", text)


def join_entry(entry: Entry) -> str:
    """Return an entry as one text.

    >>> join_entry(("+.012", "", ".021"))
    '+.012 .021'
    """
    return entry if isinstance(entry, str) else " ".join(part for part in entry if part)


def align_column(column: Sequence[Entry]) -> list[str]:
    """Return a column's entries as text: each part of the numbers padded on its left, texts as they are.

    >>> align_column([("-.012", "[-.03,", ".01]"), ("+.1", "", ""), "none"])
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


def format_number(number: float | None) -> str:
    """Return three decimals without the leading zero; large numbers in short scientific form.

    >>> format_number(0.25), format_number(-1.5), format_number(1234.5), format_number(None)
    ('.250', '-1.500', '1.2e+03', 'undef.')
    """
    if number is None:
        return "undef."
    if abs(number) >= 100:
        return f"{number:.1e}"
    return f"{number:.3f}".replace("0.", ".", 1) if abs(number) < 1 else f"{number:.3f}"


def format_interval(bounds: tuple[float, float] | None) -> str:
    """Return an interval as text, nothing without one.

    >>> format_interval((0.371, 0.41)), format_interval(None)
    ('[.371, .410]', '')
    """
    return f"[{format_number(bounds[0])}, {format_number(bounds[1])}]" if bounds else ""


def format_p(p: float | None) -> str:
    """Return a p value with four decimals, a smaller one as such.

    >>> format_p(0.0001), format_p(1.0), format_p(1e-9), format_p(None)
    ('.0001', '1.0000', '<.0001', '')
    """
    if p is None:
        return ""
    return "<.0001" if p < 0.0001 else f"{p:.4f}".removeprefix("0")
